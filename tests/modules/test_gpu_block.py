"""The kernel runs by interpretation here; `tools.compile_for_pod` compiles it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxcodec.modules import gpu_block
from jaxcodec.modules.gpu_kernel import erf, powers
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinBlock

FUSED = Policy(layout="fused", interpret=True)
# examples, rows, frames, channels, heads, shifted
SHAPES = {
    "one program": (1, 4, 16, 6, 2, False),
    "three windows": (1, 4, 12, 6, 3, True),
    "two examples in a program": (2, 8, 12, 8, 2, True),
    "not covered": (2, 6, 19, 6, 2, False),
    "not covered, shifted": (2, 6, 19, 6, 2, True),
    "half windows": (3, 2, 12, 8, 2, False),
    "half windows, shifted": (3, 2, 12, 8, 2, True),
    "wide heads": (1, 4, 16, 40, 2, False),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def case(request, features, filled):
    """A block, its variables, a grid, and frames of which some do not exist."""
    *shape, heads, shifted = request.param
    grid = features(*shape)
    present = (jnp.arange(shape[2]) < shape[2] - 5).astype(jnp.float32)
    present = jnp.broadcast_to(present, (shape[0], shape[2])).at[0, :2].set(0.0)
    plain = SwinBlock(heads, shifted=shifted)
    fused = SwinBlock(heads, shifted=shifted, policy=FUSED)
    return plain, fused, filled(plain, grid), grid, present


def test_a_block_is_the_same(case, close):
    plain, fused, variables, grid, present = case

    def both(block):
        given = (variables, grid)
        return jax.jit(lambda v, x, p: (block.apply(v, x), block.apply(v, x, p)))(
            *given, present
        )

    for ours, expected in zip(both(fused), both(plain), strict=True):
        close(ours, expected, 2e-6)


def test_gradients_are_the_same(features, filled, close):
    """By those of the plain block, so that they need not be as close as its output."""
    grid = features(1, 4, 16, 6)
    present = (jnp.arange(16) < 11).astype(jnp.float32)[None]
    block = SwinBlock(2, shifted=True)
    variables = filled(block, grid)

    def slopes(policy):
        block = SwinBlock(2, shifted=True, policy=policy)

        def energy(variables, grid):
            return jnp.sum(jnp.sin(block.apply(variables, grid, present)))

        return ravel_pytree(jax.jit(jax.grad(energy, (0, 1)))(variables, grid))[0]

    close(slopes(FUSED), slopes(Policy()), 1e-5)


def test_bfloat16_is_close(features, filled, close):
    grid = features(1, 8, 8, 20)
    plain = SwinBlock(2, shifted=True)
    variables = filled(plain, grid)
    policy = Policy(layout="fused", interpret=True, compute_dtype="bfloat16")
    made = jax.jit(SwinBlock(2, shifted=True, policy=policy).apply)(variables, grid)
    assert made.dtype == jnp.float32
    assert close(made, jax.jit(plain.apply)(variables, grid), 2e-2) > 1e-5


def test_absent_frames_are_not_seen(features, filled, close):
    grid = features(1, 4, 16, 6)
    block = SwinBlock(2, shifted=True, policy=FUSED)
    variables = filled(SwinBlock(2), grid)
    run = jax.jit(block.apply)
    present = (jnp.arange(16) < 9).astype(jnp.float32)[None]
    loud = jnp.where(present[:, None, :, None] > 0, grid, 100.0)
    made = run(variables, loud, present)[:, :, :9]
    close(made, run(variables, grid, present)[:, :, :9], 1e-6)
    assert np.abs(np.asarray(run(variables, loud)[:, :, :9] - made)).max() > 1e-3


def test_erf():
    x = np.linspace(-6, 6, 100_001, dtype=np.float32)
    expected = [math.erf(value) for value in x]
    assert np.abs(np.asarray(erf(jnp.asarray(x))) - expected).max() < 1.2e-7
    assert np.isnan(erf(jnp.asarray([np.nan])))[0]


def test_widths_are_cut_to_powers_of_two():
    assert powers(6) == powers(16) == [(0, 16)]
    assert powers(45) == [(0, 32), (32, 16)]
    assert powers(112) == [(0, 64), (64, 32), (96, 16)]


def test_what_does_not_fit_is_computed_layer_by_layer(features, filled, monkeypatch):
    def fits(channels, window=4, dtype="float32", batch=1, heads=3):
        return gpu_block.fits((batch, 4, 4, channels), heads, window, dtype)

    assert fits(96) and fits(192, dtype="bfloat16") and fits(6, 8)
    assert not fits(144) and not fits(384, dtype="bfloat16")
    assert not fits(6, 3) and not fits(6, 16)
    with jax.default_matmul_precision("highest"):
        assert fits(48) and fits(72, heads=6) and not fits(72)
        assert fits(72, dtype="bfloat16")
    assert not fits(6, batch=jax.export.symbolic_shape("b")[0])  # left open

    grid = features(1, 6, 6, 6)
    monkeypatch.setattr(gpu_block, "_once", None)
    block = SwinBlock(2, window=3, policy=Policy(layout="fused"))
    variables = filled(SwinBlock(2, window=3), grid)
    expected = SwinBlock(2, window=3).apply(variables, grid)
    np.testing.assert_array_equal(block.apply(variables, grid), expected)


def test_a_device_that_is_no_gpu_is_refused(features, filled):
    grid = features(1, 4, 4, 6)
    variables = filled(SwinBlock(2), grid)
    block = SwinBlock(2, policy=Policy(layout="fused"))
    with pytest.raises(ValueError, match="is a kernel for GPUs, but this program"):
        block.apply(variables, grid)


def test_products_are_as_exact_as_asked(features):
    """Which Pallas and XLA read off the same attribute of a product."""
    grid = features(1, 4, 4, 6)
    params = SwinBlock(2).init(jax.random.key(0), grid)

    def traced(precision):
        with jax.default_matmul_precision(precision):
            run = SwinBlock(2, policy=FUSED).apply
            return str(jax.make_jaxpr(run)(params, grid))

    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in traced("highest")
    assert "precision=(Precision.HIGH, Precision.HIGH)" in traced("tensorfloat32")
    assert "HIGHEST" not in traced("tensorfloat32")


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_can_be_written_for_a_gpu(shifted, dtype):
    """Of operations that Triton's Pallas has; XLA's compiler is not at hand here."""
    device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
    kind = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((1,), ("data",), kind, abstract_device=device)
    policy = Policy(layout="fused", compute_dtype=dtype)
    grid, present = jnp.zeros((2, 6, 19, 45)), jnp.ones((2, 19))
    params = SwinBlock(3).init(jax.random.key(0), grid)
    run = jax.jit(SwinBlock(3, shifted=shifted, policy=policy).apply)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = run.trace(params, grid, present)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 1
