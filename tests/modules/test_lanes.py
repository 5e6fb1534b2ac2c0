import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxcodec.modules.lane_attention import attend
from jaxcodec.modules.lanes import Lanes, enter, leave
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinStage

POLICIES = {
    "channels": Policy(),
    "tiles": Policy(layout="tiles"),  # the examples beside each other
    # one example after the other
    "apart": Policy(layout="tiles", remat=True),
    "lanes": Policy(layout="lanes", remat=True),
    "bfloat16": Policy(layout="lanes", compute_dtype="bfloat16"),
}
ROWS = (8, 4, 2)


class Pyramid(nn.Module):
    """Eight rows to two, half a window, and up again; the last stage has no blocks."""

    policy: Policy

    @nn.compact
    def __call__(self, features, present=None):
        lanes = Lanes.fitting(self.policy, 4, ROWS, features.shape[0], 12)
        assert (lanes is None) == (self.policy.layout == "channels")
        if self.policy == POLICIES["apart"]:
            lanes = dataclasses.replace(lanes, beside=1)
        features = enter(lanes, features)
        scales = ((6, False, 2), (8, False, 2), (6, True, 2), (4, True, 0))
        for channels, up, depth in scales:
            stage = SwinStage(2, channels, up, depth, policy=self.policy)
            features = stage(features, present, False, lanes)
        return leave(lanes, features)


@pytest.fixture(scope="module")
def by_policy(features, filled):
    """Outputs with and without absent frames, and gradients where they are compared."""
    grid = features(2, 8, 12, 4)
    variables = filled(Pyramid(POLICIES["channels"]), grid)
    present = jnp.asarray([[1] * 12, [0] * 2 + [1] * 7 + [0] * 3], jnp.float32)

    def both(variables, grid, policy):
        made = Pyramid(policy).apply(variables, grid, present)
        whole = Pyramid(policy).apply(variables, grid)
        return made * present[:, None, :, None], whole

    def energy(variables, grid, policy):
        made = both(variables, grid, policy)
        return jnp.sum(jnp.sin(made[0])), made

    run = jax.jit(both, static_argnums=2)
    learn = jax.jit(jax.grad(energy, (0, 1), has_aux=True), static_argnums=2)
    made, slopes = {}, {}
    for name in ("channels", "apart", "lanes"):
        slopes[name], made[name] = learn(variables, grid, POLICIES[name])
    for name in ("tiles", "bfloat16"):
        made[name] = run(variables, grid, POLICIES[name])
    return made, slopes


@pytest.mark.parametrize("name", ["tiles", "apart", "lanes"])
def test_layouts_compute_the_same(by_policy, name, close):
    made, _ = by_policy
    for ours, plain in zip(made[name], made["channels"], strict=True):
        close(ours, plain, 1e-5)


@pytest.mark.parametrize("name", ["apart", "lanes"])
def test_layouts_have_the_same_gradients(by_policy, close, name):
    _, slopes = by_policy
    ours, plain = (ravel_pytree(slopes[kind])[0] for kind in (name, "channels"))
    close(ours, plain, 1e-5)


def test_gradients_of_attention_begin_with_what_is_made():
    """Else a TPU's compiler draws the making into every chain of sums, without end.

    That could only be seen there; the barrier before the chains can be seen here.
    """
    qkv, bias = jnp.zeros((3, 2, 4, 16, 8)), jnp.zeros((2, 16, 16))

    def energy(qkv):
        return jnp.sum(attend(qkv, bias, None, None, 4))

    module = jax.jit(jax.grad(energy)).lower(qkv).as_text()
    held = [
        line.partition("optimization_barrier ")[2].partition(" :")[0].split(", ")
        for line in module.splitlines()
        if "optimization_barrier " in line
    ]
    # both factors and the slope, of queries and keys as of weights and values
    assert [len(set(names)) for names in held] == [3, 3]


def test_bfloat16_is_close(by_policy, close):
    made, _ = by_policy
    for ours, plain in zip(made["bfloat16"], made["channels"], strict=True):
        assert ours.dtype == jnp.float32
        assert close(ours, plain, 3e-2) > 1e-5  # it is another computation


@pytest.mark.parametrize("beside", [1, 2, 4])
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_moves_are_undone(features, beside, rows):
    grid = features(4, rows, 8, 2)
    lanes = Lanes(4, 4, beside)
    held = lanes.enter(grid)
    assert held.shape[-1] == 2 * beside
    one = Lanes(1, 4)  # an example is held as if it were alone
    alone = jnp.concatenate([one.enter(grid[i : i + 1]) for i in range(beside)], -1)
    np.testing.assert_array_equal(held[:: lanes.groups], alone)
    np.testing.assert_array_equal(lanes.leave(held), grid)
    shifted = lanes.shift(held)
    assert not np.array_equal(shifted, held)
    np.testing.assert_array_equal(lanes.shift(shifted, back=True), held)
    if rows > 2:
        stacked = jnp.stack([grid[:, ::2], grid[:, 1::2]], axis=3)
        stacked = stacked.reshape(4, rows // 2, 8, 4)
        np.testing.assert_array_equal(lanes.leave(lanes.pair(held)), stacked)
        np.testing.assert_array_equal(lanes.unpair(lanes.pair(held)), held)


@pytest.mark.parametrize("beside, windows", [(1, 2), (2, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_shifted_rows_are_written_back_where_they_were(features, beside, windows, rows):
    lanes = Lanes(4, 4, beside)
    held = lanes.enter(features(4, rows, 4 * windows, 3))
    height = held.shape[2]
    others = features(len(held), height * 4, held.shape[-1])

    def run(scale, row, other):
        tokens = jnp.cumsum(row.reshape(len(row), -1, row.shape[-1]), axis=1)
        return (scale * tokens * other).reshape(row.shape)  # a token's place matters

    there = lanes.shift(held)
    given = zip(there, others, strict=True)
    moved = jnp.stack([run(0.5, *rows) for rows in given])
    back = lanes.shift(moved, back=True)
    for in_place in (True, False):
        lanes = dataclasses.replace(lanes, in_place=in_place)
        made = lanes.each(run, 0.5, held, others, shifted=True)
        np.testing.assert_allclose(made, back, rtol=1e-6)


def test_as_many_examples_lie_beside_each_other_as_fill_vectors():
    """And no more: a row of all their windows would not fit the cache."""
    tiles, lanes = Policy(layout="tiles"), Policy(layout="lanes")
    for batch, frames, beside in ((1, 300, 1), (4, 300, 1), (4, 100, 4), (6, 128, 2)):
        held = Lanes.fitting(tiles, 4, (8, 4), batch, frames)
        assert (held.beside, held.at_once) == (beside, False)
    held = Lanes.fitting(lanes, 4, (8, 4), 6, 300)
    assert (held.beside, held.groups, held.at_once) == (6, 1, True)


@pytest.mark.parametrize(
    ("policy", "window", "rows", "batch", "frames"),
    [
        (Policy(), 4, (8, 4), 1, 8),
        (Policy(layout="tiles"), 3, (9, 3), 1, 9),
        (Policy(layout="tiles"), 4, (8, 4), 1, 10),
        (Policy(layout="lanes"), 4, (12, 6), 1, 8),
        (Policy(layout="lanes"), 4, (8, 4), "b", 8),
    ],
)
def test_what_does_not_fit_is_channels_last(policy, window, rows, batch, frames):
    assert Lanes.fitting(policy, window, rows, batch, frames) is None


DIVIDED = """
import re
import jax, jax.numpy as jnp
from jaxcodec import parallel
from jaxcodec.modules.lanes import Lanes
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinStage

mesh, policy = parallel.data_mesh(), Policy(layout="lanes")
rows, same = parallel.batch_sharding(mesh), parallel.replicated(mesh)
stage, lanes = SwinStage(2, 12, policy=policy), Lanes.fitting(policy, 4, (8, 4), 16, 16)

def run(weights, features, present):
    grid = stage.apply(weights, lanes.enter(features), present, False, lanes)
    return jnp.sum(jnp.sin(lanes.leave(grid)))

struct = lambda shape, where: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
features, present = struct((16, 8, 16, 6), rows), struct((16, 16), rows)
weights = jax.eval_shape(
    lambda x: stage.init(jax.random.key(0), lanes.enter(x), None, False, lanes),
    features,
)
weights = jax.tree.map(lambda leaf: struct(leaf.shape, same), weights)
made = jax.jit(jax.grad(run)).lower(weights, features, present)
kinds = r" (all-[a-z-]+|collective-permute|reduce-scatter)[-(.]"
print(*sorted(set(re.findall(kinds, made.compile().as_text()))))
text = made.as_text()
print(max(map(len, text.splitlines())))
"""


def test_lanes_stay_divided_among_devices():
    """Only gradients travel, and no constant holds something of every example."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", DIVIDED], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kinds, longest = done.stdout.splitlines()
    assert kinds == "all-reduce"
    assert int(longest) < 10_000
