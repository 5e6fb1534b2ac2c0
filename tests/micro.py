"""Models so small that their programs compile in seconds: shapes, no quality."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.models.configs import ESCConfig, RVQCodecConfig
from jaxcodec.models.discriminators import DiscriminatorConfig
from jaxcodec.models.named import build

MICRO = ESCConfig(
    sample_rate=2_000,  # 50 code frames per second, as the real ones
    n_fft=46,
    window=40,
    hop=10,
    channels=(6, 6, 12),
    heads=(2, 3),
    max_streams=3,
    codebook_size=16,
    codebook_dims=(4, 4, 4),
)

SHORT = dataclasses.replace(  # where a gradient is compiled: two scales, no depth
    MICRO, channels=(6, 8), heads=(2,), depth=1, max_streams=2, codebook_dims=(4, 4)
)

SHARED = {
    field.name: getattr(MICRO, field.name)
    for field in dataclasses.fields(MICRO)
    if field.name != "codebook_dims"
}
ABLATIONS = {  # as in experiments/
    "esc_conv": dataclasses.replace(MICRO, backbone="conv", depth=1),
    "rvq_swin": RVQCodecConfig(**SHARED, codebook_dim=4),
    "rvq_conv": RVQCodecConfig(
        **{**SHARED, "backbone": "conv", "depth": 1}, codebook_dim=4
    ),
}

MICRO_DISCRIMINATORS = DiscriminatorConfig(
    periods=(3,),
    period_channels=(4, 6),
    windows=(32,),
    band_edges=(0, 0.4, 1),
    band_channels=4,
)


def drawn(config=MICRO, seed: int = 0):
    """Weights from NumPy, none of them trivial: nothing is compiled."""
    silence = jnp.zeros((1, config.clip_samples(4)))
    shapes = jax.eval_shape(build(config).init, jax.random.key(0), silence)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        codebook = path[-1].key == "codebook"  # its entries are features, not weights
        summed = leaf.shape[-1] if codebook else max(np.prod(leaf.shape[:-1]), 4)
        values /= summed**0.5  # keeps features' size
        if path[-1].key == "var":
            values = 1 + np.abs(values)
        return values.astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)
