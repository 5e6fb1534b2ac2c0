"""Codecs delay: by how much, and what remains to be compared without that."""

from typing import NamedTuple

import numpy as np

from jaxcodec.arrays import Float

__all__ = ["Aligned", "align", "find_delay"]

CLEAR = 0.4  # correlation from which waveforms are similar enough to be aligned
HOP = 16  # samples between two values of an envelope


class Aligned(NamedTuple):
    """The parts of two signals that lie over each other."""

    target: Float[np.ndarray, "n"]
    estimate: Float[np.ndarray, "n"]
    delay: int  # samples by which the estimate came later


def find_delay(
    target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "m"], limit: int
) -> int:
    """Samples by which `estimate` lags behind `target`; negative if it leads.

    The peak of the cross-correlation decides. Parametric codecs do not keep the
    waveform: where no peak is clear, that of the two envelopes decides.

    Args:
        target, estimate: of any length.
        limit: largest delay, either way.
    """
    delay, correlation = _peak(target, estimate, limit)
    if correlation >= CLEAR:
        return delay
    coarse, correlation = _peak(_envelope(target), _envelope(estimate), limit // HOP)
    return coarse * HOP if correlation >= CLEAR else 0


def align(
    target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "m"], limit: int
) -> Aligned:
    """Takes a delay out, without rewarding missing samples or punishing the delay.

    What a decoder left out at the end counts as silence. What a delay pushed behind the
    end of the estimate is left out of both.
    """
    delay = find_delay(target, estimate, limit)
    estimate = np.pad(estimate, (0, max(len(target) - len(estimate), 0)))
    if delay >= 0:
        estimate = estimate[delay:]
    else:
        target = target[-delay:]
    length = min(len(target), len(estimate))
    return Aligned(target[:length], estimate[:length], delay)


def _peak(target: np.ndarray, estimate: np.ndarray, limit: int) -> tuple[int, float]:
    """Lag of the highest correlation, and how high it is; the smaller lag of equals."""
    limit = min(limit, len(target) - 1, len(estimate) - 1)
    norm = np.linalg.norm(target) * np.linalg.norm(estimate)
    if limit < 0 or not norm:
        return 0, 0.0
    size = 1 << (len(target) + len(estimate)).bit_length()
    spectrum = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(target, size))
    correlation = np.fft.irfft(spectrum, size)
    lags = np.arange(-limit, limit + 1)
    values = correlation[lags] / norm
    ties = lags[values >= values.max() - 1e-9]
    return int(ties[np.argmin(np.abs(ties))]), float(values.max())


def _envelope(waveform: np.ndarray) -> np.ndarray:
    """Level every millisecond, smoothed over some, without its mean."""
    num = len(waveform) // HOP
    if not num:
        return np.zeros(0)
    power = np.square(waveform[: num * HOP].reshape(num, HOP)).mean(axis=1)
    smooth = np.convolve(power, np.hanning(12)[1:-1] / 5.5, mode="same")
    level = np.sqrt(np.maximum(smooth, 0))
    return level - level.mean()
