"""How far a reconstruction is from the original, in mel bands and in the spectrum."""

from typing import Literal

import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.dsp.mel import mel_spectrogram
from jaxcodec.dsp.stft import compress

__all__ = [
    "MEL_RESOLUTIONS",
    "compressed_loss",
    "mel_loss",
    "power_law",
    "power_law_loss",
]

# (window in samples, mel bands) of each resolution; the hop is a quarter window
MEL_RESOLUTIONS = (
    (32, 5),
    (64, 10),
    (128, 20),
    (256, 40),
    (512, 80),
    (1024, 160),
    (2048, 320),
)


def mel_loss(
    target: Float[Array, "b n"],
    estimate: Float[Array, "b n"],
    sample_rate: int = 16_000,
    resolutions: tuple[tuple[int, int], ...] = MEL_RESOLUTIONS,
    dft: Literal["matmul", "fft"] = "matmul",
    linear_weight: float = 1.0,
) -> Float[Array, "b"]:
    """L1 distance of mel spectra and of their logarithms, summed over resolutions.

    The logarithm is `log10(max(M, 1e-5) ** 2)`. The two signals are transformed apart:
    joining them along a sharded batch axis would move data between devices.

    Args:
        target, estimate: waveforms in [-1, 1].
        sample_rate: Hz.
        resolutions: window in samples and mel bands, each.
        dft: see `mel_spectrogram`.
        linear_weight: of the distance of the spectra themselves; with 0 the value is
            the *mel distance* of the papers.

    Source: Kumar et al. 2023, arXiv:2306.06546, with the weights of arXiv:2404.19441.
    """
    total = jnp.zeros(target.shape[0], target.dtype)
    for window, num_bands in resolutions:
        a = mel_spectrogram(target, window, num_bands, sample_rate, dft)
        b = mel_spectrogram(estimate, window, num_bands, sample_rate, dft)
        log_a = 2 * jnp.log10(jnp.maximum(a, 1e-5))
        log_b = 2 * jnp.log10(jnp.maximum(b, 1e-5))
        total += jnp.mean(jnp.abs(log_a - log_b), axis=(1, 2))
        if linear_weight:
            total += linear_weight * jnp.mean(jnp.abs(a - b), axis=(1, 2))
    return total


def power_law(values: Float[Array, "*b"], exponent: float = 0.3) -> Float[Array, "*b"]:
    """`sign(x) (|x| + 1e-10) ** exponent`, with slope 0 at 0 itself."""
    return jnp.sign(values) * (jnp.abs(values) + 1e-10) ** exponent


def power_law_loss(
    target: Float[Array, "b f t 2"],
    estimate: Float[Array, "b f t 2"],
    exponent: float = 0.3,
) -> Float[Array, "b"]:
    """Mean squared error of power-law compressed real and imaginary parts.

    Args:
        target, estimate: complex spectra.
        exponent: 1 compares the spectra as they are.

    Source: Gu & Diao 2024, arXiv:2404.19441.
    """
    error = power_law(target, exponent) - power_law(estimate, exponent)
    return jnp.mean(jnp.square(error), axis=(1, 2, 3))


def compressed_loss(
    target: Float[Array, "b f t 2"],
    estimate: Float[Array, "b f t 2"],
    exponent: float = 0.5,
) -> Float[Array, "b"]:
    """Mean squared distance of complex spectra with compressed magnitudes.

    Unlike `power_law_loss` it compresses the magnitude and not each part for itself, so
    it has no steep places where one part crosses zero, and its gradient is small where
    the error is.

    Source: Ephrat et al. 2018, arXiv:1804.03619.
    """
    error = compress(target, exponent) - compress(estimate, exponent)
    return jnp.mean(jnp.sum(jnp.square(error), axis=-1), axis=(1, 2))
