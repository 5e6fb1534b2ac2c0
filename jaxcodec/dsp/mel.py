"""Mel filter banks and mel spectrograms."""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxcodec.arrays import Array, Float
from jaxcodec.dsp.framing import frame, reflect_pad
from jaxcodec.dsp.stft import hann, stft

__all__ = ["magnitude", "mel_filterbank", "mel_spectrogram"]


@functools.lru_cache(maxsize=32)
def mel_filterbank(n_fft: int, num_bands: int, sample_rate: int) -> np.ndarray:
    """Triangular filters `f m` on the HTK mel scale from 0 Hz to Nyquist.

    The triangles have height 1 (no area normalisation). A narrow band between two FFT
    bins can be empty.

    Source: mel = 2595 log10(1 + f / 700), O'Shaughnessy 1987, as in HTK.
    """
    frequency = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_bands + 2) / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequency[:, None] - low) / (centre - low)
    falling = (high - frequency[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def magnitude(spectrum: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    """Absolute value of complex numbers, with gradient 0 (not NaN) at 0."""
    power = jnp.sum(jnp.square(spectrum), axis=-1)
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)


def mel_spectrogram(
    waveform: Float[Array, "b n"],
    window: int,
    num_bands: int,
    sample_rate: int = 16_000,
    dft: Literal["matmul", "fft"] = "matmul",
) -> Float[Array, "b t m"]:
    """Magnitude (power 1) mel spectrogram of centred frames, hop `window / 4`.

    Args:
        waveform: in [-1, 1], longer than half a window.
        window: samples; also the FFT size.
        num_bands: mel bands.
        sample_rate: Hz.
        dft: `matmul` is the form for matrix units and export, `fft` is faster on CPUs.

    Raises:
        ValueError: the waveform is not longer than half a window.
    """
    hop = window // 4
    if dft == "fft":
        frames = frame(reflect_pad(waveform, window // 2), window, hop)
        bins = jnp.fft.rfft(frames * hann(window).astype(np.float32))
        magnitudes = magnitude(jnp.stack([bins.real, bins.imag], axis=-1))
    else:
        magnitudes = magnitude(
            stft(waveform, window, window, hop).transpose(0, 2, 1, 3)
        )
    bank = mel_filterbank(window, num_bands, sample_rate)
    return magnitudes @ jnp.asarray(bank, waveform.dtype)
