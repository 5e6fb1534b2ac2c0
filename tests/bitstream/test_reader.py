import io

import numpy as np
import pytest

from jaxcodec.bitstream import (
    ContainerError,
    ProbabilityTables,
    Reader,
    Writer,
    peel,
    read_bytes,
    scan,
    write_bytes,
)


class OneByte:
    """A stream without seeking that gives one byte at a time."""

    def __init__(self, data):
        self._stream = io.BytesIO(data)

    def read(self, size, /):
        return self._stream.read(min(size, 1))


def test_one_byte_at_a_time(make_header, make_tables, make_codes):
    header = make_header(num_frames=50, chunk_frames=16)
    tables = make_tables(header)
    codes = make_codes(header, 50, tables)
    data = write_bytes(header, codes, tables)
    reader = Reader(OneByte(data), tables, strict=True)
    chunks = list(reader)
    assert [chunk.first_frame for chunk in chunks] == [0, 16, 32, 48]
    assert [chunk.num_streams for chunk in chunks] == [6] * 4
    together = np.concatenate([chunk.codes for chunk in chunks], axis=-1)
    np.testing.assert_array_equal(together, codes)
    assert scan(OneByte(data)) == scan(io.BytesIO(data))
    peeled = io.BytesIO()
    peel(OneByte(data), peeled, 2)
    expected = write_bytes(
        make_header(num_frames=50, chunk_frames=16, num_streams=2),
        codes[:, :2],
        make_tables(header),
    )
    assert peeled.getvalue() == expected


class Pipe:
    """Fails where a pipe would block: on reading what nobody has written yet."""

    def __init__(self):
        self._data = b""

    def write(self, data, /):
        self._data += data

    def read(self, size, /):
        assert size <= len(self._data), "would block"
        piece, self._data = self._data[:size], self._data[size:]
        return piece


@pytest.mark.parametrize("known", [True, False])
def test_chunks_come_out_of_a_pipe_as_soon_as_they_are_in(
    make_header, make_codes, known
):
    header = make_header(num_frames=10, chunk_frames=4)
    codes = make_codes(header, 10)
    if not known:
        header = make_header(num_samples=None, chunk_frames=4)
    pipe = Pipe()
    writer = Writer(pipe, header)
    reader = Reader(pipe, strict=True)
    chunks = iter(reader)
    for start in (0, 4, 8):
        writer.write_chunk(codes[..., start : start + 4])
        chunk = next(chunks)
        np.testing.assert_array_equal(chunk.codes, codes[..., start : start + 4])
    writer.close(3200)
    assert next(chunks, None) is None
    assert reader.num_samples == 3200


def test_empty_recording(make_header):
    header = make_header(num_frames=0)
    decoded = read_bytes(write_bytes(header, np.zeros((1, 6, 3, 0), np.int32)))
    assert decoded.codes.shape == (1, 6, 3, 0)
    assert decoded.header.num_samples == 0
    assert decoded.damage == ()


def test_range_coded_without_tables(make_header, make_tables, make_codes):
    header = make_header(num_frames=20)
    tables = make_tables(header)
    codes = make_codes(header, 20, tables)
    data = write_bytes(header, codes, tables)
    with pytest.raises(ContainerError, match=r"range coded, but no .* of 'esc-base'"):
        read_bytes(data)
    assert scan(io.BytesIO(data)).damage == ()


def test_tables_of_another_codec(make_header, make_tables, make_codes):
    header = make_header(num_frames=20)
    data = write_bytes(header, make_codes(header, 20))
    other = make_tables(make_header(codebook_size=512))
    with pytest.raises(ContainerError, match=r"\(6, 3, 512\), but the container has"):
        read_bytes(data, other)


def test_tables_of_other_weights_never_crash(make_header, make_tables, make_codes):
    header = make_header(num_frames=64, chunk_frames=16)
    tables = make_tables(header)
    data = write_bytes(header, make_codes(header, 64, tables), tables)
    flat = np.zeros((6, 3, 1024), np.int64)
    flat[..., 0] = 10**9
    for other in (make_tables(header, seed=1), ProbabilityTables.from_counts(flat)):
        decoded = read_bytes(data, other)
        assert decoded.codes.shape == (1, 6, 3, 64)
        assert 0 <= decoded.codes.min() <= decoded.codes.max() < 1024


def test_blocks_that_fit_no_codes_are_damage(make_header, make_codes):
    header = make_header(num_frames=8, codebook_size=1024, num_streams=3)
    codes = make_codes(header, 8) % 1000
    codes[0, 1, 0, 0] = 1023
    data = write_bytes(header, codes)
    # The same chunk under a header with 1000 codewords.
    smaller = make_header(num_frames=8, codebook_size=1000, num_streams=3).to_bytes()
    smaller += data[len(header.to_bytes()) :]
    decoded = read_bytes(smaller)
    assert (decoded.valid_streams == 1).all()
    np.testing.assert_array_equal(decoded.codes[:, :1], codes[:, :1])
    assert not decoded.codes[:, 1:].any()
    assert decoded.damage == (
        "chunk 0, stream 1: code 1023 is outside the codebook of 1000",
    )
    with pytest.raises(
        ContainerError, match="outside the codebook of 1000, but strict"
    ):
        read_bytes(smaller, strict=True)


def test_bytes_behind_the_end(make_header, make_codes):
    header = make_header(num_frames=8)
    codes = make_codes(header, 8)
    data = write_bytes(header, codes) + b"12345"
    decoded = read_bytes(data)
    np.testing.assert_array_equal(decoded.codes, codes)
    assert decoded.damage == ("5 bytes follow the end of the container",)
    assert scan(io.BytesIO(data)).damage == decoded.damage
    with pytest.raises(ContainerError, match="5 bytes follow the end"):
        read_bytes(data, strict=True)


def test_not_a_container():
    with pytest.raises(ContainerError, match=r"starts with b'RIFF', but a jaxcodec"):
        read_bytes(b"RIFF....WAVE")
    with pytest.raises(ContainerError, match=r"starts with b''"):
        read_bytes(b"")
