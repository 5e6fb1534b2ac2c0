"""Damage: what is lost, what is kept, and that it is said."""

import io

import numpy as np
import pytest

from jaxcodec.bitstream import (
    ContainerError,
    Reader,
    Writer,
    read_bytes,
    scan,
    write_bytes,
)
from jaxcodec.bitstream.chunks import Chunks
from jaxcodec.bitstream.container import ChunkHeader, end_record
from jaxcodec.bitstream.header import Header
from jaxcodec.bitstream.source import Source

CHUNK_FRAMES = 8
NUM_FRAMES = 30  # three full chunks and one of 6 frames


@pytest.fixture(scope="module", params=["fixed", "range"])
def case(request, make_header, make_tables, make_codes):
    """A file, its codes and tables, and where each chunk and block lies in it."""
    header = make_header(
        num_frames=NUM_FRAMES, num_streams=3, chunk_frames=CHUNK_FRAMES, channels=2
    )
    tables = make_tables(header) if request.param == "range" else None
    codes = make_codes(header, NUM_FRAMES, tables)
    data = write_bytes(header, codes, tables)
    layout, position = [], len(header.to_bytes())
    for chunk in Chunks(read_header(data), header_of(data), pytest.fail):
        head = data.index(chunk.blocks[0], position) - position
        blocks, start = [], position + head
        for block in chunk.blocks:
            blocks.append(range(start, start + len(block)))
            start += len(block)
        layout.append((range(position, position + head), blocks))
        position = start
    assert position == len(data)
    return data, codes, tables, layout


def read_header(data):
    source = Source(io.BytesIO(data))
    Header.read(source)
    return source


def header_of(data):
    return Header.read(Source(io.BytesIO(data)))


def flip(data, position, mask=0xFF):
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def check(decoded, codes, valid):
    """Checks which streams are valid, and that these and only these have codes."""
    assert decoded.valid_streams.tolist() == valid
    for frame, num_streams in enumerate(valid):
        np.testing.assert_array_equal(
            decoded.codes[:, :num_streams, :, frame], codes[:, :num_streams, :, frame]
        )
        assert not decoded.codes[:, num_streams:, :, frame].any()
    assert decoded.header.num_samples == len(valid) * 320


def valid_with(index, num_streams):
    valid = [3] * NUM_FRAMES
    for frame in range(
        index * CHUNK_FRAMES, min((index + 1) * CHUNK_FRAMES, NUM_FRAMES)
    ):
        valid[frame] = num_streams
    return valid


def test_damage_stays_inside_its_block(case):
    data, codes, tables, layout = case
    for index, (_, blocks) in enumerate(layout):
        for stream, block in enumerate(blocks):
            for position in (block[0], block[1], block[2], block[-1]):
                for mask in (0x01, 0x80, 0xFF):
                    decoded = read_bytes(flip(data, position, mask), tables)
                    check(decoded, codes, valid_with(index, stream))
                    assert decoded.damage[0] == (
                        f"chunk {index}, stream {stream} of 3: its block does not "
                        "match its checksum"
                    )
                    assert scan(io.BytesIO(flip(data, position, mask))).damage


def test_damaged_chunk_header_costs_its_chunk(case):
    data, codes, tables, layout = case
    for index, (head, _) in enumerate(layout):
        for position in head:
            decoded = read_bytes(flip(data, position, 0x10), tables)
            check(decoded, codes, valid_with(index, 0))
            first = index * CHUNK_FRAMES
            last = min(first + CHUNK_FRAMES, NUM_FRAMES) - 1
            assert decoded.damage == (
                f"no chunk can be read at byte {head[0]}, after code frame {first}",
                f"code frames {first} to {last} are missing",
            )


def test_damage_is_told_with_its_chunk(case):
    data, _, tables, layout = case
    damaged = flip(flip(data, layout[0][1][1][5]), layout[1][0][3])
    reader = Reader(io.BytesIO(damaged), tables)
    chunks = list(reader)
    assert [len(chunk.damage) for chunk in chunks] == [1, 2, 0, 0]
    assert [chunk.num_streams for chunk in chunks] == [1, 0, 3, 3]
    assert [chunk.first_frame for chunk in chunks] == [0, 8, 16, 24]
    assert reader.damage == [text for chunk in chunks for text in chunk.damage]


def test_no_damaged_byte_goes_unnoticed(case):
    """Each byte of the file: what counts as valid is right, and the damage is told."""
    data, codes, tables, _ = case
    header_size = len(header_of(data).to_bytes())
    for position in range(len(data)):
        damaged = flip(data, position, 1 << position % 8)
        if position < header_size:
            with pytest.raises(ContainerError):
                read_bytes(damaged, tables)
            continue
        decoded = read_bytes(damaged, tables)
        assert decoded.damage
        check(decoded, codes, decoded.valid_streams.tolist())
        assert decoded.codes.shape == codes.shape
        assert 0 < (decoded.valid_streams < 3).sum() <= CHUNK_FRAMES
        with pytest.raises(ContainerError, match="but strict reading takes only"):
            read_bytes(damaged, tables, strict=True)


def test_cut_at_every_byte(case):
    data, codes, tables, layout = case
    header_size = len(header_of(data).to_bytes())
    for size in range(len(data)):
        if size < header_size:
            with pytest.raises(ContainerError):
                read_bytes(data[:size], tables)
            continue
        decoded = read_bytes(data[:size], tables)
        valid = []
        for index, (_, blocks) in enumerate(layout):
            whole = sum(size >= block[-1] + 1 for block in blocks)
            if whole:
                frames = min(CHUNK_FRAMES, NUM_FRAMES - index * CHUNK_FRAMES)
                valid += [whole] * frames
        check(decoded, codes, valid)
        assert any(
            "ends inside" in text or "cut short" in text for text in decoded.damage
        )
        with pytest.raises(ContainerError, match="but strict"):
            read_bytes(data[:size], tables, strict=True)


def test_lost_and_inserted_bytes_cost_few_chunks(case):
    data, codes, tables, layout = case
    for index, (head, blocks) in enumerate(layout[:-1]):
        for position in (head[1], blocks[0][4], blocks[1][4], blocks[2][4]):
            for damaged in (
                data[:position] + data[position + 1 :],
                data[:position] + data[position + 10 :],
                data[:position] + b"surplus" + data[position:],
            ):
                decoded = read_bytes(damaged, tables)
                assert decoded.damage
                valid = decoded.valid_streams.tolist()
                check(decoded, codes, valid)
                other = [
                    value
                    for frame, value in enumerate(valid)
                    if frame // CHUNK_FRAMES != index
                ]
                assert other == [3] * (NUM_FRAMES - CHUNK_FRAMES)


def test_lost_chunks_leave_holes(case):
    data, codes, tables, layout = case
    for index, (head, blocks) in enumerate(layout[:-1]):
        decoded = read_bytes(data[: head[0]] + data[blocks[-1][-1] + 1 :], tables)
        check(decoded, codes, valid_with(index, 0))


def test_repeated_and_swapped_chunks_are_not_believed(case):
    data, codes, tables, layout = case
    chunks = [data[head[0] : blocks[-1][-1] + 1] for head, blocks in layout]
    start = data[: layout[0][0][0]]
    twice = start + b"".join([chunks[0], chunks[0], *chunks[1:]])
    decoded = read_bytes(twice, tables)
    check(decoded, codes, [3] * NUM_FRAMES)
    assert len(decoded.damage) == 1
    swapped = start + b"".join([chunks[1], chunks[0], *chunks[2:]])
    check(read_bytes(swapped, tables), codes, valid_with(0, 0))


def test_blocks_are_tied_to_their_place(make_header, make_codes):
    """A good block of another chunk or another stream is not taken for this one."""
    header = make_header(num_frames=16, num_streams=2, chunk_frames=8)
    codes = make_codes(header, 16)
    data = write_bytes(header, codes)
    size = 2 + header.fixed_size(8)
    end = len(data)
    first, start = end - 2 * size - (end - len(header.to_bytes())) // 2, end - 2 * size
    for source in (first, end - size):
        swapped = data[:start] + data[source : source + size] + data[start + size :]
        check(read_bytes(swapped), codes, [2] * 8 + [0] * 8)


@pytest.fixture(scope="module")
def streamed(make_header, make_codes):
    """A file that tells its length only at its end."""
    header = make_header(num_samples=None, num_streams=2, chunk_frames=CHUNK_FRAMES)
    codes = make_codes(header, NUM_FRAMES)
    target, ends = io.BytesIO(), []
    writer = Writer(target, header)
    for start in range(0, NUM_FRAMES, CHUNK_FRAMES):
        writer.write_chunk(codes[..., start : start + CHUNK_FRAMES])
        ends.append(target.tell())
    writer.close(NUM_FRAMES * 320 - 5)
    return target.getvalue(), codes, ends


def test_end_record_restores_a_lost_end(streamed):
    data, codes, ends = streamed
    decoded = read_bytes(data[: ends[1]] + data[ends[3] :])
    assert decoded.header.num_samples == NUM_FRAMES * 320 - 5
    assert decoded.valid_streams.tolist() == [2] * 16 + [0] * 14
    np.testing.assert_array_equal(decoded.codes[..., :16], codes[..., :16])


def test_without_end_record_the_frames_count(streamed):
    data, codes, ends = streamed
    for damaged in (data[: ends[3]], data[:-1], flip(data, len(data) - 3)):
        decoded = read_bytes(damaged)
        np.testing.assert_array_equal(decoded.codes, codes)
        assert decoded.header.num_samples == NUM_FRAMES * 320
        assert "cut short after 30 code frames" in decoded.damage[-1]


def test_end_record_must_fit_the_chunks(streamed):
    """An end before the last chunk, or beyond what the bytes can justify."""
    data, codes, ends = streamed
    for num_samples in (NUM_FRAMES * 320 - 320, 1 << 30):
        decoded = read_bytes(data[: ends[3]] + end_record(num_samples))
        np.testing.assert_array_equal(decoded.codes, codes)
        assert decoded.header.num_samples == NUM_FRAMES * 320
        assert decoded.damage


def test_far_chunk_numbers_are_not_believed(make_header, make_codes):
    header = make_header(num_samples=None, num_streams=1, chunk_frames=CHUNK_FRAMES)
    sizes = (header.fixed_size(CHUNK_FRAMES),)
    for index, believed in ((10_000, True), (20_000, False)):
        head = ChunkHeader(index, CHUNK_FRAMES, sizes).to_bytes(header)
        decoded = read_bytes(header.to_bytes() + head + bytes(2 + sizes[0]))
        assert decoded.codes.shape[-1] == (index * 8 + 8 if believed else 0)
        assert decoded.damage
