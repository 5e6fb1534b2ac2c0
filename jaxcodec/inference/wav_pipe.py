"""WAV from and to streams that cannot seek and may not know how long they will be.

Programs that write WAV to a pipe cannot go back to fill in its sizes, and leave 0 or a
huge number there; those that read from one must take such sizes to mean "to the end".
"""

import dataclasses
import math
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, Num

from jaxcodec.bitstream.source import Source
from jaxcodec.bitstream.writer import Writable, write_all

__all__ = ["SUBTYPES", "WavHeader", "WavWriter", "quantize", "read_wav"]

SUBTYPES = ("pcm16", "float")
_UNKNOWN = 0xFFFFFFFF  # as a size: the stream did not know, or see the ds64 chunk
_HUGE = 0x7FFFF000  # from here on a size is often a placeholder (sox, arecord)
_MAX_HEADER = 1 << 16  # bytes; behind more than that, libsndfile may have a look
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_TYPES = {  # by format tag and bits per sample
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "<i3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WavHeader:
    """What a WAV says before its first sample."""

    sample_rate: int  # Hz
    channels: int
    type: str  # of a sample; NumPy's name, and "<i3"
    data_size: int | None  # bytes of samples; None: to the end of the stream
    is_exact: bool  # whether fewer bytes than data_size are too few

    @property
    def sample_size(self) -> int:
        """Bytes that one sample of all channels takes."""
        return self.channels * int(self.type[-1])

    @property
    def num_samples(self) -> int | None:
        """Samples per channel; None if only the end of the stream will tell."""
        if self.data_size is None or not self.is_exact:
            return None
        return self.data_size // self.sample_size

    @classmethod
    def read(cls, source: Source, total_size: int | None = None) -> "WavHeader | None":
        """Takes everything before the first sample.

        Args:
            total_size: bytes of the whole stream if known; tells placeholders from
                sizes.

        Returns:
            None, and nothing is taken, if this is no WAV, or one that needs another
            reader: compressed, or with a very long or damaged header.
        """
        start = source.peek(12)
        if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
            return None
        offset, chunks = 12, {}
        while True:
            name, size = _chunk(source.peek(offset + 8)[offset:])
            offset += 8
            if name == b"data":
                break
            end = offset + size + size % 2
            if not name or end > _MAX_HEADER:
                return None
            chunks[name] = source.peek(end)[offset:end]
            offset = end
        layout = _parse_format(chunks.get(b"fmt ", b""))
        if layout is None:
            return None
        if size == _UNKNOWN and len(chunks.get(b"ds64", b"")) >= 16:
            size, is_known = int.from_bytes(chunks[b"ds64"][8:16], "little"), True
        else:
            is_known = size < _HUGE or bool(total_size and offset + size <= total_size)
        riff_size = int.from_bytes(start[4:8], "little")
        if size == _UNKNOWN or (size == 0 and not offset - 8 < riff_size < _HUGE):
            source.read(offset)
            return cls(data_size=None, is_exact=False, **layout)
        source.read(offset)
        return cls(data_size=size, is_exact=is_known, **layout)


def read_wav(
    source: Source, header: WavHeader, block_samples: int
) -> Iterator[Float32[np.ndarray, "n c"]]:
    """Yields the samples behind a header, in [-1, 1], in blocks.

    It ends where the header or the stream ends; part of a sample is dropped.
    """
    left = math.inf if header.data_size is None else header.data_size
    while data := source.read(int(min(left, block_samples * header.sample_size))):
        left -= len(data)
        whole = len(data) - len(data) % header.sample_size
        if whole:
            samples = _to_float(data[:whole], header.type)
            yield samples.reshape(-1, header.channels)


def quantize(block: Float32[np.ndarray, "n c"]) -> Num[np.ndarray, "n c"]:
    """16-bit samples, rounded; what lies beyond [-1, 1] is clipped."""
    return np.clip(np.rint(block * np.float32(32768)), -32768, 32767).astype("<i2")


class WavWriter:
    """Writes one WAV to anything that takes bytes, which it does not close.

    Use it in a `with` statement; what follows an exception is left as it is. Above
    4 GB the file becomes RF64.

    Args:
        num_samples: per channel. If None, the header says 0xFFFFFFFF for the sizes.
            Where the stream can seek, closing puts right whatever was not so.
        subtype: "pcm16" or "float".
    """

    def __init__(
        self,
        stream: Writable,
        sample_rate: int,
        channels: int,
        num_samples: int | None = None,
        subtype: str = "pcm16",
    ):
        if subtype not in SUBTYPES:
            raise ValueError(
                f"the subtype is {subtype!r}, but WAV is written as one of {SUBTYPES}."
            )
        self._stream = stream
        self._sample_rate, self._channels = sample_rate, channels
        self._width = 2 if subtype == "pcm16" else 4
        self._declared = num_samples
        self._written = 0
        self._start = _position(stream)
        can_grow = num_samples is None and self._start is not None
        is_long = num_samples is not None and self._size(num_samples) > _UNKNOWN - 256
        self._has_room = can_grow or is_long  # for the sizes of RF64
        write_all(stream, self._header(num_samples))

    def write(self, block: Float32[np.ndarray, "n c"]) -> None:
        """Writes the next samples."""
        assert block.shape[1] == self._channels
        samples = quantize(block) if self._width == 2 else block.astype("<f4")
        write_all(self._stream, samples.tobytes())
        self._written += len(block)

    def __enter__(self) -> "WavWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._start is not None and self._written != self._declared:
            stream: BinaryIO = self._stream  # type: ignore[assignment]
            stream.seek(self._start)
            write_all(stream, self._header(self._written))
            stream.seek(0, 2)

    def _size(self, num_samples: int) -> int:
        return num_samples * self._channels * self._width

    def _header(self, num_samples: int | None) -> bytes:
        tag = _PCM if self._width == 2 else _FLOAT
        step = self._channels * self._width
        layout = [(tag, 2), (self._channels, 2), (self._sample_rate, 4)]
        layout += [(self._sample_rate * step, 4), (step, 2), (8 * self._width, 2)]
        body = b"fmt " + _bytes((16, 4), *layout)
        size = None if num_samples is None else self._size(num_samples)
        room = 36 if self._has_room else 0
        riff_size = None if size is None else 4 + room + len(body) + 8 + size
        name, extra = b"RIFF", b"JUNK" + _bytes((28, 4), (0, 28))
        if riff_size is None or riff_size >= _UNKNOWN:
            if size is not None and riff_size is not None:
                sizes = (riff_size, 8), (size, 8), (num_samples or 0, 8), (0, 4)
                name, extra = b"RF64", b"ds64" + _bytes((28, 4), *sizes)
            riff_size = size = _UNKNOWN
        assert size is not None
        start = name + _bytes((riff_size, 4)) + b"WAVE" + extra[:room]
        return start + body + b"data" + _bytes((size, 4))


def _chunk(head: bytes) -> tuple[bytes, int]:
    """Name and size of a chunk; no name if the stream ends before."""
    if len(head) < 8:
        return b"", 0
    return head[:4], int.from_bytes(head[4:8], "little")


def _parse_format(body: bytes) -> dict | None:
    """The fields of a `fmt ` chunk, if it is of a type that `read_wav` knows."""
    if len(body) < 16:
        return None
    tag, channels, rate, _, step, bits = np.frombuffer(
        body[:16], "<u2,<u2,<u4,<u4,<u2,<u2"
    )[0].tolist()
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = int.from_bytes(body[24:26], "little")
    kind = _TYPES.get((tag, bits))
    if kind is None or not rate or not channels or step != channels * bits // 8:
        return None
    return {"sample_rate": rate, "channels": channels, "type": kind}


def _to_float(data: bytes, kind: str) -> Float32[np.ndarray, "n"]:
    if kind == "<i3":
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = padded.view("<i4")[:, 0]
        return samples.astype(np.float32) / 2**31
    samples = np.frombuffer(data, kind)
    if kind == "u1":
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    with np.errstate(over="ignore"):  # the codec refuses infinities
        return samples.astype(np.float32)


def _bytes(*numbers: tuple[int, int]) -> bytes:
    """Little-endian numbers, each with its size in bytes."""
    return b"".join(number.to_bytes(size, "little") for number, size in numbers)


def _position(stream: Writable) -> int | None:
    """Where a stream stands; None if it cannot seek."""
    try:
        return stream.tell() if stream.seekable() else None  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
