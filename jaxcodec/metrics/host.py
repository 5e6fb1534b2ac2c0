"""Measures on single clips in NumPy: no program is compiled for a clip's length.

`signal` has the same measures for batches on an accelerator; recordings of the
published evaluation hold for both.
"""

import numpy as np

from jaxcodec.arrays import Float
from jaxcodec.dsp.mel import mel_filterbank
from jaxcodec.dsp.stft import hann
from jaxcodec.losses.reconstruction import MEL_RESOLUTIONS

__all__ = ["log_spectral_distance", "mel_distance", "si_sdr"]

QUIETEST = 1e-10  # power of a frequency bin that counts as silence, -100 dB


def si_sdr(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; see `metrics.signal.si_sdr`.

    Source: Le Roux et al. 2019, arXiv:1811.02508; constants of arXiv:2306.06546.
    """
    tiny = 1e-8
    target = target.astype(np.float64) - np.mean(target, dtype=np.float64)
    estimate = estimate.astype(np.float64) - np.mean(estimate, dtype=np.float64)
    wanted = (target @ estimate + tiny) / (target @ target + tiny) * target
    error = estimate - wanted
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * np.log10(np.divide(wanted @ wanted, error @ error) + tiny))


def mel_distance(
    target: Float[np.ndarray, "n"],
    estimate: Float[np.ndarray, "n"],
    sample_rate: int = 16_000,
    resolutions: tuple[tuple[int, int], ...] = MEL_RESOLUTIONS,
) -> float:
    """L1 distance of log mel spectra, summed over seven resolutions; 0 is best.

    Raises:
        ValueError: the clip is not longer than half of the longest window.

    Source: the evaluation of Gu & Diao 2024, arXiv:2404.19441.
    """
    total = 0.0
    for window, num_bands in resolutions:
        bank = mel_filterbank(window, num_bands, sample_rate)
        bands = [
            2 * np.log10(np.maximum(_magnitudes(x, window, window // 4) @ bank, 1e-5))
            for x in (target, estimate)
        ]
        total += float(np.mean(np.abs(bands[0] - bands[1])))
    return total


def log_spectral_distance(
    target: Float[np.ndarray, "n"],
    estimate: Float[np.ndarray, "n"],
    window: int = 512,
    hop: int = 128,
) -> float:
    """Root mean square difference of log power spectra in dB, averaged over frames.

    Bins below -100 dB count as -100 dB, so that digital silence has a spectrum.

    Raises:
        ValueError: the clip is not longer than half a window.

    Source: Gray & Markel 1976, Distance measures for speech processing, d_2.
    """
    decibels = [
        10 * np.log10(np.maximum(_magnitudes(x, window, hop) ** 2, QUIETEST))
        for x in (target, estimate)
    ]
    squares = np.mean((decibels[0] - decibels[1]) ** 2, axis=1)
    return float(np.mean(np.sqrt(squares)))


def _magnitudes(
    waveform: Float[np.ndarray, "n"], window: int, hop: int
) -> Float[np.ndarray, "t f"]:
    if len(waveform) <= window // 2:
        raise ValueError(
            f"the clip has {len(waveform)} samples, but a window of {window} needs at "
            f"least {window // 2 + 1}: leave out so short clips."
        )
    padded = np.pad(waveform.astype(np.float64), window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    return np.abs(np.fft.rfft(frames * hann(window), axis=-1))
