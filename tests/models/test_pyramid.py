import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.models.configs import ESCConfig, PyramidConfig
from jaxcodec.modules.conv import ConvStage
from jaxcodec.modules.swin import SwinStage


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"backbone": "mamba"},
            "backbone 'mamba' does not exist: use 'swin' or 'conv'",
        ),
        ({"heads": (3, 6)}, "2 head counts for 6 scales: give one for each of the 5"),
        ({"n_fft": 512}, "n_fft 512 gives 257 .* must be a multiple of 96"),
        ({"heads": (5, 6, 12, 24, 24)}, "channels cannot be shared by 5 heads"),
        ({"compression": 0.0}, "compression is 0.0: .* above 0 and at most 1"),
        ({"codebook_size": 1000}, "codebook_size 1000 is no power of two"),
    ],
)
def test_config_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        PyramidConfig(**fields)


def test_derived_sizes():
    config = PyramidConfig()
    assert (config.stride, config.latent_hop, config.grid) == (320, 160, 640)
    assert config.rows == (64, 32, 16, 8, 4, 2)
    assert config.clip_samples(150) == 47_920
    assert PyramidConfig(backbone="conv").grid == 320
    assert PyramidConfig(backbone="conv", heads=()).rows == config.rows


def frames_read(stage, features, column):
    """Frames of the input that one frame of the output depends on."""
    variables = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape),
        jax.eval_shape(stage.init, jax.random.key(0), features),
    )
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])

    def energy(features):
        return jnp.sum(jnp.sin(stage.apply(variables, features)[:, :, column]))

    slope = jax.jit(jax.grad(energy))(features)
    return np.flatnonzero(np.abs(slope).max(axis=(0, 1, 3)) > 0)


@pytest.mark.parametrize("column", [12, 13, 14, 15])
def test_reach_of_a_swin_stage(column):
    config = ESCConfig()
    features = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 28, 4)))
    read = frames_read(SwinStage(2, 6), features.astype(jnp.float32), column)
    # the config speaks of whole cells of four frames
    low, high = config.stage_reach(12, 16, has_scale=True)
    assert low <= read.min() and read.max() < high
    if column in (12, 15):
        assert read.min() == low or read.max() == high - 1


def test_reach_of_a_conv_stage():
    config = ESCConfig(backbone="conv", depth=2)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 20, 4)))
    read = frames_read(ConvStage(6, False, 2), features.astype(jnp.float32), 12)
    low, high = config.stage_reach(12, 13, has_scale=True)
    assert (read.min(), read.max()) == (low, high - 1)


def test_reach_covers_more_than_the_cell():
    for backbone in ("swin", "conv"):
        config = ESCConfig(backbone=backbone, depth=1)
        for before, after in (config.encoder_reach(), config.decoder_reach()):
            assert before > 0
            assert after > 0
