import dataclasses
import io

import numpy as np
import pytest

from jaxcodec.bitstream import (
    ContainerError,
    Writer,
    peel,
    peel_bytes,
    read_bytes,
    scan,
    write_bytes,
)


def encode(header, codes, tables, coder, known):
    """A file whose header knows its length, or one with an end record."""
    if known:
        return write_bytes(header, codes, tables, coder)
    target = io.BytesIO()
    writer = Writer(
        target, dataclasses.replace(header, num_samples=None), tables, coder
    )
    for start in range(0, codes.shape[-1], header.chunk_frames):
        writer.write_chunk(codes[..., start : start + header.chunk_frames])
    writer.close(header.num_samples)
    return target.getvalue()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("coder", ["fixed", "range"])
@pytest.mark.parametrize("channels", [1, 2])
def test_peeling_equals_encoding_fewer_streams(
    make_header, make_tables, make_codes, known, coder, channels
):
    header = make_header(num_frames=30, chunk_frames=8, channels=channels)
    tables = make_tables(header)
    codes = make_codes(header, 30, tables)
    codes[:, 1] = make_codes(header, 30)[:, 1]  # a stream that range coding cannot help
    data = encode(header, codes, tables, coder, known)
    for num_streams in range(1, 7):
        fewer = dataclasses.replace(header, num_streams=num_streams)
        expected = encode(fewer, codes[:, :num_streams], tables, coder, known)
        assert peel_bytes(data, num_streams) == expected
        assert peel_bytes(peel_bytes(data, 6), num_streams) == expected


def test_peeling_damaged_files(make_header, make_codes):
    header = make_header(num_frames=30, chunk_frames=8, num_streams=3)
    codes = make_codes(header, 30)
    data = write_bytes(header, codes)
    for position in range(len(header.to_bytes()), len(data), 7):
        damaged = data[:position] + b"\xa5\x5a\xa5" + data[position + 3 :]
        target = io.BytesIO()
        messages = peel(io.BytesIO(damaged), target, 2)
        before, after = read_bytes(damaged), read_bytes(target.getvalue())
        assert messages == before.damage
        length = len(after.valid_streams)
        expected = np.minimum(before.valid_streams, 2)
        np.testing.assert_array_equal(after.valid_streams, expected[:length])
        assert not expected[length:].any()
        np.testing.assert_array_equal(after.codes, before.codes[:, :2, :, :length])


def test_peeling_copies_damaged_blocks(make_header, make_codes):
    header = make_header(num_frames=8, num_streams=2)
    data = bytearray(write_bytes(header, make_codes(header, 8)))
    expected = bytearray(peel_bytes(bytes(data), 1))
    data[-33] ^= 1  # the last byte of stream 0: stream 1 takes 2 + 30
    expected[-1] ^= 1
    assert peel_bytes(bytes(data), 1) == expected


@pytest.mark.parametrize("size", [100, 200, 300, 400])
def test_peeling_cut_files(make_header, make_codes, size):
    header = make_header(num_frames=30, chunk_frames=8, num_streams=3)
    data = write_bytes(header, make_codes(header, 30))[:size]
    before, after = read_bytes(data), read_bytes(peel_bytes(data, 2))
    np.testing.assert_array_equal(
        after.valid_streams, np.minimum(before.valid_streams, 2)
    )


@pytest.mark.parametrize("num_streams", [0, 7, -1])
def test_cannot_keep_other_streams(make_header, make_codes, num_streams):
    data = write_bytes(make_header(num_frames=8), make_codes(make_header(), 8))
    with pytest.raises(ContainerError, match=rf"{num_streams} streams .* has 6: keep"):
        peel_bytes(data, num_streams)


def test_scan_tells_true_sizes(make_header, make_codes):
    header = make_header(num_frames=500, original_rate=16_000)
    info = scan(io.BytesIO(write_bytes(header, make_codes(header, 500))))
    assert info.header == header
    assert (info.num_chunks, info.num_frames) == (2, 500)
    assert info.stream_bytes == (1875,) * 6
    assert info.range_blocks == 0
    assert info.overhead_bytes == 89
    assert info.total_bytes == 11_250 + 89
    assert info.duration == 10
    assert info.bitrate == 8 * 11_339 / 10
    assert info.damage == ()


def test_scan_without_tables(make_header, make_tables, make_codes):
    header = make_header(num_frames=100)
    tables = make_tables(header)
    data = write_bytes(header, make_codes(header, 100, tables), tables)
    info = scan(io.BytesIO(data))
    assert info.range_blocks == 6
    assert info.overhead_bytes + sum(info.stream_bytes) == len(data) == info.total_bytes


def test_scan_of_a_cut_file(make_header, make_codes):
    header = make_header(num_frames=500)
    data = write_bytes(header, make_codes(header, 500))[:8000]
    info = scan(io.BytesIO(data))
    assert info.num_frames == 500
    assert info.stream_bytes == (1875, 1875, 960, 960, 960, 960)
    assert info.total_bytes == 8000
    assert info.damage == ("chunk 1, stream 2 of 6: the file ends inside its block",)
    shorter = scan(io.BytesIO(data[:6000]))
    assert shorter.num_frames == 256
    assert shorter.header.num_samples == 256 * 320
    empty = scan(io.BytesIO(header.to_bytes()))
    assert (empty.header.num_samples, empty.bitrate) == (0, 0.0)
