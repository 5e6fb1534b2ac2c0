"""What is done to a crop: cutting, resampling, silence around it, gain and noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from jaxcodec.arrays import Float
from jaxcodec.data.sources import BadAudio, Extent, Source

__all__ = [
    "Augment",
    "add_noise",
    "check",
    "cut",
    "fill",
    "gain",
    "limit",
    "pink_noise",
    "white_noise",
]

MARGIN = 128  # samples beside an excerpt, at the lower rate: the resampler's reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a crop. The default changes nothing."""

    gain_db: tuple[float, float] = (0.0, 0.0)  # drawn evenly from this range
    noise: Literal["white", "pink", "recorded"] = "pink"
    noise_share: float = 0.0  # of crops that get noise
    noise_snr_db: tuple[float, float] = (10.0, 40.0)  # drawn evenly from this range

    def __post_init__(self):
        for name in ("gain_db", "noise_snr_db"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is {low} to {high}: give the smaller first.")
        if not 0 <= self.noise_share <= 1:
            raise ValueError(
                f"noise_share is {self.noise_share}: it must be between 0 and 1."
            )
        if self.noise not in ("white", "pink", "recorded"):
            raise ValueError(
                f"noise is {self.noise!r}: expected white, pink or recorded."
            )


def cut(
    source: Source, index: int, extent: Extent, start: int, size: int, sample_rate: int
) -> Float[np.ndarray, " n"]:
    """A stretch of an item at the wanted rate, as if all of it had been resampled.

    Of an item with another rate a slightly longer excerpt is read, which begins where
    the samples of both rates fall together.

    Args:
        source, index: where to read.
        extent: of the item.
        start, size: in samples at `sample_rate`.
        sample_rate: wanted, Hz.

    Raises:
        BadAudio: it cannot be read.

    Source: the SoX resampler library (soxr), quality HQ.
    """
    rate = extent.sample_rate
    if rate == sample_rate:
        return source.read(index, start, size)
    import soxr

    common = math.gcd(rate, sample_rate)
    step, new_step = rate // common, sample_rate // common
    # samples at the lower rate take `reach` periods of the common grid
    reach = -(-MARGIN // min(step, new_step))
    first = max(start // new_step - reach, 0)
    last = -(-(start + size) // new_step) + reach
    begin, end = first * step, min(last * step, extent.num_samples)
    excerpt = source.read(index, begin, end - begin)
    resampled = soxr.resample(excerpt, rate, sample_rate, quality="HQ")
    offset = start - first * new_step
    return fill(resampled[offset : offset + size], size, 0)


def check(waveform: Float[np.ndarray, " n"], silence: float) -> None:
    """Refuses what nothing can be learnt from.

    Args:
        waveform: as it was read.
        silence: peak below which it counts as silent.

    Raises:
        BadAudio: it is silent, or holds NaN or infinity.
    """
    peak = np.abs(waveform).max(initial=0.0)
    if not np.isfinite(peak):
        count = int((~np.isfinite(waveform)).sum())
        raise BadAudio("not finite", f"{count} samples are NaN or infinite.")
    if peak < silence:
        raise BadAudio("silent", f"its peak is {peak:.1e}, below {silence:.1e}.")


def fill(
    waveform: Float[np.ndarray, " n"], size: int, offset: int
) -> Float[np.ndarray, " m"]:
    """Lays a waveform into silence of `size` samples, `offset` samples from its start.

    Raises:
        ValueError: it does not fit.
    """
    spare = size - len(waveform)
    if not 0 <= offset <= spare:
        raise ValueError(
            f"{len(waveform)} samples at offset {offset} do not fit into {size}: "
            f"choose an offset from 0 to {spare}."
        )
    return np.pad(waveform, (offset, spare - offset)) if spare else waveform


def gain(waveform: Float[np.ndarray, " n"], decibels: float) -> Float[np.ndarray, " n"]:
    """Makes it louder by so many dB."""
    return waveform * np.float32(10 ** (decibels / 20))


def limit(waveform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Scales down what exceeds [-1, 1]: unlike clipping, this does not distort."""
    peak = np.abs(waveform).max(initial=0.0)
    return waveform / peak if peak > 1 else waveform


def white_noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, " n"]:
    """Noise with equal power per Hz."""
    return rng.standard_normal(size, dtype=np.float32)


def pink_noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, " n"]:
    """Noise with equal power per octave, that is, power falling with frequency."""
    spectrum = np.fft.rfft(white_noise(rng, size))
    bins = np.maximum(np.arange(len(spectrum)), 1)
    return np.fft.irfft(spectrum / np.sqrt(bins), size).astype(np.float32)


def add_noise(
    waveform: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"], snr_db: float
) -> Float[np.ndarray, " n"]:
    """Adds noise, scaled to this ratio of the mean powers of signal and noise."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    noise_power = float(np.mean(np.square(noise, dtype=np.float64)))
    if not noise_power:
        return waveform
    scale = math.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return waveform + noise * np.float32(scale)


MAKERS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
}
