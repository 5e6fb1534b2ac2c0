"""The header of a container: what a decoder must know before the first code.

The bytes are described in `container`.
"""

import dataclasses
import zlib

from jaxcodec.bitstream.bits import (
    code_width,
    decode_varint,
    encode_varint,
    packed_size,
)
from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.source import Source

MAGIC = b"\xb7JXC"
VERSION = 1
MAX_HEADER_SIZE = 64  # bytes; the limits below add up to 63
MAX_CHUNK_CODES = 1 << 18  # codes in one chunk, all streams together
MAX_CODES_PER_BYTE = 64  # codes that one byte of a block may stand for

_MIN_HEADER_SIZE = 27
_KNOWN_LENGTH, _RANGE_CODED, _SAME_RATE = 0x08, 0x10, 0x20  # flags above 3 bits
_CODERS = ("fixed", "range")


def num_code_frames(
    num_samples: int, *, sample_rate: int, original_rate: int, stride: int
) -> int:
    """Code frames that a recording takes: all its samples, the last frame padded.

    `ceil(num_samples * sample_rate / original_rate)` samples at the codec's rate, and
    one frame for each `stride` of those or part of it. Integers only.

    Args:
        num_samples: per channel, at `original_rate`.
        sample_rate, original_rate: of the codec and of the recording, in Hz.
        stride: samples at `sample_rate` per code frame.
    """
    codec_samples = -(-num_samples * sample_rate // original_rate)
    return -(-codec_samples // stride)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What one container holds.

    Raises:
        ContainerError: a field is outside the limits of the format.
    """

    codec: str  # name of the model, 1 to 20 bytes of UTF-8
    fingerprint: bytes  # 8 bytes naming the weights and their probability tables
    sample_rate: int  # Hz, at which the codec works
    original_rate: int  # Hz, to which the decoder resamples back
    channels: int  # audio channels, 1 to 8
    num_samples: int | None = None  # per channel at original_rate; None: not known yet
    stride: int  # samples at sample_rate per code frame
    num_streams: int  # in this container, 1 to 32
    num_groups: int  # product groups per stream, 1 to 127
    codebook_size: int  # codes lie below it, 2 to 65536
    chunk_frames: int = 256  # code frames per chunk; the last may hold fewer
    coder: str = "fixed"  # "range": blocks may be range coded, each says for itself
    version: int = VERSION  # of the format

    def __post_init__(self):
        if self.version != VERSION:
            raise ContainerError(
                f"the format version is {self.version}, but this program knows only "
                f"{VERSION}: install a newer jaxcodec."
            )
        name_size = len(self.codec.encode(errors="replace"))
        if not (1 <= name_size <= 20 and self.codec.isprintable()):
            raise ContainerError(
                f"the codec name {self.codec!r} takes {name_size} bytes of UTF-8, but "
                "it must be printable and take 1 to 20: choose another name."
            )
        if len(self.fingerprint) != 8:
            raise ContainerError(
                f"the fingerprint has {len(self.fingerprint)} bytes, but must have 8: "
                "pass the first 8 bytes of the weights' hash."
            )
        if self.coder not in _CODERS:
            raise ContainerError(
                f"the coder is {self.coder!r}, but only {_CODERS} exist: name one."
            )
        _check_range("sample_rate", self.sample_rate, 1, (1 << 21) - 1)
        _check_range("original_rate", self.original_rate, 1, (1 << 21) - 1)
        _check_range("channels", self.channels, 1, 8)
        _check_range("stride", self.stride, 1, (1 << 21) - 1)
        _check_range("num_streams", self.num_streams, 1, 32)
        _check_range("num_groups", self.num_groups, 1, 127)
        _check_range("codebook_size", self.codebook_size, 2, 1 << 16)
        _check_range("chunk_frames", self.chunk_frames, 1, (1 << 21) - 1)
        if self.num_samples is not None:
            _check_range("num_samples", self.num_samples, 0, (1 << 42) - 1)
        if self.chunk_frames * self.frame_codes > MAX_CHUNK_CODES:
            raise ContainerError(
                f"one chunk holds {self.chunk_frames * self.frame_codes} codes, but at "
                f"most {MAX_CHUNK_CODES} are allowed: choose chunk_frames of at most "
                f"{MAX_CHUNK_CODES // self.frame_codes}."
            )

    @property
    def frame_codes(self) -> int:
        """Codes in one code frame, over all channels, streams and groups."""
        return self.channels * self.num_streams * self.num_groups

    @property
    def num_frames(self) -> int | None:
        """Code frames of the whole recording; None while its length is unknown."""
        if self.num_samples is None:
            return None
        return self.frames_of(self.num_samples)

    def frames_of(self, num_samples: int) -> int:
        """Code frames that so many samples at the original rate take."""
        return num_code_frames(
            num_samples,
            sample_rate=self.sample_rate,
            original_rate=self.original_rate,
            stride=self.stride,
        )

    def samples_of(self, num_frames: int) -> int:
        """Samples at the original rate that so many code frames cover in full."""
        return num_frames * self.stride * self.original_rate // self.sample_rate

    def block_codes(self, num_frames: int) -> int:
        """Codes in one block: all channels and groups of one stream."""
        return self.channels * self.num_groups * num_frames

    def fixed_size(self, num_frames: int) -> int:
        """Bytes of one block's codes at a fixed width, which is the most they take."""
        return packed_size(self.block_codes(num_frames), code_width(self.codebook_size))

    def min_size(self, num_frames: int) -> int:
        """Bytes that one block's codes take at least: few cannot ask for much."""
        return -(-self.block_codes(num_frames) // MAX_CODES_PER_BYTE)

    def to_bytes(self) -> bytes:
        """Writes the header, at most 64 bytes."""
        same_rate = self.sample_rate == self.original_rate
        flags = self.channels - 1
        flags |= _KNOWN_LENGTH * (self.num_samples is not None)
        flags |= _RANGE_CODED * (self.coder == "range")
        flags |= _SAME_RATE * same_rate
        numbers = [
            self.num_groups,
            self.codebook_size,
            self.stride,
            self.chunk_frames,
            self.sample_rate,
        ]
        if not same_rate:
            numbers.append(self.original_rate)
        if self.num_samples is not None:
            numbers.append(self.num_samples)
        name = self.codec.encode()
        fields = bytes([flags, self.num_streams])
        fields += b"".join(map(encode_varint, numbers))
        fields += self.fingerprint + bytes([len(name)]) + name
        size = len(MAGIC) + 2 + len(fields) + 4
        assert _MIN_HEADER_SIZE <= size <= MAX_HEADER_SIZE
        data = MAGIC + bytes([self.version, size]) + fields
        return data + zlib.crc32(data).to_bytes(4, "big")

    @classmethod
    def read(cls, source: Source) -> "Header":
        """Reads the header from the start of a stream, and not a byte more.

        Raises:
            ContainerError: this is no container, or its header is damaged.
        """
        start = source.peek(len(MAGIC) + 2)
        if start[: len(MAGIC)] != MAGIC:
            raise ContainerError(
                f"the stream starts with {start[: len(MAGIC)]!r}, but a jaxcodec file "
                f"starts with {MAGIC!r}: pass a .jxc file."
            )
        if len(start) < len(MAGIC) + 2:
            raise _damaged(f"ends after {len(start)} bytes")
        version, size = start[len(MAGIC) :]
        if not _MIN_HEADER_SIZE <= size <= MAX_HEADER_SIZE:
            raise _damaged(f"claims {size} bytes")
        data = source.read(size)
        if len(data) < size:
            raise _damaged(f"ends after {len(data)} of {size} bytes")
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
            raise _damaged("does not match its checksum")
        if version != VERSION:
            raise ContainerError(
                f"the format version is {version}, but this program knows only "
                f"{VERSION}: install a newer jaxcodec."
            )
        try:
            return cls._parse(data[len(MAGIC) + 2 : -4])
        except (IndexError, UnicodeDecodeError, ContainerError) as error:
            raise _damaged(f"holds impossible values ({error})") from error
        except ValueError as error:
            raise _damaged(f"holds an unreadable number ({error})") from error

    @classmethod
    def _parse(cls, fields: bytes) -> "Header":
        flags, num_streams = fields[0], fields[1]
        if flags & ~0x3F:
            raise ContainerError(f"flags {flags:#x} are unknown")
        names = ["num_groups", "codebook_size", "stride", "chunk_frames", "sample_rate"]
        if not flags & _SAME_RATE:
            names.append("original_rate")
        if flags & _KNOWN_LENGTH:
            names.append("num_samples")
        numbers, offset = {}, 2
        for name in names:
            numbers[name], offset = decode_varint(fields, offset)
        numbers.setdefault("original_rate", numbers["sample_rate"])
        name_start = offset + 9
        name_end = name_start + fields[offset + 8]
        if name_end != len(fields):
            raise ContainerError(f"{len(fields) - name_end} bytes are left over")
        return cls(
            codec=fields[name_start:].decode(),
            fingerprint=fields[offset : offset + 8],
            channels=(flags & 7) + 1,
            num_streams=num_streams,
            coder=_CODERS[bool(flags & _RANGE_CODED)],
            **numbers,
        )


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ContainerError(
            f"{name} is {value}, but the format holds {lowest} to {highest}: "
            f"choose {name} within that."
        )


def _damaged(what: str) -> ContainerError:
    return ContainerError(
        f"the header {what}, but it must be whole, at most {MAX_HEADER_SIZE} bytes and "
        "match its checksum, or nothing can be decoded: get another copy of the file."
    )
