"""StableHLO through `jax.export`: one artefact for CPUs, CUDA GPUs and TPUs.

Batch and length are symbolic. The length is counted in cells, the grid on which chunks
may begin, so that a program takes the chunks of the manifest or whole recordings. The
weights are an argument, a dictionary as safetensors gives it, so they can be stored in
any precision, and swapped.
"""

import functools

import jax
import numpy as np
from jax import export

from jaxcodec.arrays import Float, Int, Shaped
from jaxcodec.export.programs import decoder, encoder
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.runtime import compiler_options

__all__ = ["PLATFORMS", "StableHLO", "export_decoder", "export_encoder"]

PLATFORMS = ("cpu", "cuda", "tpu")
Weights = dict[str, Shaped[np.ndarray, "..."]]


def _symbols(config: PyramidConfig):
    """Batch, code frames and samples, as expressions of `batch` and `cells`."""
    scope = export.SymbolicScope(["batch >= 1", "cells >= 1"])
    batch, cells = export.symbolic_shape("batch, cells", scope=scope)
    frames = cells * (config.grid // config.stride)
    return batch, frames, frames * config.stride - config.hop


def _structs(weights: Weights) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in weights.items()}


def _export(function, *inputs) -> bytes:
    made = export.export(jax.jit(function), platforms=PLATFORMS)(*inputs)
    return bytes(made.serialize())


def export_encoder(config: PyramidConfig, weights: Weights, num_streams: int) -> bytes:
    """`(weights, waveform, present) -> codes` of the first `num_streams` streams."""
    batch, frames, samples = _symbols(config)
    return _export(
        encoder(config, num_streams),
        _structs(weights),
        jax.ShapeDtypeStruct((batch, samples), np.float32),
        jax.ShapeDtypeStruct((batch, frames), np.float32),
    )


def export_decoder(config: PyramidConfig, weights: Weights) -> bytes:
    """`(weights, codes, num_streams, present) -> waveform`."""
    batch, frames, _ = _symbols(config)
    codes = (batch, config.max_streams, config.num_groups, frames)
    return _export(
        decoder(config),
        _structs(weights),
        jax.ShapeDtypeStruct(codes, np.int32),
        jax.ShapeDtypeStruct((batch, frames), np.int32),
        jax.ShapeDtypeStruct((batch, frames), np.float32),
    )


class StableHLO:
    """Runs two exported programs: needs JAX, but nothing of the model's code."""

    def __init__(self, encoder: bytes, decoder: bytes, weights: Weights):
        jit = functools.partial(jax.jit, compiler_options=compiler_options())
        self._encoder = jit(export.deserialize(bytearray(encoder)).call)
        self._decoder = jit(export.deserialize(bytearray(decoder)).call)
        self._weights = jax.device_put(weights)

    def encode(
        self, waveform: Float[np.ndarray, "b n"], present: Float[np.ndarray, "b t"]
    ) -> Int[np.ndarray, "b s g t"]:
        return np.asarray(self._encoder(self._weights, waveform, present))

    def decode(
        self,
        codes: Int[np.ndarray, "b s g t"],
        num_streams: Int[np.ndarray, "b t"],
        present: Float[np.ndarray, "b t"],
    ) -> Float[np.ndarray, "b n"]:
        return np.asarray(self._decoder(self._weights, codes, num_streams, present))
