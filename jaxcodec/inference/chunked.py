"""Long audio in chunks of one shape, with halos as wide as the receptive field.

A codec sees only so far. A chunk therefore carries, beside the code frames it is for,
a halo of frames that these depend on: on both sides inside the signal, on one side at
its ends, as nothing lies beyond them. Frames behind the end of the signal are marked
absent, and nothing present depends on them: so codes do not depend on where chunks are
cut, on what else is in a batch, or on how a chunk is filled up.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num  # not jaxcodec.arrays: exports run without JAX

__all__ = [
    "AudioChunk",
    "Chunking",
    "CodeChunk",
    "Grid",
    "Layout",
    "code_chunks",
    "cut_audio",
    "cut_codes",
]


@runtime_checkable
class Layout(Protocol):
    """What a config says about where samples, frames and codes lie."""

    @property
    def stride(self) -> int: ...  # samples per code frame
    @property
    def window(self) -> int: ...  # samples of a spectral frame
    @property
    def hop(self) -> int: ...  # samples between two of them

    def clip_samples(self, code_frames: int) -> int:
        """Samples whose spectrum has exactly the frames of `code_frames` codes."""
        ...


@runtime_checkable
class Grid(Layout, Protocol):
    """A layout that knows how far a model sees."""

    @property
    def grid(self) -> int: ...  # samples between places where a chunk may begin

    def encoder_reach(self) -> tuple[int, int]:
        """Samples that the codes of a grid cell read before and after it."""
        ...

    def decoder_reach(self) -> tuple[int, int]:
        """Samples of codes that the audio of a grid cell reads around it."""
        ...


@dataclasses.dataclass(frozen=True)
class Chunking:
    """Shape of the chunks of one direction, in code frames.

    Chunk `k` begins at frame `k * core` of the signal, the first one at its start. A
    chunk is for the `core` frames behind its halo; the first is also for those of the
    halo, and the last for all that follow.
    """

    before: int  # halo in front
    core: int  # from where one chunk begins to where the next does
    after: int  # halo behind; at least one frame

    @property
    def total(self) -> int:
        """Code frames in a chunk."""
        return self.before + self.core + self.after

    @classmethod
    def encoder(cls, config: Grid, core: int) -> "Chunking":
        """Smallest halo on the grid that the codes of the core can depend on."""
        before, after = config.encoder_reach()
        # the samples of a chunk end one hop before its last code frame does
        return cls._on_grid(config, core, (before, after + config.hop))

    @classmethod
    def decoder(cls, config: Grid, core: int) -> "Chunking":
        """Smallest halo on the grid that the audio of the core can depend on."""
        return cls._on_grid(config, core, config.decoder_reach())

    @classmethod
    def _on_grid(cls, config: Grid, core: int, reach: tuple[int, int]) -> "Chunking":
        cell = config.grid // config.stride
        if core < 1 or core % cell:
            raise ValueError(
                f"a chunk of {core} code frames does not fit the grid of attention "
                f"windows: choose a positive multiple of {cell}."
            )
        before, after = (-(-samples // config.grid) * cell for samples in reach)
        return cls(before, core, after)

    def marks(
        self, index: int, left: int, is_last: bool
    ) -> tuple[Float[np.ndarray, "t"], int, int]:
        """What chunk `index` holds and what it is for: `present`, `first`, `num_codes`.

        Args:
            index: counts from 0.
            left: code frames from the chunk's beginning to the end of the signal, as
                far as that is known.
            is_last: whether the chunk is for all of them.
        """
        present = np.arange(self.total) < left
        first = self.before if index else 0
        end = left if is_last else self.before + self.core
        return present.astype(np.float32), first, end - first


class AudioChunk(NamedTuple):
    """Input of the encoder: one chunk of every channel."""

    waveform: Float[np.ndarray, "c n"]
    present: Float[np.ndarray, "t"]  # 1 for code frames inside the signal
    first: int  # code frame that the chunk is for
    num_codes: int  # that it is for, from there

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """Of the encoder's program: a row per channel."""
        return self.waveform, _rows(self.present, len(self.waveform))

    def kept(self, codes: Num[np.ndarray, "c s g t"]) -> Num[np.ndarray, "c s g _"]:
        """What the chunk is for, of the codes that the program gives."""
        return codes[..., self.first : self.first + self.num_codes]


class CodeChunk(NamedTuple):
    """Input of the decoder: one chunk of every channel."""

    codes: Int[np.ndarray, "c s g t"]
    num_streams: Int[np.ndarray, "t"]
    present: Float[np.ndarray, "t"]
    first: int
    num_codes: int

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """Of the decoder's program: a row per channel."""
        channels = len(self.codes)
        lines = self.num_streams, self.present
        return self.codes, *(_rows(line, channels) for line in lines)

    def kept(
        self, waveform: Float[np.ndarray, "c _"], stride: int
    ) -> Float[np.ndarray, "_ c"]:
        """What the chunk is for, of the audio that the program gives, samples first."""
        end = self.first + self.num_codes
        return waveform[:, self.first * stride : end * stride].T


def _rows(line: np.ndarray, count: int) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(line, (count, len(line))))


@runtime_checkable
class CodedPiece(Protocol):
    """Consecutive code frames, of which the first streams are valid."""

    codes: Int[np.ndarray, "c s g t"]
    num_streams: int


def cut_audio(
    blocks: Iterable[Float[np.ndarray, "_ _"]], config: Layout, shape: Chunking
) -> Iterator[AudioChunk]:
    """Cuts a stream of audio into chunks; holds no more than about one of them.

    The end of the signal is mirrored as far as a spectral frame reaches, and its start
    by the `dsp.stft` of the first chunk: so the frames at the edges are those of
    `dsp.stft` on the whole signal.

    Args:
        blocks: consecutive pieces at the codec's rate, of any length.
        config: of the codec.
        shape: see `Chunking.encoder`.
    """
    stride, half = config.stride, config.window // 2
    size = config.clip_samples(shape.total)
    enough = max(size, (shape.total - 1) * stride + 1)  # of the last frame, too
    spare = -(-half // stride)  # frames behind the signal that its last one reads
    buffer: np.ndarray | None = None  # from the beginning of the next chunk on
    index = 0

    def chunk(left: int, is_last: bool) -> AudioChunk:
        assert buffer is not None
        waveform = np.ascontiguousarray(buffer[:size].T, np.float32)
        return AudioChunk(waveform, *shape.marks(index, left, is_last))

    for block in blocks:
        buffer = block if buffer is None else np.concatenate([buffer, block])
        while len(buffer) >= enough:
            yield chunk(shape.total, is_last=False)
            buffer, index = buffer[shape.core * stride :], index + 1
    if buffer is None or not len(buffer):
        return
    left = -(-len(buffer) // stride)
    missing = left * stride + half - len(buffer)
    # as much of the signal as that mirrors is still there: the halo is longer
    seen = np.pad(buffer[-missing - 1 :], ((0, missing), (0, 0)), mode="reflect")
    buffer = np.concatenate([buffer, seen[-missing:]])
    is_last = False
    while not is_last:
        if len(buffer) < size:
            buffer = np.pad(buffer, ((0, size - len(buffer)), (0, 0)))
        is_last = left <= shape.total - spare
        yield chunk(left, is_last)
        buffer, index = buffer[shape.core * stride :], index + 1
        left -= shape.core


def cut_codes(
    pieces: Iterable[CodedPiece], max_streams: int, shape: Chunking
) -> Iterator[CodeChunk]:
    """Cuts a stream of codes into chunks; holds no more than about one of them.

    Args:
        pieces: consecutive code frames, of any length.
        max_streams: of the codec; missing streams are filled with zeros.
        shape: see `Chunking.decoder`.
    """
    codes: np.ndarray | None = None  # from the beginning of the next chunk on
    streams = np.zeros(0, np.int32)
    index = 0

    def chunk(left: int, is_last: bool) -> CodeChunk:
        assert codes is not None
        kept = slice(0, shape.total)
        marks = shape.marks(index, left, is_last)
        return CodeChunk(np.ascontiguousarray(codes[..., kept]), streams[kept], *marks)

    for piece in pieces:
        part = np.asarray(piece.codes, np.int32)
        part = np.pad(part, ((0, 0), (0, max_streams - part.shape[1]), (0, 0), (0, 0)))
        codes = part if codes is None else np.concatenate([codes, part], axis=-1)
        valid = np.full(part.shape[-1], piece.num_streams, np.int32)
        streams = np.concatenate([streams, valid])
        # also if it is full with the last frame: a program gives one hop of audio less
        # than its frames cover
        while len(streams) >= shape.total:
            yield chunk(shape.total, is_last=False)
            codes, streams = codes[..., shape.core :], streams[shape.core :]
            index += 1
    if codes is not None and (left := len(streams)):
        short = shape.total - left
        codes = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, short)))
        streams = np.pad(streams, (0, short))
        yield chunk(left, is_last=True)


def code_chunks(
    codes: Int[np.ndarray, "c s g t"], num_streams: Int[np.ndarray, "t"]
) -> Iterator["_Piece"]:
    """Runs of code frames that have the same number of valid streams."""
    borders = np.flatnonzero(np.diff(num_streams)) + 1
    edges = [0, *borders.tolist(), codes.shape[-1]]
    for low, high in itertools.pairwise(edges):
        if high > low:
            yield _Piece(codes[..., low:high], int(num_streams[low]))


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    codes: np.ndarray
    num_streams: int
