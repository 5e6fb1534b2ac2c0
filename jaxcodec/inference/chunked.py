"""Long audio in chunks of one shape, with halos as wide as the receptive field.

A codec sees only so far. A chunk therefore carries, beside the code frames it is for,
a halo of frames that these depend on. Frames before the start and behind the end of the
signal are marked absent, and nothing present depends on them: so codes do not depend on
where chunks are cut, on what else is in a batch, or on how a chunk is filled up.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int  # not jaxcodec.arrays: exports run without JAX

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
    """Shape of the chunks of one direction, in code frames."""

    before: int  # halo in front
    core: int  # what the chunk is for
    after: int  # halo behind

    @property
    def total(self) -> int:
        """Code frames in a chunk."""
        return self.before + self.core + self.after

    @classmethod
    def encoder(cls, config: Grid, core: int) -> "Chunking":
        """Smallest halo on the grid that the codes of the core can depend on."""
        return cls._on_grid(config, core, config.encoder_reach())

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


class AudioChunk(NamedTuple):
    """Input of the encoder: one chunk of every channel."""

    waveform: Float[np.ndarray, "c n"]
    present: Float[np.ndarray, "t"]  # 1 for code frames inside the signal
    num_codes: int  # code frames of the core that are inside


class CodeChunk(NamedTuple):
    """Input of the decoder: one chunk of every channel."""

    codes: Int[np.ndarray, "c s g t"]
    num_streams: Int[np.ndarray, "t"]
    present: Float[np.ndarray, "t"]
    num_codes: int


@runtime_checkable
class CodedPiece(Protocol):
    """Consecutive code frames, of which the first streams are valid."""

    codes: Int[np.ndarray, "c s g t"]
    num_streams: int


def cut_audio(
    blocks: Iterable[Float[np.ndarray, "_ _"]], config: Layout, shape: Chunking
) -> Iterator[AudioChunk]:
    """Cuts a stream of audio into chunks; holds no more than about one of them.

    Both ends of the signal are mirrored as far as a spectral frame reaches, so that the
    frames at the edges are those of `dsp.stft` on the whole signal.

    Args:
        blocks: consecutive pieces at the codec's rate, of any length.
        config: of the codec.
        shape: see `Chunking.encoder`.
    """
    stride, half = config.stride, config.window // 2
    size = config.clip_samples(shape.total)
    lead = shape.before * stride
    buffer: np.ndarray | None = None  # starts at sample `begin` of the signal
    head: list[np.ndarray] = []  # the first samples, until there are enough to mirror
    num_samples, chunk = 0, 0

    def begin_of(index: int) -> int:
        return index * shape.core * stride - lead

    def emit(present: np.ndarray, num_codes: int) -> AudioChunk:
        assert buffer is not None
        waveform = np.ascontiguousarray(buffer[:size].T, np.float32)
        return AudioChunk(waveform, present.astype(np.float32), num_codes)

    for block in blocks:
        num_samples += len(block)
        if buffer is None:
            head.append(block)
            if num_samples <= half:
                continue
            signal = np.concatenate(head)
            buffer = _with_lead(signal, lead, half)
        else:
            buffer = np.concatenate([buffer, block])
        while len(buffer) >= size:
            inside = np.arange(shape.total) + chunk * shape.core - shape.before >= 0
            yield emit(inside, shape.core)
            buffer = buffer[shape.core * stride :]
            chunk += 1
    if not num_samples:
        return
    if buffer is None:
        signal = np.concatenate(head)
        buffer = _with_lead(signal, lead, half)
    num_codes = -(-num_samples // stride)
    # as much of the signal as the tail mirrors is still there: the halo is longer
    missing = num_codes * stride + half + config.hop - num_samples
    if num_samples > missing:
        tail = np.flip(buffer[-missing - 1 : -1], axis=0)
    else:
        signal = buffer[len(buffer) - num_samples :]
        tail = np.pad(signal, ((0, missing), (0, 0)), mode="reflect")[num_samples:]
    buffer = np.concatenate([buffer, tail])
    while chunk * shape.core < num_codes:
        if len(buffer) < size:
            buffer = np.pad(buffer, ((0, size - len(buffer)), (0, 0)))
        frames = np.arange(shape.total) + chunk * shape.core - shape.before
        inside = (frames >= 0) & (frames < num_codes)
        yield emit(inside, min(shape.core, num_codes - chunk * shape.core))
        buffer = buffer[shape.core * stride :]
        chunk += 1


def _with_lead(signal: np.ndarray, lead: int, half: int) -> np.ndarray:
    """The signal behind `lead` samples: silence, then its own mirrored start."""
    mirrored = np.pad(signal, ((half, 0), (0, 0)), mode="reflect")
    return np.pad(mirrored, ((lead - half, 0), (0, 0)))


def cut_codes(
    pieces: Iterable[CodedPiece], max_streams: int, shape: Chunking
) -> Iterator[CodeChunk]:
    """Cuts a stream of codes into chunks; holds no more than about one of them.

    Args:
        pieces: consecutive code frames, of any length.
        max_streams: of the codec; missing streams are filled with zeros.
        shape: see `Chunking.decoder`.
    """
    codes: np.ndarray | None = None
    streams = np.zeros(0, np.int32)
    num_codes = chunk = 0

    def emit(present: np.ndarray, inside: int) -> CodeChunk:
        assert codes is not None
        kept = slice(0, shape.total)
        return CodeChunk(
            np.ascontiguousarray(codes[..., kept]),
            streams[kept],
            present.astype(np.float32),
            inside,
        )

    for piece in pieces:
        part = np.asarray(piece.codes, np.int32)
        part = np.pad(part, ((0, 0), (0, max_streams - part.shape[1]), (0, 0), (0, 0)))
        if codes is None:
            codes = np.zeros((*part.shape[:3], shape.before), np.int32)
            streams = np.zeros(shape.before, np.int32)
        codes = np.concatenate([codes, part], axis=-1)
        valid = np.full(part.shape[-1], piece.num_streams, np.int32)
        streams = np.concatenate([streams, valid])
        num_codes += part.shape[-1]
        while len(streams) >= shape.total:
            inside = np.arange(shape.total) + chunk * shape.core - shape.before >= 0
            yield emit(inside, shape.core)
            codes, streams = codes[..., shape.core :], streams[shape.core :]
            chunk += 1
    while codes is not None and chunk * shape.core < num_codes:
        short = shape.total - len(streams)
        if short > 0:
            codes = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, short)))
            streams = np.pad(streams, (0, short))
        frames = np.arange(shape.total) + chunk * shape.core - shape.before
        inside = (frames >= 0) & (frames < num_codes)
        yield emit(inside, min(shape.core, num_codes - chunk * shape.core))
        codes, streams = codes[..., shape.core :], streams[shape.core :]
        chunk += 1


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
