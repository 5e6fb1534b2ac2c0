"""The recorded models, each with the few compiled programs that all tests share."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.export.torch import from_torch, to_torch
from jaxcodec.losses.reconstruction import mel_loss, power_law_loss
from jaxcodec.models.configs import ESCConfig, PyramidConfig, RVQCodecConfig
from jaxcodec.models.named import build
from jaxcodec.models.pyramid import PyramidEncoder, SameConv
from jaxcodec.modules.conv import ConvStage
from jaxcodec.modules.patch import PatchEmbed
from jaxcodec.modules.swin import SwinStage

TINY: dict[str, Any] = {
    "channels": (16, 16, 24, 24, 32, 64),
    "heads": (2, 4, 3, 4, 8),
    "codebook_size": 64,
}
DIMS = (8, 8, 6, 6, 4, 4)
CONFIGS: dict[str, PyramidConfig] = {
    "csvq_swinT": ESCConfig(**TINY, codebook_dims=DIMS),
    "csvq_conv": ESCConfig(**TINY, codebook_dims=DIMS, backbone="conv", depth=1),
    "rvq_swinT": RVQCodecConfig(**TINY),
    "rvq_conv": RVQCodecConfig(**TINY, backbone="conv", depth=1),
}
# which published file lists the tensors of a full-size recording
PUBLISHED = {
    "base_csvq_swinT": "9kbps_esc_base_adv",
    "base_mixed_csvq_swinT": "9kbps_esc_base",
}


@dataclasses.dataclass
class Recorded:
    """A codec with a recording's weights. Every method is one compiled program."""

    codec: nn.Module
    variables: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def config(self) -> PyramidConfig:
        return self.codec.config

    @functools.cached_property
    def forward(self):
        """`(waveform, num_streams) -> CodecOutput` in eval mode."""
        return functools.partial(
            jax.jit(lambda v, x, n: self.codec.apply(v, x, n)), self.variables
        )

    @functools.cached_property
    def states(self):
        """`(waveform, num_streams) -> (CodecOutput, hidden states by stage)`."""
        kinds = (PyramidEncoder, PatchEmbed, SwinStage, ConvStage, SameConv)

        def run(variables, waveform, num_streams):
            made, kept = self.codec.apply(
                variables,
                waveform,
                num_streams,
                capture_intermediates=lambda module, _: isinstance(module, kinds),
                mutable=["intermediates"],
            )
            return made, kept["intermediates"]

        return functools.partial(jax.jit(run), self.variables)

    @functools.cached_property
    def train(self):
        """`(waveform, num_streams, bypass, stft weight) -> losses..., gradient`."""

        def total(params, rest, waveform, num_streams, bypass, stft):
            made, updated = self.codec.apply(
                {"params": params, **rest},
                waveform,
                num_streams,
                bypass,
                train=True,
                mutable=["batch_stats"],
            )
            target = waveform[:, : made.waveform.shape[1]]
            losses = {
                "cm_loss": made.commitment_loss,
                "cb_loss": made.codebook_loss,
                "mel_loss": mel_loss(target, made.waveform),
                "stft_loss": power_law_loss(made.target_spectrum, made.spectrum),
            }
            losses["total_loss"] = (
                0.25 * losses["mel_loss"]
                + stft * losses["stft_loss"]
                + 0.25 * losses["cm_loss"]
                + losses["cb_loss"]
            )
            return jnp.mean(losses["total_loss"]), (made, losses, updated)

        run = jax.jit(jax.value_and_grad(total, has_aux=True))
        params = self.variables["params"]
        rest = {name: v for name, v in self.variables.items() if name != "params"}

        def step(waveform, num_streams, bypass, stft):
            stft = jnp.asarray(stft, jnp.float32)
            (_, kept), gradient = run(
                params, rest, waveform, num_streams, jnp.asarray(bypass), stft
            )
            return *kept, gradient

        return step

    @functools.cached_property
    def encode_each(self):
        """`waveform -> {streams: codes}` for few, half and all of the streams."""
        most = self.config.max_streams

        def run(variables, waveform):
            return {
                k: self.codec.apply(variables, waveform, k, method="encode")
                for k in (1, (most + 1) // 2, most)
            }

        return functools.partial(jax.jit(run), self.variables)

    @functools.cached_property
    def encode(self):
        """`(waveform, codes_present) -> codes`."""

        def run(variables, waveform, codes_present):
            return self.codec.apply(
                variables, waveform, codes_present=codes_present, method="encode"
            )

        return functools.partial(jax.jit(run), self.variables)

    @functools.cached_property
    def decode(self):
        """`(codes, num_streams, codes_present) -> waveform`; counts may be missing."""

        def run(variables, codes, num_streams, codes_present):
            return self.codec.apply(
                variables, codes, num_streams, codes_present, method="decode"
            )

        return functools.partial(jax.jit(run), self.variables)


def shapes_of(config: PyramidConfig) -> dict[str, Any]:
    """Shapes of a codec's variables; nothing is computed."""
    silence = jax.ShapeDtypeStruct((1, config.clip_samples(7)), jnp.float32)
    return jax.eval_shape(build(config).init, jax.random.key(0), silence)


@pytest.fixture(scope="session")
def recorded(load_reference, draw_weights):
    """Returns a function giving a codec with a recording's weights and its arrays."""

    @functools.cache
    def make(stem, config):
        arrays = load_reference(stem)
        if "state" in arrays:
            lines = arrays["state"]
        else:
            lines = load_reference("published")[f"{PUBLISHED[stem]}/parameters"]
        variables = from_torch(draw_weights(stem, lines), shapes_of(config), config)
        return Recorded(build(config), variables, arrays)

    return make


@pytest.fixture(scope="session", params=CONFIGS)
def tiny(request, recorded, forget_programs):
    """Each of the four tiny variants."""
    yield recorded(f"tiny_{request.param}", CONFIGS[request.param])
    forget_programs()


@pytest.fixture(scope="session")
def tiny_esc(recorded):
    return recorded("tiny_csvq_swinT", CONFIGS["csvq_swinT"])


SMALL: dict[str, Any] = {
    "channels": (8, 8, 12),
    "heads": (2, 2),
    "max_streams": 3,
    "codebook_size": 256,  # many, so that codes notice small errors
}
SMALL_CONFIGS: dict[str, PyramidConfig] = {
    "esc": ESCConfig(**SMALL, codebook_dims=(4, 4, 3)),
    "rvq": RVQCodecConfig(**SMALL, codebook_dim=4, backbone="conv", depth=1),
}


@pytest.fixture(scope="session", params=SMALL_CONFIGS)
def small(request, draw_weights):
    """A codec of each kind, on three scales: quick to compile, nothing recorded."""
    config = SMALL_CONFIGS[request.param]
    shapes = shapes_of(config)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    lines = [
        f"{name} {'x'.join(map(str, array.shape))}"
        for name, array in to_torch(zeros, config).items()
    ]
    variables = from_torch(draw_weights("small", lines), shapes, config)
    waveform = np.random.default_rng(0).normal(size=(2, config.clip_samples(7)))
    arrays = {"x": (0.1 * waveform).astype(np.float32)}
    return Recorded(build(config), variables, arrays)
