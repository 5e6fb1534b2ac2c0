"""Reading containers: the codes that are undamaged, and what is wrong with the rest."""

import dataclasses
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxcodec.bitstream.bits import code_width, unpack
from jaxcodec.bitstream.chunks import Chunks, RawChunk
from jaxcodec.bitstream.container import CRC_SIZE
from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.header import Header
from jaxcodec.bitstream.probabilities import ProbabilityTables
from jaxcodec.bitstream.range_coder import RangeCoder
from jaxcodec.bitstream.source import Readable, Source
from jaxcodec.bitstream.writer import check_tables


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Some consecutive code frames."""

    first_frame: int
    codes: Int32[np.ndarray, "c s g t"]  # zero from stream num_streams on
    num_streams: int  # so many streams are valid; 0: conceal these frames
    damage: tuple[str, ...]  # messages since the chunk before


class Reader:
    """Iterates over the chunks of a container, from any stream, without seeking.

    The chunks cover the recording without gaps up to its end, or up to where the file
    was cut short: frames that are missing come as chunks without valid streams. Their
    lengths need not be `chunk_frames`.

    Attributes:
        header: as it was read.
        damage: messages so far, those after the last chunk included.

    Args:
        tables: needed if blocks are range coded; may have more streams than the file.
        strict: raise at the first damage instead of going on.

    Raises:
        ContainerError: the header is damaged, or the tables do not match it; while
            iterating, tables are missing, or anything is damaged and `strict` is set.
    """

    def __init__(
        self,
        stream: Readable,
        tables: ProbabilityTables | None = None,
        strict: bool = False,
    ):
        self._source = Source(stream)
        self._strict = strict
        self.damage: list[str] = []
        self.header = Header.read(self._source)
        self._range_coder = None
        if tables is not None:
            check_tables(tables, self.header)
            self._range_coder = RangeCoder(tables)
        self._chunks = Chunks(self._source, self.header, self._on_damage)

    @property
    def num_samples(self) -> int | None:
        """Samples per channel at the original rate.

        It is None until known: at the latest when all chunks have been read. For a file
        that was cut short it shrinks to what its frames cover.
        """
        return self._chunks.num_samples

    def __iter__(self) -> Iterator[Chunk]:
        reported = 0
        for raw in self._chunks:
            codes, num_streams = self._decode(raw)
            news = tuple(self.damage[reported:])
            reported = len(self.damage)
            yield Chunk(raw.first_frame, codes, num_streams, news)

    def check_end(self) -> None:
        """Reads on to the end of the stream, where nothing should be left."""
        if size := self._source.drain():
            self._on_damage(f"{size} bytes follow the end of the container")

    def _decode(self, raw: RawChunk) -> tuple[Int32[np.ndarray, "c s g t"], int]:
        header = self.header
        shape = header.channels, header.num_streams, header.num_groups, raw.num_frames
        codes = np.zeros(shape, np.int32)
        for stream in range(raw.num_streams):
            payload = raw.blocks[stream][CRC_SIZE:]
            try:
                codes[:, stream] = self._decode_block(stream, payload, raw.num_frames)
            except _BlockError as error:
                self._on_damage(f"chunk {raw.index}, stream {stream}: {error}")
                return codes, stream
        return codes, raw.num_streams

    def _decode_block(
        self, stream: int, payload: bytes, num_frames: int
    ) -> Int[np.ndarray, "c g t"]:
        header = self.header
        shape = header.num_groups, header.channels, num_frames
        if len(payload) == header.fixed_size(num_frames):
            codes = unpack(payload, code_width(header.codebook_size), shape)
            if codes.max() >= header.codebook_size:
                raise _BlockError(
                    f"code {codes.max()} is outside the codebook of "
                    f"{header.codebook_size}"
                )
            return codes.transpose(1, 0, 2)
        if self._range_coder is None:
            raise ContainerError(
                "the container is range coded, but no probability tables were given: "
                f"pass those stored with the weights of {header.codec!r}."
            )
        by_group = (header.num_groups, header.channels * num_frames)
        try:
            codes = self._range_coder.decode(stream, payload, by_group)
        except ContainerError as error:
            raise _BlockError(str(error)) from error
        return codes.reshape(shape).transpose(1, 0, 2)

    def _on_damage(self, message: str) -> None:
        if self._strict:
            raise ContainerError(
                f"{message}, but strict reading takes only undamaged files: get "
                "another copy, or read without strict to decode what is left."
            )
        self.damage.append(message)


class Decoded(NamedTuple):
    """A whole container."""

    header: Header  # with num_samples as far as the frames reach
    codes: Int32[np.ndarray, "c s g t"]  # zero where not valid
    valid_streams: Int32[np.ndarray, "t"]  # per code frame; 0: conceal
    damage: tuple[str, ...]  # messages; empty if all is well


def read_bytes(
    data: bytes, tables: ProbabilityTables | None = None, strict: bool = False
) -> Decoded:
    """Decodes a whole container.

    What it returns takes at most 512 bytes for each byte of `data`, plus 2 MiB.

    Raises:
        ContainerError: as for `Reader`.
    """
    reader = Reader(io.BytesIO(data), tables, strict)
    chunks = list(reader)
    reader.check_end()
    header = dataclasses.replace(reader.header, num_samples=reader.num_samples)
    shape = header.channels, header.num_streams, header.num_groups, 0
    codes = [np.zeros(shape, np.int32), *(chunk.codes for chunk in chunks)]
    valid = [np.zeros(0, np.int32)]
    valid += [
        np.full(chunk.codes.shape[-1], chunk.num_streams, np.int32) for chunk in chunks
    ]
    return Decoded(
        header,
        np.concatenate(codes, axis=-1),
        np.concatenate(valid),
        tuple(reader.damage),
    )


class _BlockError(Exception):
    """A block whose checksum matches holds no codes."""
