"""The layered container `.jxc`, format version 1, byte by byte.

A file is a header, then chunks in order of time, then, only where the header does not
know the sample count, an end record. Numbers are big-endian; `varint` is unsigned
LEB128 in its shortest form, at most 6 bytes. Nothing needs seeking.

Header, 27 to 64 bytes:

    size    field
    4       magic B7 4A 58 43 ("\\xb7JXC")
    1       format version, 1
    1       size of the whole header in bytes, checksum included
    1       flags: bits 0-2 channels - 1; bit 3 num_samples is present; bit 4 blocks may
            be range coded; bit 5 original_rate is sample_rate; bits 6-7 zero
    1       num_streams
    varint  num_groups
    varint  codebook_size
    varint  stride
    varint  chunk_frames
    varint  sample_rate
    varint  original_rate, unless flag bit 5
    varint  num_samples at original_rate, if flag bit 3
    8       fingerprint of the weights and their probability tables
    1 + n   length of the codec's name, and the name in UTF-8
    4       CRC-32 (zlib) of all bytes before

Chunk `i` holds code frames `i * chunk_frames` and following:

    2       marker F5 4A
    varint  2 * i, plus 1 if the chunk holds fewer than chunk_frames frames
    varint  number of frames, only in that case
    saving  for each stream: bytes that its codes take less than at a fixed width
    2       CRC-16 of the chunk's bytes before
    blocks  one per stream, coarse first

A `saving` below 192 is one byte; a larger one is a byte `192 + (saving - 192) % 64`
and the varint `(saving - 192) // 64`. (One byte then does for 256 frames of three
1024-word groups down to 8 bits per code.)

Block:

    2       CRC-16 of the stream's number (1 byte), `i` (varint) and the codes' bytes
    n       the codes of all channels: for each group, for each channel, for each frame

A block whose codes take 0 bytes less than at a fixed width has them at that width,
`ceil(log2(codebook_size))` bits each, most significant bit first, the last byte filled
up with zeros. Any other block is range coded (see `range_coder`) with the tables of its
stream, padded with zero bytes to at least one byte per 64 codes. A block is therefore
never larger than at a fixed width, and says so itself. A chunk has at most 2**18 codes.

End record:

    2       marker F5 45
    varint  num_samples at original_rate
    2       CRC-16 of the record's bytes before

CRC-16 is CCITT's (polynomial 1021, start FFFF, `binascii.crc_hqx`). Damage is met so:

* Header: nothing can be decoded.
* Chunk header: the chunk is lost. The next marker followed by a valid chunk header is
  searched for, and the number there tells how many frames are missing.
* Block: this stream and the finer ones are lost for the chunk, the coarser are not.
* Early end: what came before is decoded, and the sample count is that of its frames.

A chunk number is believed only while the codes up to there are at most 64 for each byte
read so far, plus 2**18: so what is decoded stays within a fixed multiple of what was
read.
"""

import binascii
import dataclasses

from jaxcodec.bitstream.bits import decode_varint, encode_varint
from jaxcodec.bitstream.header import Header

CHUNK_MARKER = b"\xf5\x4a"
END_MARKER = b"\xf5\x45"
CRC_SIZE = 2


def block_crc(stream: int, index: int, payload: bytes) -> bytes:
    """Checksum of a block, which also ties it to its place."""
    start = binascii.crc_hqx(bytes([stream]) + encode_varint(index), 0xFFFF)
    return binascii.crc_hqx(payload, start).to_bytes(CRC_SIZE, "big")


@dataclasses.dataclass(frozen=True)
class ChunkHeader:
    """Where a chunk belongs, and how long its blocks are."""

    index: int  # its first code frame is index * chunk_frames of the file
    num_frames: int
    sizes: tuple[int, ...]  # bytes of each stream's codes, without checksum

    def to_bytes(self, header: Header) -> bytes:
        """Writes it, for the streams that `header` has."""
        partial = self.num_frames < header.chunk_frames
        data = CHUNK_MARKER + encode_varint(2 * self.index + partial)
        if partial:
            data += encode_varint(self.num_frames)
        fixed_size = header.fixed_size(self.num_frames)
        for size in self.sizes[: header.num_streams]:
            data += encode_saving(fixed_size - size)
        return seal(data)

    @classmethod
    def parse(cls, data: bytes, header: Header) -> tuple["ChunkHeader", int]:
        """Reads it, and returns its own size too.

        Raises:
            IndexError: the data end too early.
            ValueError: it is damaged.
        """
        key, offset = decode_varint(data, len(CHUNK_MARKER))
        num_frames = header.chunk_frames
        if key % 2:
            num_frames, offset = decode_varint(data, offset)
            _check(0 < num_frames < header.chunk_frames, "the number of frames")
        fixed_size, min_size = (
            header.fixed_size(num_frames),
            header.min_size(num_frames),
        )
        sizes = []
        for _ in range(header.num_streams):
            saved, offset = decode_saving(data, offset)
            _check(saved <= fixed_size - min_size, "the size of a block")
            _check(saved == 0 or header.coder == "range", "the coder of a block")
            sizes.append(fixed_size - saved)
        return cls(key // 2, num_frames, tuple(sizes)), _check_seal(data, offset)


def end_record(num_samples: int) -> bytes:
    """Writes the end record."""
    return seal(END_MARKER + encode_varint(num_samples))


def encode_saving(saving: int) -> bytes:
    """Writes by how many bytes a block is smaller; see the module docstring."""
    if saving < 192:
        return bytes([saving])
    rest, low = divmod(saving - 192, 64)
    return bytes([192 + low]) + encode_varint(rest)


def decode_saving(data: bytes, offset: int) -> tuple[int, int]:
    """Undoes `encode_saving`, with results and errors as `decode_varint`."""
    first = data[offset]
    if first < 192:
        return first, offset + 1
    rest, offset = decode_varint(data, offset + 1)
    return 64 * rest + first, offset


def seal(data: bytes) -> bytes:
    """Appends the CRC-16."""
    return data + binascii.crc_hqx(data, 0xFFFF).to_bytes(CRC_SIZE, "big")


def parse_end_record(data: bytes) -> tuple[int, int]:
    """Returns num_samples and the record's size; raises as `ChunkHeader.parse` does."""
    num_samples, offset = decode_varint(data, len(END_MARKER))
    return num_samples, _check_seal(data, offset)


def _check_seal(data: bytes, offset: int) -> int:
    """Checks the CRC-16 at `offset` and returns the offset behind it."""
    end = offset + CRC_SIZE
    if len(data) < end:
        raise IndexError
    _check(
        binascii.crc_hqx(data[:offset], 0xFFFF)
        == int.from_bytes(data[offset:end], "big"),
        "the checksum",
    )
    return end


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"{what} is not possible here: the bytes are damaged.")
