"""Short-time Fourier transform and its inverse, as matmuls with constant bases.

ESC's FFT size 382 = 2 x 191 is a poor one for a fast transform; a real matmul suits
matrix units, and it is the one form that every export target has.
"""

import functools

import jax.numpy as jnp
import numpy as np

from jaxcodec.arrays import Array, Float
from jaxcodec.dsp.framing import frame, overlap_add, reflect_pad

__all__ = [
    "compress",
    "expand",
    "hann",
    "hop_stft",
    "istft",
    "stft",
    "synthesis_envelope",
]


def hann(window: int) -> np.ndarray:
    """Periodic Hann window of `window` samples, float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)


@functools.lru_cache(maxsize=32)
def _analysis_basis(n_fft: int, window: int) -> np.ndarray:
    # the window sits in the middle of the FFT frame, which only turns the phase
    sample = np.arange(window) + (n_fft - window) // 2
    phase = 2 * np.pi * np.outer(sample, np.arange(n_fft // 2 + 1)) / n_fft
    basis = np.stack([np.cos(phase), -np.sin(phase)], axis=-1)
    basis *= hann(window)[:, None, None]
    return basis.reshape(window, -1).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _synthesis_basis(n_fft: int, window: int) -> np.ndarray:
    sample = np.arange(window) + (n_fft - window) // 2
    phase = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), sample) / n_fft
    basis = np.stack([np.cos(phase), -np.sin(phase)], axis=1)
    weight = np.full(n_fft // 2 + 1, 2.0)
    weight[0] = 1.0
    if n_fft % 2 == 0:
        weight[-1] = 1.0
    basis *= weight[:, None, None] / n_fft * hann(window)
    return basis.reshape(-1, window).astype(np.float32)


def _check(n_fft: int, window: int, hop: int) -> None:
    if not 0 < window <= n_fft or (n_fft - window) % 2 or window % (2 * hop):
        raise ValueError(
            f"n_fft {n_fft}, window {window}, hop {hop}: the window must be at most "
            "n_fft and differ from it by an even number, and be an even number of hops."
        )


def stft(
    waveform: Float[Array, "b n"], n_fft: int = 382, window: int = 320, hop: int = 80
) -> Float[Array, "b f t 2"]:
    """Complex spectrum of centred, reflect-padded frames, not normalised.

    Frame `t` is centred on sample `t * hop`; there are `n // hop + 1` frames and
    `n_fft // 2 + 1` bins; the last axis holds real and imaginary part.

    Args:
        waveform: in [-1, 1], longer than half a window.
        n_fft, window, hop: samples.

    Raises:
        ValueError: the sizes do not fit each other, or the waveform is too short.

    Source: equals `torch.stft(center=True, pad_mode="reflect")` with a periodic Hann
    window.
    """
    _check(n_fft, window, hop)
    # torch pads n_fft // 2, of which the window's own offset is never seen
    padded = reflect_pad(waveform, window // 2)
    return _transform(frame(padded, window, hop), n_fft)


def hop_stft(
    waveform: Float[Array, "b n"], window: int, hop: int
) -> Float[Array, "b f t 2"]:
    """Complex spectrum with exactly one frame per hop, the last one begun or whole.

    Frame `t` is centred on the middle of hop `t`, so that `ceil(n / hop)` frames see
    every sample equally often; edges are reflected. Not normalised.

    Args:
        waveform: in [-1, 1]; a whole window is always long enough.
        window: samples; also the FFT size.
        hop: samples.

    Raises:
        ValueError: the sizes do not fit each other, or the waveform is too short.

    Source: "match stride" of Kumar et al. 2023, arXiv:2306.06546.
    """
    _check(window, window, hop)
    before = (window - hop) // 2
    after = window - hop - before + -waveform.shape[-1] % hop
    padded = reflect_pad(waveform, before, after)
    return _transform(frame(padded, window, hop), window)


def _transform(frames: Float[Array, "b t n"], n_fft: int) -> Float[Array, "b f t 2"]:
    basis = _analysis_basis(n_fft, frames.shape[-1])
    bins = frames @ jnp.asarray(basis, frames.dtype)
    bins = bins.reshape(*bins.shape[:-1], n_fft // 2 + 1, 2)
    return bins.transpose(0, 2, 1, 3)


def synthesis_envelope(
    frames: Float[Array, "*b t"], window: int, hop: int
) -> Float[Array, "*b n"]:
    """Sum of squared windows over the frames that are present (1) or absent (0)."""
    squared = jnp.asarray(hann(window) ** 2, frames.dtype)
    return overlap_add(frames[..., None] * squared, hop)


def istft(
    spectrum: Float[Array, "b f t 2"],
    n_fft: int = 382,
    window: int = 320,
    hop: int = 80,
    frames_present: Float[Array, "b t"] | None = None,
) -> Float[Array, "b n"]:
    """Least-squares inverse of `stft`: `(t - 1) * hop` samples.

    Args:
        spectrum: real and imaginary part on the last axis.
        n_fft, window, hop: samples.
        frames_present: 1 where a frame exists and 0 where it does not; frames that do
            not exist add nothing and do not count in the normalisation. Samples that
            no frame covers are zero.

    Raises:
        ValueError: the sizes do not fit each other.

    Source: Griffin & Lim 1984; equals `torch.istft` where all frames exist.
    """
    _check(n_fft, window, hop)
    num_frames = spectrum.shape[2]
    bins = spectrum.transpose(0, 2, 1, 3).reshape(spectrum.shape[0], num_frames, -1)
    frames = bins @ jnp.asarray(_synthesis_basis(n_fft, window), spectrum.dtype)
    if frames_present is None:
        frames_present = jnp.ones((1, num_frames), spectrum.dtype)
    else:
        frames = frames * frames_present[..., None]
    total = overlap_add(frames, hop)
    envelope = synthesis_envelope(frames_present, window, hop)
    # half a window falls off either end; the tail beyond the last hop is not returned
    kept = slice(window // 2, window // 2 + (num_frames - 1) * hop)
    total, envelope = total[..., kept], envelope[..., kept]
    return jnp.where(envelope > 1e-11, total / jnp.maximum(envelope, 1e-11), 0.0)


def compress(spectrum: Float[Array, "*b 2"], exponent: float) -> Float[Array, "*b 2"]:
    """Raises magnitudes to a power and keeps phases; 1 changes nothing."""
    if exponent == 1:
        return spectrum
    power = jnp.sum(jnp.square(spectrum), axis=-1, keepdims=True)
    return spectrum * (power + 1e-12) ** ((exponent - 1) / 2)


def expand(spectrum: Float[Array, "*b 2"], exponent: float) -> Float[Array, "*b 2"]:
    """Undoes `compress`, but for magnitudes around 1e-6 and below."""
    if exponent == 1:
        return spectrum
    power = jnp.sum(jnp.square(spectrum), axis=-1, keepdims=True)
    return spectrum * (power + 1e-12) ** ((1 / exponent - 1) / 2)
