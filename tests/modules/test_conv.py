import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.conv import BatchNorm, CausalConv, ConvStage, PReLU, UpConv


def test_batch_norm_uses_and_updates_statistics(features, filled, close):
    batch = 2 + 3 * features(2, 3, 5, 4)
    norm = BatchNorm()
    variables = filled(norm, batch, False)
    params, before = variables["params"], variables["batch_stats"]
    flat = np.asarray(batch, np.float64).reshape(-1, 4)

    made, updated = norm.apply(variables, batch, True, mutable=["batch_stats"])
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    close(made.reshape(-1, 4), expected, 1e-5)
    after = updated["batch_stats"]
    close(after["mean"], 0.9 * before["mean"] + 0.1 * flat.mean(0), 1e-5)
    # the running average is of the unbiased variance, as in PyTorch
    close(after["var"], 0.9 * before["var"] + 0.1 * flat.var(0, ddof=1), 1e-6)

    made = norm.apply(variables, batch, False)
    expected = (flat - before["mean"]) / np.sqrt(before["var"] + 1e-5)
    close(made.reshape(-1, 4), expected * params["scale"] + params["bias"], 1e-5)


def test_initialising_leaves_the_statistics_alone(features):
    variables = BatchNorm().init(jax.random.key(0), features(1, 2, 3, 4), True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(4))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(4))


LAYERS = {
    "same": (CausalConv(5), 6),
    "down": (CausalConv(5, stride=2), 3),
    "up": (UpConv(5), 12),
    "stage_down": (ConvStage(5, up=False), 3),
    "stage_up": (ConvStage(5, up=True), 12),
}


@pytest.mark.parametrize("name", LAYERS)
def test_later_frames_are_never_seen(name, features, filled):
    layer, rows = LAYERS[name]
    grid = features(1, 6, 9, 4)
    variables = filled(layer, grid)
    made = layer.apply(variables, grid)
    assert made.shape == (1, rows, 9, 5)
    other = layer.apply(variables, grid.at[:, :, 5:].add(1.0))
    np.testing.assert_array_equal(other[:, :, :5], made[:, :, :5])
    assert np.any(other[:, :, 5] != made[:, :, 5])


@pytest.mark.parametrize("name", LAYERS)
def test_absent_frames_leave_no_trace(name, features, filled, close):
    """Frames before the signal count as the zeros that a convolution pads with."""
    layer, _ = LAYERS[name]
    grid = features(1, 6, 9, 4)
    variables = filled(layer, grid)
    present = (jnp.arange(9) >= 3).astype(jnp.float32)[None]
    made = layer.apply(variables, grid, present)[:, :, 3:]
    close(made, layer.apply(variables, grid[:, :, 3:]), 1e-6)


def test_convolutions_are_centred_on_frequency(features, filled):
    layer = CausalConv(3)
    grid = features(1, 9, 4, 2)
    variables = filled(layer, grid)
    difference = layer.apply(variables, grid.at[:, 4].add(1.0)) - layer.apply(
        variables, grid
    )
    rows = np.flatnonzero(np.abs(difference).max(axis=(0, 2, 3)) > 1e-6)
    assert rows.tolist() == [2, 3, 4, 5, 6]


def test_up_conv_is_a_convolution_of_stuffed_rows(features, close):
    """Row 2f lies on input row f; the kernel reaches three rows up and one down."""
    kernel = features(5, 1, 1, 1, seed=2)
    coarse = features(1, 6, 3, 1)
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(1)}}
    made = UpConv(1, (5, 1)).apply(variables, coarse)
    stuffed = np.zeros(12 + 4)
    stuffed[3:-1:2] = coarse[0, :, 1, 0]
    expected = np.correlate(stuffed, np.asarray(kernel)[:, 0, 0, 0], "valid")
    assert made.shape == (1, 12, 3, 1)
    close(made[0, :, 1, 0], expected, 1e-5)


def test_prelu():
    prelu = PReLU()
    values = jnp.asarray([-2.0, 0.0, 3.0])
    slope = {"params": {"slope": jnp.asarray([0.1])}}
    np.testing.assert_allclose(prelu.apply(slope, values), [-0.2, 0, 3], rtol=1e-6)
