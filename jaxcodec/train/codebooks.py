"""Codebooks of a whole model: started from data, and mended while training."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float, Key, PyTree
from jaxcodec.quantizers.kmeans import kmeans, revive

__all__ = ["revive_codebooks", "start_codebooks"]

Latents = tuple[Any, ...]  # per stream `b g m d`


def _codebook(params: PyTree, stream: int) -> Array:
    """Codebook of a stream, wherever the model keeps it."""
    if "quantizer" in params:
        return params["quantizer"]["codebook"][stream]
    return params[f"quantizer_{stream}"]["codebook"]


def _with_codebook(params: PyTree, stream: int, codebook: Array) -> PyTree:
    if "quantizer" in params:
        stacked = params["quantizer"]["codebook"].at[stream].set(codebook)
        return {**params, "quantizer": {**params["quantizer"], "codebook": stacked}}
    name = f"quantizer_{stream}"
    return {**params, name: {**params[name], "codebook": codebook}}


def _num_streams(params: PyTree) -> int:
    if "quantizer" in params:
        return len(params["quantizer"]["codebook"])
    return sum(name.startswith("quantizer_") for name in params)


def _points(latents: Float[Array, "b g m d"]) -> Float[Array, "g p d"]:
    """Latents of each group in a row."""
    return latents.transpose(1, 0, 2, 3).reshape(latents.shape[1], -1, latents.shape[3])


@functools.partial(jax.jit, static_argnums=2)
def _from_data(key: Array, parts: list[Array], num_codewords: int) -> Array:
    return kmeans(key, _points(jnp.concatenate(parts)), num_codewords)


def start_codebooks(
    key: Key[Array, ""],
    params: PyTree,
    latents_of: Callable[[PyTree, Any], Latents],
    waveforms: Sequence[Any],
) -> PyTree:
    """Starts every codebook from data by k-means, coarse to fine.

    A stream's residuals depend on the codebooks before it, so the streams are started
    one after the other.

    Args:
        key: for the first codewords.
        params: of the model.
        latents_of: `(params, waveform) -> latents` of every stream, on all devices.
        waveforms: batches of data.
    """
    for stream in range(_num_streams(params)):
        parts = [latents_of(params, waveform)[stream] for waveform in waveforms]
        old = _codebook(params, stream)
        fresh = _from_data(jax.random.fold_in(key, stream), parts, old.shape[-2])
        params = _with_codebook(params, stream, fresh)
    return params


def revive_codebooks(
    key: Key[Array, ""],
    params: PyTree,
    usage: Float[Array, "s g k"],
    latents: Latents,
    threshold: float,
) -> tuple[PyTree, Float[Array, "s g k"]]:
    """Moves codewords that are hardly used to latents; see `quantizers.kmeans.revive`.

    Returns:
        The parameters, and the usage with the revived ones at the mean.
    """
    for stream, part in enumerate(latents):
        codebook, mended = revive(
            jax.random.fold_in(key, stream),
            _codebook(params, stream),
            usage[stream],
            _points(part),
            threshold,
        )
        params = _with_codebook(params, stream, codebook)
        usage = usage.at[stream].set(mended)
    return params, usage
