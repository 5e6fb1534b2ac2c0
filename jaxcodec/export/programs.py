"""What is exported: encoder and decoder as functions of flat weights and arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from jaxcodec.arrays import Array, Float, Int
from jaxcodec.export.precision import restore
from jaxcodec.inference.chunked import Chunking
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.models.named import build
from jaxcodec.modules.policy import Policy

__all__ = ["Tensor", "decoder", "decoder_inputs", "encoder", "encoder_inputs"]


class Tensor(NamedTuple):
    """An input or output of a program, as its manifest describes it."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and type, for tracing; all sizes must be numbers."""
        return jax.ShapeDtypeStruct(self.shape, jnp.dtype(self.dtype))


def encoder(
    config: PyramidConfig, num_streams: int, policy: Policy | None = None
) -> Callable[..., Array]:
    """`(weights, waveform, present) -> codes`; weights as in a release, flat."""
    codec = build(config, policy)

    def encode(
        weights: dict[str, Any],
        waveform: Float[Array, "b n"],
        present: Float[Array, "b t"],
    ) -> Int[Array, "b s g t"]:
        variables = _variables(weights)
        inputs = waveform, num_streams, present
        return cast(Array, codec.apply(variables, *inputs, method="encode"))

    return encode


def decoder(
    config: PyramidConfig, policy: Policy | None = None
) -> Callable[..., Array]:
    """`(weights, codes, num_streams, present) -> waveform`."""
    codec = build(config, policy)

    def decode(
        weights: dict[str, Any],
        codes: Int[Array, "b s g t"],
        num_streams: Int[Array, "b t"],
        present: Float[Array, "b t"],
    ) -> Float[Array, "b n"]:
        variables = _variables(weights)
        inputs = codes, num_streams, present
        return cast(Array, codec.apply(variables, *inputs, method="decode"))

    return decode


def _variables(weights: dict[str, Any]) -> dict[str, Any]:
    own = {name: a for name, a in restore(weights).items() if "tables/" not in name}
    return unflatten_dict({tuple(name.split("/")): a for name, a in own.items()})


def encoder_inputs(
    config: PyramidConfig, shape: Chunking, batch: int | str
) -> list[Tensor]:
    """Inputs of the encoder for chunks of one shape."""
    return [
        Tensor("waveform", (batch, config.clip_samples(shape.total)), "float32"),
        Tensor("present", (batch, shape.total), "float32"),
    ]


def decoder_inputs(
    config: PyramidConfig, shape: Chunking, batch: int | str
) -> list[Tensor]:
    """Inputs of the decoder for chunks of one shape."""
    layout = (batch, config.max_streams, config.num_groups, shape.total)
    return [
        Tensor("codes", layout, "int32"),
        Tensor("num_streams", (batch, shape.total), "int32"),
        Tensor("present", (batch, shape.total), "float32"),
    ]
