"""Cutting waveforms into overlapping frames, and adding them up again."""

import functools

import jax.numpy as jnp

from jaxcodec.arrays import Array, Float

__all__ = ["frame", "overlap_add", "reflect_pad"]


def frame(
    waveform: Float[Array, "*b n"], size: int, hop: int
) -> Float[Array, "*b t {size}"]:
    """Cuts a waveform into overlapping frames, dropping an unfilled tail.

    The frames are put together from whole hops by slices and one concatenation: no
    gather, so it is a plain copy on every backend and exports everywhere.

    Args:
        waveform: in [-1, 1].
        size, hop: samples per frame, and between the starts of two frames.

    Raises:
        ValueError: the waveform is shorter than one frame, or `size` is no multiple
            of `hop`.
    """
    num_samples = waveform.shape[-1]
    if size % hop:
        raise ValueError(
            f"frame size {size} is no multiple of the hop {hop}: choose a hop that "
            "divides the size."
        )
    if num_samples < size:
        raise ValueError(
            f"waveform has {num_samples} samples, but one frame takes {size}: "
            f"pad it with {size - num_samples} zeros or choose a smaller size."
        )
    hops_per_frame = size // hop
    num_frames = (num_samples - size) // hop + 1
    num_hops = num_frames - 1 + hops_per_frame
    hops = waveform[..., : num_hops * hop]
    hops = hops.reshape(*waveform.shape[:-1], num_hops, hop)
    return jnp.concatenate(
        [hops[..., i : i + num_frames, :] for i in range(hops_per_frame)], axis=-1
    )


def overlap_add(frames: Float[Array, "*b t size"], hop: int) -> Float[Array, "*b n"]:
    """Adds overlapping frames up: `n = (t - 1) * hop + size`.

    Args:
        frames: one frame per row.
        hop: samples between the starts of two frames; must divide the frame size.
    """
    *batch, num_frames, size = frames.shape
    hops_per_frame = size // hop
    parts = frames.reshape(*batch, num_frames, hops_per_frame, hop)
    pad = [(0, 0)] * len(batch)
    shifted = [
        jnp.pad(parts[..., i, :], [*pad, (i, hops_per_frame - 1 - i), (0, 0)])
        for i in range(hops_per_frame)
    ]
    return functools.reduce(jnp.add, shifted).reshape(*batch, -1)


def reflect_pad(
    waveform: Float[Array, "*b n"], head: int, tail: int | None = None
) -> Float[Array, "*b m"]:
    """Mirrors samples about the first and the last one.

    Args:
        waveform: in [-1, 1].
        head, tail: samples to put before and behind; by default as many behind.

    Raises:
        ValueError: the waveform is not longer than the padding.
    """
    tail = head if tail is None else tail
    longest, num_samples = max(head, tail), waveform.shape[-1]
    if num_samples <= longest:
        raise ValueError(
            f"waveform has {num_samples} samples, but reflecting its edges takes more "
            f"than {longest}: pad it with {longest + 1 - num_samples} zeros."
        )
    before = jnp.flip(waveform[..., 1 : head + 1], axis=-1)
    after = jnp.flip(waveform[..., num_samples - tail - 1 : num_samples - 1], axis=-1)
    return jnp.concatenate([before, waveform, after], axis=-1)
