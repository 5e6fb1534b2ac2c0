"""Audio files: any that libsndfile reads, block by block; WAV and FLAC written."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from jaxcodec.bitstream.header import Header
from jaxcodec.bitstream.source import Readable, Source
from jaxcodec.inference.files import open_input
from jaxcodec.inference.wav_pipe import WavHeader, WavWriter, quantize, read_wav

__all__ = ["Audio", "FlacWriter", "audio_writer", "open_audio"]

_BLOCK = 1 << 14  # samples read at once
_MAX_SAMPLES = 1 << 42  # more is libsndfile's way to say that it does not know


class Audio:
    """Audio that is being read.

    Attributes:
        num_samples: per channel, exact; None if only the end will tell.
        expected: the same for a progress bar; may be wrong.
        num_read: samples so far.
        warnings: what is odd, once all is read.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        blocks: Iterator[Float32[np.ndarray, "n c"]],
        num_samples: int | None,
        expected: int | None = None,
    ):
        self.sample_rate, self.channels = sample_rate, channels
        self.num_samples = num_samples
        self.expected = num_samples or expected
        self.num_read = 0
        self.warnings: tuple[str, ...] = ()
        self._blocks = blocks

    @property
    def seconds(self) -> float:
        """Read so far."""
        return self.num_read / self.sample_rate

    @property
    def expected_seconds(self) -> float | None:
        """Of all; may be wrong, and None if nothing is known."""
        return self.expected / self.sample_rate if self.expected else None

    def __iter__(self) -> Iterator[Float32[np.ndarray, "n c"]]:
        """Yields blocks in [-1, 1].

        Raises:
            ValueError: there are no samples, or not as many as promised, or they cannot
                be decoded.
        """
        for block in self._blocks:
            self.num_read += len(block)
            if self.num_samples is not None and self.num_read > self.num_samples:
                break
            yield block
        if not self.num_read:
            raise ValueError("it has no samples, so there is nothing to encode.")
        if self.num_samples not in (None, self.num_read):
            raise ValueError(
                f"its header promises {self.num_samples} samples, but it has "
                f"{'more' if self.num_read > self.num_samples else self.num_read}: it "
                "is cut short or damaged, so get another copy."
            )
        if self.expected and self.num_read < 0.98 * self.expected:
            self.warnings = (
                f"about {self.expected} samples were expected, but {self.num_read} "
                "were found: it may be cut short",
            )


@contextlib.contextmanager
def open_audio(path: Path | None, stdin: Readable | None = None) -> Iterator[Audio]:
    """Opens audio to be read once, in blocks, in memory that does not grow with it.

    WAV streams also through pipes; what else comes through one goes to a temporary file
    first.

    Raises:
        ValueError: it is empty, no audio, or shorter than it says.
        OSError: it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open_input(path, stdin))
        size = _regular_size(stream)
        source = Source(stream)
        if not source.peek(1):
            raise ValueError("it is empty (0 bytes), but should hold audio.")
        if header := WavHeader.read(source, size):
            _check_size(header, size and size - source.offset)
            blocks = read_wav(source, header, _BLOCK)
            yield Audio(header.sample_rate, header.channels, blocks, header.num_samples)
            return
        if size is None or path is None:
            spool = stack.enter_context(tempfile.TemporaryFile())
            while data := source.read(1 << 16):
                spool.write(data)
            spool.seek(0)
            file: Any = spool
        else:
            file = os.fsencode(path)
        try:
            sound = stack.enter_context(_Forward(file))
        except soundfile.SoundFileError as error:
            raise ValueError(
                f"it cannot be read as audio ({_detail(error)}): expected WAV, FLAC, "
                "OGG or MP3."
            ) from error
        length = sound.frames if 0 < sound.frames < _MAX_SAMPLES else None
        # The length of an MP3 is often only estimated.
        exact = None if sound.format == "MP3" else length
        yield Audio(sound.samplerate, sound.channels, _decode(sound), exact, length)


class _Forward(soundfile.SoundFile):
    """Never seeks, unlike its parent, which does after every block.

    That fails for streamed FLAC, which does not know its length.
    """

    def seekable(self) -> bool:
        return False


def _decode(sound: soundfile.SoundFile) -> Iterator[Float32[np.ndarray, "n c"]]:
    try:
        while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
            yield block
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"it cannot be decoded ({_detail(error)}): it is cut short or damaged, so "
            "get another copy."
        ) from error


def _detail(error: soundfile.SoundFileError) -> str:
    """What libsndfile said, without our own path and its full stop."""
    return (
        getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
    )


def _regular_size(stream: Any) -> int | None:
    """Bytes of a plain file; None for pipes and all else."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _check_size(header: WavHeader, available: int | None) -> None:
    """Raises ValueError at once where a file's size gives away that it was cut."""
    promised = header.data_size
    if available is None or promised is None or not header.is_exact:
        return
    if available < promised:
        raise ValueError(
            f"its header promises {promised} bytes of samples, but {available} are "
            "there: it is cut short, so get another copy."
        )


def audio_writer(
    stream: Any, header: Header, file_format: str, subtype: str
) -> "WavWriter | FlacWriter":
    """A writer for what a container decodes to, to be used in a `with` statement."""
    rate, channels = header.original_rate, header.channels
    if file_format == "flac":
        return FlacWriter(stream, rate, channels)
    return WavWriter(stream, rate, channels, header.num_samples, subtype)


class FlacWriter:
    """Writes one FLAC of 16 bits to a stream that can seek, and does not close it."""

    def __init__(self, stream: Any, sample_rate: int, channels: int):
        self._target = _Target(stream)
        try:
            self._sound = soundfile.SoundFile(
                self._target, "w", sample_rate, channels, "PCM_16", format="FLAC"
            )
        except soundfile.SoundFileError as error:
            self._target.check()
            raise ValueError(
                f"FLAC cannot hold {channels} channels at {sample_rate} Hz "
                f"({_detail(error)}): decode to WAV."
            ) from error

    def write(self, block: Float32[np.ndarray, "n c"]) -> None:
        """Writes the next samples."""
        try:
            self._sound.write(quantize(block))
        except (AssertionError, soundfile.SoundFileError):
            self._target.check()
            raise
        self._target.check()

    def __enter__(self) -> "FlacWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sound.close()
        if kind is None:
            self._target.check()


class _Target:
    """A stream for libsndfile, which loses what a failed write raises."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self._error = self._error or error
            return 0

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def check(self) -> None:
        """Raises the first error of a write."""
        if self._error:
            raise self._error
