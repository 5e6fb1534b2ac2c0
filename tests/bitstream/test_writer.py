import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.bitstream import (
    ContainerError,
    ProbabilityTables,
    Writer,
    in_chunks,
    read_bytes,
    scan,
    write_bytes,
)


@st.composite
def shapes(draw):
    return {
        "channels": draw(st.integers(1, 8)),
        "num_streams": draw(st.integers(1, 6)),
        "num_groups": draw(st.integers(1, 4)),
        "codebook_size": draw(st.sampled_from([2, 3, 10, 256, 1000, 1024, 65_536])),
        "chunk_frames": draw(st.integers(1, 20)),
    }


@given(lengths=st.lists(st.integers(0, 30), max_size=9), size=st.integers(1, 12))
def test_codes_are_cut_anew_as_soon_as_they_are_there(lengths, size):
    codes = np.arange(6 * sum(lengths)).reshape(1, 2, 3, -1)
    taken = [0]

    def pieces():
        for length in lengths:
            taken.append(taken[-1] + length)
            yield codes[..., taken[-2] : taken[-1]]

    made = []
    for chunk in in_chunks(pieces(), size):
        assert taken[-2] < size * (len(made) + 1)
        made.append(chunk)
    assert all(chunk.shape[-1] == size for chunk in made[:-1])
    assert len(made) == -(-sum(lengths) // size)
    np.testing.assert_array_equal(np.concatenate([codes[..., :0], *made], -1), codes)


@settings(deadline=None)
@given(
    fields=shapes(),
    num_frames=st.integers(0, 50),
    coder=st.sampled_from(["auto", "fixed", "range"]),
    skewed=st.booleans(),
    known=st.booleans(),
    rate=st.sampled_from([8000, 16_000, 44_100]),
)
def test_round_trip(
    make_header, make_codes, fields, num_frames, coder, skewed, known, rate
):
    header = make_header(original_rate=rate, **fields)
    num_samples = header.samples_of(num_frames)
    header = dataclasses.replace(header, num_samples=num_samples if known else None)
    numbers = np.random.default_rng(num_frames)
    shape = header.num_streams, header.num_groups, header.codebook_size
    tables = ProbabilityTables.from_counts(numbers.geometric(0.1, shape) ** 3, 24)
    codes = make_codes(header, num_frames, tables if skewed else None)
    target = io.BytesIO()
    writer = Writer(target, header, tables, coder)
    for start in range(0, num_frames, header.chunk_frames):
        writer.write_chunk(codes[..., start : start + header.chunk_frames])
    writer.close(None if known else num_samples)
    data = target.getvalue()

    decoded = read_bytes(data, tables, strict=True)
    np.testing.assert_array_equal(decoded.codes, codes)
    expected = "fixed" if coder == "fixed" else "range"
    assert decoded.header == dataclasses.replace(
        header, coder=expected, num_samples=num_samples
    )
    assert (decoded.valid_streams == header.num_streams).all()
    assert decoded.valid_streams.shape == (num_frames,)
    assert decoded.damage == ()

    # Never larger than at a fixed width, chunk headers included.
    known_header = dataclasses.replace(header, num_samples=num_samples)
    trailer = 0 if known else len(data)
    fixed = write_bytes(known_header, codes, coder="fixed")
    assert len(data) <= len(fixed) + trailer
    if known:
        assert write_bytes(header, codes, tables, coder) == data


def test_silence_costs_little(make_header, make_tables):
    """The floor of one byte per 64 codes, where tables know what is likely."""
    header = make_header(num_frames=1024)
    counts = np.zeros((6, 3, 1024), np.int64)
    counts[..., 7] = 10**9
    codes = np.full((1, 6, 3, 1024), 7, np.int32)
    data = write_bytes(header, codes, ProbabilityTables.from_counts(counts))
    assert scan(io.BytesIO(data)).stream_bytes == (3 * 1024 // 64,) * 6


def test_each_block_takes_the_smaller_coder(make_header, make_tables, make_codes):
    header = make_header(num_frames=64, num_streams=2)
    tables = make_tables(header)
    fitting, uniform = make_codes(header, 64, tables), make_codes(header, 64)
    codes = np.concatenate([fitting[:, :1], uniform[:, :1]], axis=1)
    info = scan(io.BytesIO(write_bytes(header, codes, tables)))
    assert info.range_blocks == 1
    assert info.stream_bytes[0] < info.stream_bytes[1] == 240


class RawStream:
    """Takes at most 7 bytes per call, as a raw file or socket may."""

    def __init__(self):
        self.data = b""

    def write(self, data, /):
        self.data += data[:7]
        return len(data[:7])


def test_partial_writes(make_header, make_codes):
    header = make_header(num_frames=20, chunk_frames=8)
    codes = make_codes(header, 20)
    target = RawStream()
    writer = Writer(target, header)
    for start in (0, 8, 16):
        writer.write_chunk(codes[..., start : start + 8])
    writer.close()
    writer.close()
    assert target.data == write_bytes(header, codes)


def test_constructor_errors(make_header, make_tables):
    header = make_header()
    tables = make_tables(header)
    with pytest.raises(ContainerError, match="the coder is 'zip', but only"):
        Writer(io.BytesIO(), header, coder="zip")
    with pytest.raises(ContainerError, match="without probability tables"):
        Writer(io.BytesIO(), header, coder="range")
    fields = {"num_streams": 7}, {"num_groups": 2}, {"codebook_size": 1000}
    for other in fields:
        with pytest.raises(ContainerError, match=r"\(6, 3, 1024\), but the container"):
            Writer(io.BytesIO(), make_header(**other), tables)
        Writer(io.BytesIO(), make_header(**other), tables, coder="fixed")


@pytest.mark.parametrize(
    "shape", [(2, 6, 3, 4), (1, 5, 3, 4), (1, 6, 2, 4), (1, 6, 3, 0), (1, 6, 3, 5)]
)
def test_wrong_shapes(make_header, shape):
    writer = Writer(io.BytesIO(), make_header(num_frames=20, chunk_frames=4))
    with pytest.raises(ContainerError, match=rf"\({shape[0]}, {shape[1]}.*1 to 4 fram"):
        writer.write_chunk(np.zeros(shape, np.int32))


def test_wrong_codes(make_header):
    writer = Writer(io.BytesIO(), make_header(codebook_size=1000))
    for code in (-1, 1000):
        codes = np.zeros((1, 6, 3, 4), np.int32)
        codes[0, 2, 1, 3] = code
        with pytest.raises(ContainerError, match=rf"{code}.* has 1000 codewords"):
            writer.write_chunk(codes)


def test_wrong_lengths(make_header, make_codes):
    header = make_header(num_frames=10, chunk_frames=4)
    codes = make_codes(header, 12)
    with pytest.raises(ContainerError, match="4 frames follows 8 frames, but the rec"):
        write_bytes(header, codes)
    with pytest.raises(ContainerError, match="10 code frames, but 7 were written"):
        write_bytes(header, codes[..., :7])
    writer = Writer(io.BytesIO(), header)
    writer.write_chunk(codes[..., :3])
    with pytest.raises(ContainerError, match="4 frames follows 3 frames"):
        writer.write_chunk(codes[..., :4])
    with pytest.raises(ContainerError, match="is 960, but the header said 3200"):
        writer.close(960)


def test_unknown_length(make_header, make_codes):
    header = make_header(num_samples=None, chunk_frames=4)
    target = io.BytesIO()
    writer = Writer(target, header)
    writer.write_chunk(make_codes(header, 4))
    with pytest.raises(ContainerError, match="num_samples is still unknown"):
        writer.close()
    with pytest.raises(ContainerError, match="5 code frames, but 4 were written"):
        writer.close(1281)
    writer.close(1280)
    size = len(target.getvalue())
    writer.close(1280)
    assert len(target.getvalue()) == size
    with pytest.raises(ContainerError, match="follows 4 frames"):
        writer.write_chunk(make_codes(header, 4))
