"""Writing containers, chunk by chunk, to anything that takes bytes."""

import dataclasses
import io
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from jaxcodec.bitstream.bits import code_width, pack
from jaxcodec.bitstream.container import ChunkHeader, block_crc, end_record
from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.header import Header
from jaxcodec.bitstream.probabilities import ProbabilityTables
from jaxcodec.bitstream.range_coder import RangeCoder


@runtime_checkable
class Writable(Protocol):
    """Anything with `write`; it need not be able to seek."""

    def write(self, data: bytes, /): ...


class Writer:
    """Writes one container to a stream, which it neither seeks nor closes.

    Each chunk is one call of the stream's `write`, so that what has been written can be
    decoded at any time.

    Args:
        header: `num_samples` may be None; then `close` must be given it. `coder` is
            overwritten.
        tables: for range coding; may have more streams than `header`.
        coder: "fixed" packs every code at a fixed width; "range" range codes each block
            that gets smaller by it; "auto" is "range" with tables and "fixed" without.

    Raises:
        ContainerError: the tables are missing or do not match the header, or the coder
            is unknown.
    """

    def __init__(
        self,
        stream: Writable,
        header: Header,
        tables: ProbabilityTables | None = None,
        coder: str = "auto",
    ):
        if coder not in ("auto", "fixed", "range"):
            raise ContainerError(
                f"the coder is {coder!r}, but only 'auto', 'fixed' and 'range' exist: "
                "name one of them."
            )
        if coder == "range" and tables is None:
            raise ContainerError(
                "range coding was asked for without probability tables, but it needs "
                "them: pass those stored with the weights, or coder='auto'."
            )
        self._range_coder = None
        if tables is not None and coder != "fixed":
            check_tables(tables, header)
            self._range_coder = RangeCoder(tables)
        coder = "range" if self._range_coder else "fixed"
        self.header = dataclasses.replace(header, coder=coder)
        self._stream = stream
        self._num_chunks = 0
        self._num_frames = 0
        self._ended = False  # no chunk may follow
        self._is_closed = False
        write_all(stream, self.header.to_bytes())

    def write_chunk(self, codes: Integer[np.ndarray, "c s g t"]) -> None:
        """Writes the next `chunk_frames` code frames, or fewer in the last chunk.

        Raises:
            ContainerError: the shape does not match the header, a code is outside the
                codebook, or the recording had ended.
        """
        header = self.header
        num_frames = codes.shape[-1]
        expected = header.channels, header.num_streams, header.num_groups
        if codes.shape[:-1] != expected or not 0 < num_frames <= header.chunk_frames:
            raise ContainerError(
                f"the chunk has shape {codes.shape}, but the header says {expected} "
                f"and 1 to {header.chunk_frames} frames: cut the codes accordingly."
            )
        if codes.min() < 0 or codes.max() >= header.codebook_size:
            raise ContainerError(
                f"codes lie in [{codes.min()}, {codes.max()}], but the codebook has "
                f"{header.codebook_size} codewords: check which model made them."
            )
        total = self._num_frames + num_frames
        is_over = header.num_frames is not None and total > header.num_frames
        if self._ended or is_over:
            raise ContainerError(
                f"a chunk of {num_frames} frames follows {self._num_frames} frames, "
                "but the recording ends before: give the header the right num_samples, "
                "and fill every chunk but the last."
            )
        self._ended = num_frames < header.chunk_frames
        payloads = [
            self._encode_block(stream, codes[:, stream])
            for stream in range(header.num_streams)
        ]
        sizes = tuple(map(len, payloads))
        parts = [ChunkHeader(self._num_chunks, num_frames, sizes).to_bytes(header)]
        for stream, payload in enumerate(payloads):
            parts += [block_crc(stream, self._num_chunks, payload), payload]
        write_all(self._stream, b"".join(parts))
        self._num_chunks += 1
        self._num_frames = total

    def close(self, num_samples: int | None = None) -> None:
        """Ends the container, once; the stream stays open.

        Args:
            num_samples: per channel at the original rate. Needed only if the header did
                not know it.

        Raises:
            ContainerError: the sample count is missing, or takes another number of code
                frames than were written.
        """
        if self._is_closed:
            return
        known = self.header.num_samples
        if num_samples is None:
            num_samples = known
        if num_samples is None:
            raise ContainerError(
                "num_samples is still unknown, but a container must end with it: pass "
                "it to close()."
            )
        if num_samples != known and known is not None:
            raise ContainerError(
                f"num_samples is {num_samples}, but the header said {known}: call "
                "close() without it."
            )
        frames = self.header.frames_of(num_samples)
        if frames != self._num_frames:
            raise ContainerError(
                f"{num_samples} samples take {frames} code frames, but "
                f"{self._num_frames} were written: write them all, or correct "
                "num_samples."
            )
        self._is_closed = self._ended = True
        if known is None:
            write_all(self._stream, end_record(num_samples))

    def _encode_block(self, stream: int, codes: Integer[np.ndarray, "c g t"]) -> bytes:
        num_frames = codes.shape[-1]
        by_group = codes.transpose(1, 0, 2).reshape(codes.shape[1], -1)
        if self._range_coder:
            coded = self._range_coder.encode(stream, by_group)
            coded = coded.ljust(self.header.min_size(num_frames), b"\0")
            if len(coded) < self.header.fixed_size(num_frames):
                return coded
        return pack(by_group, code_width(self.header.codebook_size))


def write_bytes(
    header: Header,
    codes: Integer[np.ndarray, "c s g t"],
    tables: ProbabilityTables | None = None,
    coder: str = "auto",
) -> bytes:
    """Returns a whole container.

    Args:
        header: must know `num_samples`.
        codes: all code frames that `num_samples` takes.
        tables, coder: as for `Writer`.

    Raises:
        ContainerError: the codes do not match the header.
    """
    target = io.BytesIO()
    writer = Writer(target, header, tables, coder)
    for chunk in in_chunks([codes], header.chunk_frames):
        writer.write_chunk(chunk)
    writer.close()
    return target.getvalue()


def in_chunks(
    pieces: Iterable[Integer[np.ndarray, "c s g _"]], size: int
) -> Iterator[Integer[np.ndarray, "c s g _"]]:
    """Cuts consecutive codes anew, as `Writer.write_chunk` takes them.

    A chunk is given as soon as its last code frame is there.

    Args:
        pieces: of any length, as models give them.
        size: code frames of every chunk but the last, see `Header.chunk_frames`.
    """
    rest: np.ndarray | None = None
    for piece in pieces:
        rest = piece if rest is None else np.concatenate([rest, piece], axis=-1)
        while rest.shape[-1] >= size:
            yield rest[..., :size]
            rest = rest[..., size:]
    if rest is not None and rest.shape[-1]:
        yield rest


def check_tables(tables: ProbabilityTables, header: Header) -> None:
    """Raises ContainerError if these tables cannot code what the header announces."""
    has = tables.num_streams, tables.num_groups, tables.codebook_size
    needs = header.num_streams, header.num_groups, header.codebook_size
    if has[0] < needs[0] or has[1:] != needs[1:]:
        raise ContainerError(
            f"the probability tables are for (streams, groups, codes) {has}, but the "
            f"container has {needs}: use the tables stored with the weights of "
            f"{header.codec!r}."
        )


def write_all(stream: Writable, data: bytes) -> None:
    """Writes all bytes, also to a raw stream that takes only some at a time."""
    rest = memoryview(data)
    while rest:
        written = stream.write(bytes(rest))
        rest = rest[len(rest) if written is None else written :]
