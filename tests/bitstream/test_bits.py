import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jaxcodec.bitstream.bits import (
    code_width,
    decode_varint,
    encode_varint,
    pack,
    packed_size,
    unpack,
)


@settings(deadline=None)
@given(st.data())
def test_pack_round_trip(data):
    width = data.draw(st.integers(1, 31))
    elements = st.integers(0, 2**width - 1)
    codes = data.draw(
        arrays(np.int32, array_shapes(max_dims=4, min_side=0), elements=elements)
    )
    packed = pack(codes, width)
    assert len(packed) == packed_size(codes.size, width)
    unpacked = unpack(packed, width, codes.shape)
    assert unpacked.dtype == np.int32
    np.testing.assert_array_equal(unpacked, codes)


@settings(deadline=None)
@given(st.integers(1, 31), st.lists(st.integers(0, 2**31 - 1), max_size=20))
def test_pack_is_the_bits_in_order(width, numbers):
    codes = np.array([number % 2**width for number in numbers], np.int64)
    bits = "".join(f"{code:0{width}b}" for code in codes)
    bits += "0" * (-len(bits) % 8)
    assert pack(codes, width) == bytes(
        int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)
    )


@pytest.mark.parametrize(
    ("codebook_size", "width"),
    [(2, 1), (3, 2), (1000, 10), (1024, 10), (1025, 11), (65_536, 16)],
)
def test_code_width(codebook_size, width):
    assert code_width(codebook_size) == width


@settings(deadline=None)
@given(st.integers(0, 2**42 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_varint_round_trip(value, before, after):
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    end = len(before) + len(encoded)
    assert decode_varint(before + encoded + after, len(before)) == (value, end)


@settings(deadline=None)
@given(st.integers(0, 2**42 - 1))
def test_cut_varint_asks_for_more(value):
    with pytest.raises(IndexError):
        decode_varint(encode_varint(value)[:-1], 0)


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff" * 6, b"\x81\x80\x00"])
def test_varint_has_one_form(data):
    with pytest.raises(ValueError, match="at byte 0 is not in its shortest form"):
        decode_varint(data + b"\x00", 0)


def test_errors():
    with pytest.raises(ValueError, match=r"lie in \[-1, 3\], but 10 bits hold only"):
        pack(np.array([-1, 3]), 10)
    with pytest.raises(ValueError, match=r"lie in \[0, 16\].*\[0, 15\]"):
        pack(np.array([0, 16]), 4)
    with pytest.raises(ValueError, match="width is 32 bits"):
        pack(np.array([1]), 32)
    with pytest.raises(ValueError, match=r"3 bytes were given, but 2 codes .* take 2"):
        unpack(b"abc", 8, (2, 1))
    with pytest.raises(ValueError, match="-1 cannot be stored"):
        encode_varint(-1)
    with pytest.raises(ValueError, match=f"{2**42} cannot be stored"):
        encode_varint(2**42)
