"""Measures on waveforms and spectra."""

import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.losses.reconstruction import MEL_RESOLUTIONS, mel_loss

__all__ = ["mel_distance", "si_sdr"]


def si_sdr(
    target: Float[Array, "b n"], estimate: Float[Array, "b n"]
) -> Float[Array, "b"]:
    """Scale-invariant signal-to-distortion ratio in dB, after removing both means.

    Follows the published evaluation to the corner cases: identical signals score
    infinity, a silent estimate 0 dB, a silent target -80 dB, and two silent signals
    have no score (NaN).

    Source: Le Roux et al. 2019, arXiv:1811.02508; constants of arXiv:2306.06546.
    """
    tiny = 1e-8
    target = target - jnp.mean(target, axis=-1, keepdims=True)
    estimate = estimate - jnp.mean(estimate, axis=-1, keepdims=True)
    power = jnp.sum(jnp.square(target), axis=-1, keepdims=True) + tiny
    common = jnp.sum(target * estimate, axis=-1, keepdims=True) + tiny
    wanted = common / power * target
    error = estimate - wanted
    ratio = jnp.sum(jnp.square(wanted), axis=-1) / jnp.sum(jnp.square(error), axis=-1)
    return 10 * jnp.log10(ratio + tiny)


def mel_distance(
    target: Float[Array, "b n"],
    estimate: Float[Array, "b n"],
    sample_rate: int = 16_000,
    resolutions: tuple[tuple[int, int], ...] = MEL_RESOLUTIONS,
) -> Float[Array, "b"]:
    """L1 distance of log mel spectra, summed over seven resolutions; 0 is best.

    Source: the evaluation of Gu & Diao 2024, arXiv:2404.19441.
    """
    return mel_loss(target, estimate, sample_rate, resolutions, linear_weight=0.0)
