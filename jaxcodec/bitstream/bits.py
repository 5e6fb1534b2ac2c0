"""Integers as bytes: fixed-width packing of codes, and variable-length integers."""

import numpy as np
from jaxtyping import Int, Integer

MAX_VARINT_SIZE = 6  # bytes of 7 bits: values below 2**42
MAX_WIDTH = 31  # bits; codes are int32


def code_width(codebook_size: int) -> int:
    """Bits that one code below `codebook_size` takes at a fixed width."""
    return (codebook_size - 1).bit_length()


def packed_size(num_codes: int, width: int) -> int:
    """Bytes that `pack` makes of so many codes."""
    return (num_codes * width + 7) // 8


def pack(codes: Integer[np.ndarray, "..."], width: int) -> bytes:
    """Packs codes one after another, most significant bit first.

    The last byte is filled up with zero bits.

    Args:
        codes: any shape, packed in C order; each in [0, 2**width).
        width: bits per code, 1 to 31.

    Raises:
        ValueError: a code does not fit, or the width is out of range.
    """
    _check_width(width)
    if codes.size and not 0 <= codes.min() <= codes.max() < 1 << width:
        raise ValueError(
            f"codes lie in [{codes.min()}, {codes.max()}], but {width} bits hold only "
            f"[0, {(1 << width) - 1}]: check the codes or choose a larger width."
        )
    flat = codes.reshape(-1)
    stored = np.uint16 if width <= 16 else np.uint32
    # Each code as 16 or 32 big-endian bits, of which the last `width` are kept.
    big_endian = flat.astype(stored).astype(np.dtype(stored).newbyteorder(">"))
    stored_width = 8 * big_endian.itemsize
    bits = np.unpackbits(big_endian.view(np.uint8)).reshape(flat.size, stored_width)
    return np.packbits(bits[:, stored_width - width :]).tobytes()


def unpack(data: bytes, width: int, shape: tuple[int, ...]) -> Int[np.ndarray, "..."]:
    """Undoes `pack`: returns int32 codes of this shape.

    Raises:
        ValueError: `data` is not exactly as long as `shape` takes, or the width is out
            of range.
    """
    _check_width(width)
    num_codes = int(np.prod(shape, dtype=np.int64))
    if len(data) != packed_size(num_codes, width):
        raise ValueError(
            f"{len(data)} bytes were given, but {num_codes} codes of {width} bits take "
            f"{packed_size(num_codes, width)}: pass the bytes of one `pack` call."
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=num_codes * width)
    stored = np.dtype(">u2" if width <= 16 else ">u4")
    padded = np.zeros((num_codes, 8 * stored.itemsize), np.uint8)
    padded[:, padded.shape[1] - width :] = bits.reshape(num_codes, width)
    return np.packbits(padded).view(stored).astype(np.int32).reshape(shape)


def encode_varint(value: int) -> bytes:
    """Writes a non-negative integer in 7-bit groups, low first (LEB128).

    Raises:
        ValueError: the value is negative or takes more than 6 bytes.
    """
    if not 0 <= value < 1 << 7 * MAX_VARINT_SIZE:
        raise ValueError(
            f"{value} cannot be stored, but only integers in [0, 2**42): check the "
            "value for an overflow or a lost sign."
        )
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Returns the integer at `offset` and the offset just behind it.

    Raises:
        IndexError: the data end inside the integer.
        ValueError: it is longer than 6 bytes, or than its value needs.
    """
    value = 0
    for position in range(MAX_VARINT_SIZE):
        byte = data[offset + position]
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if byte == 0 and position:
                break
            return value, offset + position + 1
    raise ValueError(
        f"the integer at byte {offset} is not in its shortest form of at most "
        f"{MAX_VARINT_SIZE} bytes: the data are damaged or start elsewhere."
    )


def _check_width(width: int) -> None:
    if not 1 <= width <= MAX_WIDTH:
        raise ValueError(
            f"width is {width} bits, but a code takes 1 to {MAX_WIDTH}: derive it with "
            "code_width(codebook_size)."
        )
