"""Samples that can be coded, and why others are refused."""

from collections.abc import Iterable, Iterator

import numpy as np

from jaxcodec.arrays import Float, Shaped

__all__ = ["MAX_CHANNELS", "as_float", "checked"]

MAX_CHANNELS = 8
LOUDEST = 8.0  # full scales; beyond it the samples were surely not meant as floats


def as_float(
    block: Shaped[np.ndarray, "n c"],
) -> Float[np.ndarray, "n c"]:
    """Samples as float32 in [-1, 1], from floats or 16- or 32-bit integers.

    Raises:
        ValueError: another type, NaN or infinity, or floats far beyond full scale.
    """
    if block.dtype == np.int16:
        return block.astype(np.float32) / 32768
    if block.dtype == np.int32:
        return (block / 2147483648).astype(np.float32)
    if block.dtype.kind != "f":
        raise ValueError(
            f"samples are of type {block.dtype}: expected floats in [-1, 1], or int16 "
            "or int32."
        )
    if not np.isfinite(block).all():
        bad = block.size - int(np.isfinite(block).sum())
        raise ValueError(
            f"{bad} of {block.size} samples are NaN or infinite: repair the audio, for "
            "example with numpy.nan_to_num."
        )
    peak = float(np.abs(block).max(initial=0))
    if peak > LOUDEST:
        raise ValueError(
            f"the loudest sample is {peak:g}, but floats must lie in [-1, 1]: divide "
            "by 32768 if these are 16-bit samples."
        )
    return block.astype(np.float32)


def checked(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks as float32, after refusing what cannot be coded."""
    channels = None
    for block in blocks:
        block = np.asarray(block)
        if block.ndim != 2 or not 1 <= block.shape[1] <= MAX_CHANNELS:
            raise ValueError(
                f"a block has shape {block.shape}: expected (samples, channels) with "
                f"1 to {MAX_CHANNELS} channels."
            )
        if channels not in (None, block.shape[1]):
            raise ValueError(
                f"a block has {block.shape[1]} channels, but the ones before had "
                f"{channels}: the number must not change."
            )
        channels = block.shape[1]
        if len(block):
            yield as_float(block)
