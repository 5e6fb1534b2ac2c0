"""Spectrograms as small PNG pictures, without a picture library."""

import struct
import zlib

import numpy as np

from jaxcodec.arrays import Float, Shaped
from jaxcodec.dsp.stft import hann

__all__ = ["loud_level", "picture", "png"]

WINDOW = 400  # samples: 25 ms at 16 kHz
FFT = 512
DEEPEST = 70.0  # dB below the original's loud parts that are still drawn
# dark to bright, even in lightness: (position, red, green, blue)
RAMP = (
    (0.0, 8, 10, 24),
    (0.25, 45, 32, 102),
    (0.5, 140, 45, 118),
    (0.75, 232, 105, 72),
    (1.0, 252, 240, 180),
)


def picture(
    waveform: Float[np.ndarray, "n"], loudest: float, width: int = 520
) -> bytes:
    """A PNG of 0 to 8 kHz, low frequencies at the bottom.

    Args:
        waveform: at 16 kHz.
        loudest: dB of the brightest colour; see `loud_level`.
        width: pixels, each the mean of its frames.
    """
    decibels = _decibels(waveform)
    width = min(width, len(decibels))
    edges = np.linspace(0, len(decibels), width + 1).astype(int)
    columns = np.add.reduceat(decibels, edges[:-1], axis=0) / np.diff(edges)[:, None]
    rows = columns[:, :-1].reshape(width, -1, 2).mean(axis=2).T[::-1]
    level = (rows - loudest) / DEEPEST + 1
    return png(np.clip(np.rint(255 * level), 0, 255).astype(np.uint8))


def loud_level(waveform: Float[np.ndarray, "n"]) -> float:
    """Level in dB that one in a thousand time-frequency bins exceeds."""
    return float(np.percentile(_decibels(waveform), 99.9))


def png(levels: Shaped[np.ndarray, "h w"]) -> bytes:
    """Levels of 0 to 255 as an indexed PNG in the colours of `RAMP`.

    Source: PNG (W3C Recommendation, third edition), colour type 3.
    """
    height, width = levels.shape
    place = np.linspace(0, 1, 256)
    stops, *channels = zip(*RAMP, strict=True)
    palette = np.stack([np.interp(place, stops, c) for c in channels], axis=1)
    lines = np.pad(levels.astype(np.uint8), ((0, 0), (1, 0)))  # filter type 0
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _block(b"PLTE", palette.round().astype(np.uint8).tobytes()),
            _block(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _block(b"IEND", b""),
        ]
    )


def _block(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _decibels(waveform: np.ndarray) -> np.ndarray:
    padded = np.pad(waveform, (0, max(WINDOW - len(waveform), 0)))
    hop = max(80, len(padded) // 1600)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    power = np.abs(np.fft.rfft(frames * hann(WINDOW), FFT)) ** 2
    return 10 * np.log10(power + 1e-9)
