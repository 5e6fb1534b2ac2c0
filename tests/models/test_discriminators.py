"""Parity with the recorded full-size discriminators, and what holds for any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.export.torch import from_torch, to_torch
from jaxcodec.losses.adversarial import (
    discriminator_loss,
    feature_loss,
    generator_loss,
)
from jaxcodec.models.discriminators import DiscriminatorConfig, Discriminators, level
from jaxcodec.modules.policy import Policy
from tests.micro import MICRO_DISCRIMINATORS

PUBLISHED = DiscriminatorConfig()


WAVEFORM = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)


def shapes_of(model):
    waveform = jnp.zeros((1, model.config.enough_samples))
    return jax.eval_shape(model.init, jax.random.key(0), waveform)


@pytest.fixture(scope="module")
def recording(load_reference):
    return load_reference("discriminator")


@pytest.fixture(scope="module")
def ran(recording, draw_weights, forget_programs):
    """Everything that was recorded, from one program."""
    shapes = shapes_of(Discriminators(PUBLISHED))
    tensors = draw_weights("discriminator", recording["state"])
    variables = from_torch(tensors, shapes, PUBLISHED)
    model = Discriminators(PUBLISHED)

    @jax.jit
    def run(variables, real, fake):
        def judged(variables, fake):
            both = model.apply(variables, jnp.concatenate([real, fake]))
            halves = [jnp.split(features, 2) for features in jax.tree.leaves(both)]
            tree = jax.tree.structure(both)
            return tuple(tree.unflatten(side) for side in zip(*halves, strict=True))

        (reals, fakes), pull = jax.vjp(judged, variables, fake)

        def deceived(fakes):
            generator, feature = generator_loss(fakes), feature_loss(reals, fakes)
            return jnp.mean(generator + 2 * feature), (generator, feature)

        def mean(reals, fakes):
            loss = discriminator_loss(reals, fakes)
            return jnp.mean(loss), loss

        slopes, (generator, feature) = jax.grad(deceived, has_aux=True)(fakes)
        grad_fake = pull((jax.tree.map(jnp.zeros_like, reals), slopes))[1]
        slopes, discriminator = jax.grad(mean, (0, 1), has_aux=True)(reals, fakes)
        return {
            "real": reals,
            "fake": fakes,
            "loss/generator": generator,
            "loss/feature": feature,
            "loss/discriminator": discriminator,
            "loss/grad_fake": grad_fake,
            "gradient": pull(slopes)[0],
        }

    arrays = (jnp.asarray(recording[name]) for name in ("real", "fake"))
    yield run(variables, *arrays)
    forget_programs()


def as_recorded(head, features):
    """`b c t p` or `b c t f`, from `b t p c` of a period or `b f t c` of a spectrum."""
    axes = (0, 3, 1, 2) if head < len(PUBLISHED.periods) else (0, 3, 2, 1)
    return np.asarray(features).transpose(axes)


def test_totals(recording):
    shapes = shapes_of(Discriminators(PUBLISHED))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 42_519_760
    assert len(jax.tree.leaves(shapes)) == len(recording["state"]) == 324


def test_level(recording, close):
    close(level(jnp.asarray(recording["preprocess/in"])), recording["preprocess/out"])
    assert not level(jnp.zeros((1, 9))).any()


def test_the_gradient_of_a_peak_goes_to_one_place(close):
    """Not to all that equal it, of which a program may find none: 0 by 0."""
    waveform, weights = np.float32([[1, -1, 0.5, -0.5]]), np.float32([[3, 1, -2, 4]])
    found = jax.grad(lambda x: jnp.sum(weights * level(x)))(jnp.asarray(waveform))
    expected = 0.8 * weights.astype(float)  # the peak is 1, the mean 0
    expected[0, 0] -= 0.8 * np.sum(weights * waveform)
    close(found, expected - expected.mean(), 1e-6)
    assert not np.isnan(jax.grad(lambda x: jnp.sum(level(x)))(jnp.zeros((1, 9)))).any()


def test_verdicts(ran, recording, close):
    assert len(ran["real"]) == len(ran["fake"]) == 8
    for side in ("real", "fake"):
        for i, maps in enumerate(ran[side]):
            verdict = as_recorded(i, maps[-1])[:, 0]
            close(verdict, recording[f"{side}/d{i}/logits"], of=f"{side} {i}")


def test_feature_maps(ran, recording, close):
    ends = np.cumsum(recording["maps/num_sampled"])[:-1]
    sampled = np.split(recording["maps/stride997"], ends)
    names = recording["maps/names"].tolist()
    made = {
        f"fake/d{i}/map{j}": as_recorded(i, features)
        for i, maps in enumerate(ran["fake"])
        for j, features in enumerate(maps)
    }
    assert set(names) == set(made)
    for k, name in enumerate(names):
        array, peak = made[name].astype(np.float64), recording["maps/stats"][k][3]
        assert array.shape == tuple(recording["maps/shape"][k]), name
        flat = array.ravel()
        norm = np.linalg.norm(flat)
        stats = flat.mean(), flat.std(ddof=1), norm, np.abs(flat).max()
        expected = recording["maps/stats"][k]
        np.testing.assert_allclose(stats, expected, rtol=1e-4, atol=1e-5 * peak)
        # samples beside the peak, so that the error is of the peak
        few = np.r_[flat[::997][:256], flat[:16], peak]
        expected = np.r_[sampled[k], recording["maps/first16"][k], peak]
        close(few, expected, of=name)


def test_losses(ran, recording, close):
    for name in ("generator", "feature", "discriminator"):
        close(ran[f"loss/{name}"], recording[f"loss/{name}"], 1e-5)


def test_gradients(ran, recording, close):
    close(ran["loss/grad_fake"], recording["loss/grad_fake"])
    tensors = to_torch(ran["gradient"], PUBLISHED)
    names = recording["param_names"].tolist()
    assert set(names) == set(tensors)
    norms = np.array([np.linalg.norm(tensors[n].astype(np.float64)) for n in names])
    close(norms, recording["loss/discriminator_grad_norm"])
    large = norms > 1e-4 * norms.max()
    expected = recording["loss/discriminator_grad_norm"][large]
    np.testing.assert_allclose(norms[large], expected, rtol=1e-3)


@pytest.fixture(scope="module")
def small():
    """A small model, its variables and its feature maps of `WAVEFORM`."""
    model = Discriminators(MICRO_DISCRIMINATORS)
    waveform = jnp.zeros((1, MICRO_DISCRIMINATORS.enough_samples))
    variables = jax.jit(model.init)(jax.random.key(0), waveform)
    apply = jax.jit(model.apply)
    return variables, apply, apply(variables, WAVEFORM)


def test_loudness_offset_and_company_tell_nothing(small):
    variables, apply, maps = small
    other = 0.01 * WAVEFORM[::-1] - 0.3
    for ours, theirs in zip(
        jax.tree.leaves(maps), jax.tree.leaves(apply(variables, other)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs[::-1], atol=1e-4)


def test_bfloat16_keeps_parameters_and_shapes(small):
    variables, _, exact = small
    model = Discriminators(MICRO_DISCRIMINATORS, Policy(compute_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(model))} == {
        jnp.dtype("float32")
    }
    maps = jax.jit(model.apply)(variables, WAVEFORM)
    for ours, theirs in zip(jax.tree.leaves(maps), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.bfloat16
        ours = np.asarray(ours, np.float32)
        np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


def test_short_waveforms():
    model = Discriminators(MICRO_DISCRIMINATORS)
    shapes = shapes_of(model)  # of the shortest that is sure to be long enough
    with pytest.raises(ValueError, match=r"waveform has 10 samples, .* than 18: pad"):
        jax.eval_shape(model.apply, shapes, jnp.zeros((1, 10)))
    unfit = Discriminators(DiscriminatorConfig(windows=(), periods=(7,)))
    assert unfit.config.enough_samples == 8
    shapes_of(unfit)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("windows", (512, 100), r"windows \[100\] are no multiples of 8"),
        ("periods", (2, 0), r"periods are \(2, 0\): each must be at least 1"),
        ("band_edges", (0, 0.5, 0.5, 1), r"\(0, 0.5, 0.5, 1\): they must rise from 0"),
        ("band_edges", (0, 0.5), r"\(0, 0.5\): they must rise from 0 to 1"),
    ],
)
def test_configs_that_cannot_be(field, value, message):
    with pytest.raises(ValueError, match=message):
        DiscriminatorConfig(**{field: value})


def test_a_config_without_discriminators():
    with pytest.raises(ValueError, match="neither periods nor windows are given"):
        DiscriminatorConfig(periods=(), windows=())
