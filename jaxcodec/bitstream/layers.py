"""Containers without codes: dropping streams, and looking what is inside."""

import dataclasses
import io

from jaxcodec.bitstream.chunks import Chunks
from jaxcodec.bitstream.container import ChunkHeader, end_record
from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.header import Header
from jaxcodec.bitstream.source import Readable, Source
from jaxcodec.bitstream.writer import Writable, write_all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
    """What a container holds, and what it costs."""

    header: Header  # with num_samples as far as the frames reach
    num_chunks: int  # that were found
    num_frames: int  # code frames, missing ones included
    stream_bytes: tuple[int, ...]  # valid codes of each stream, without checksums
    range_blocks: int  # valid blocks that are range coded
    total_bytes: int
    damage: tuple[str, ...]  # messages; empty if every checksum matches

    @property
    def overhead_bytes(self) -> int:
        """All that is not valid codes: headers, checksums, end record, damage."""
        return self.total_bytes - sum(self.stream_bytes)

    @property
    def duration(self) -> float:
        """Seconds."""
        assert self.header.num_samples is not None
        return self.header.num_samples / self.header.original_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the whole file, overhead included; 0 if it is empty."""
        return 8 * self.total_bytes / self.duration if self.duration else 0.0


def scan(stream: Readable) -> Info:
    """Reads a container to the end of the stream and checks every checksum.

    Needs neither tables nor weights, so that codes as such are not looked at.

    Raises:
        ContainerError: the header is damaged.
    """
    source = Source(stream)
    header = Header.read(source)
    damage: list[str] = []
    chunks = Chunks(source, header, damage.append)
    stream_bytes = [0] * header.num_streams
    num_chunks = range_blocks = 0
    for chunk in chunks:
        num_chunks += bool(chunk.blocks)
        fixed_size = header.fixed_size(chunk.num_frames)
        for number, size in enumerate(chunk.sizes[: chunk.num_streams]):
            stream_bytes[number] += size
            range_blocks += size != fixed_size
    if size := source.drain():
        damage.append(f"{size} bytes follow the end of the container")
    return Info(
        header=dataclasses.replace(header, num_samples=chunks.num_samples),
        num_chunks=num_chunks,
        num_frames=chunks.frames,
        stream_bytes=tuple(stream_bytes),
        range_blocks=range_blocks,
        total_bytes=source.total_read,
        damage=tuple(damage),
    )


def peel(source: Readable, target: Writable, num_streams: int) -> tuple[str, ...]:
    """Copies a container with only its first streams, chunk by chunk.

    The result is, byte for byte, what encoding only these streams would have given.
    Damaged blocks are copied as they are, missing chunks stay missing.

    Args:
        num_streams: to keep; from 1 to those in the container.

    Returns:
        Messages about damage in the source; empty if all is well.

    Raises:
        ContainerError: the header is damaged, or has fewer streams.
    """
    bytes_in = Source(source)
    header = Header.read(bytes_in)
    if not 1 <= num_streams <= header.num_streams:
        raise ContainerError(
            f"{num_streams} streams are to be kept, but the container has "
            f"{header.num_streams}: keep 1 to {header.num_streams}."
        )
    damage: list[str] = []
    chunks = Chunks(bytes_in, header, damage.append)
    header = dataclasses.replace(header, num_streams=num_streams)
    write_all(target, header.to_bytes())
    for chunk in chunks:
        if chunk.blocks:
            head = ChunkHeader(chunk.index, chunk.num_frames, chunk.sizes)
            blocks = chunk.blocks[:num_streams]
            write_all(target, head.to_bytes(header) + b"".join(blocks))
    if header.num_samples is None and not chunks.is_cut:
        assert chunks.num_samples is not None
        write_all(target, end_record(chunks.num_samples))
    return tuple(damage)


def peel_bytes(data: bytes, num_streams: int) -> bytes:
    """`peel` from bytes to bytes."""
    target = io.BytesIO()
    peel(io.BytesIO(data), target, num_streams)
    return target.getvalue()
