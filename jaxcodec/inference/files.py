"""Audio and coded files: which are read, which are written, and how safely."""

import contextlib
import dataclasses
import io
import itertools
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from jaxcodec.bitstream.header import MAX_HEADER_SIZE, Header
from jaxcodec.bitstream.source import Readable, Source
from jaxcodec.bitstream.writer import Writable
from jaxcodec.inference.wav_pipe import WavHeader, WavWriter, quantize, read_wav

__all__ = [
    "PIPE",
    "SUFFIXES",
    "Audio",
    "Job",
    "Plan",
    "UsageError",
    "audio_writer",
    "expand",
    "find_jobs",
    "open_audio",
    "open_input",
    "open_output",
    "peek_header",
]

# those of data.audio_files, which imports JAX; info and peel must not
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
PIPE = "-"
_BLOCK = 1 << 14  # samples read at once
_MAX_SAMPLES = 1 << 42  # more is libsndfile's way to say that it does not know
_part_numbers = itertools.count()


class UsageError(ValueError):
    """What is asked for cannot be done, whatever the files hold."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One file to make from another."""

    source: Path | None  # None: standard input
    target: Path | None  # None: standard output


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command has to do."""

    jobs: tuple[Job, ...]
    num_ignored: int  # files in folders that are of another kind


def expand(name: str, suffixes: Collection[str]) -> tuple[list[Path], int]:
    """Files that a name stands for: itself, or all of a kind below a folder, sorted.

    Returns:
        The files, and how many others there are.

    Raises:
        ValueError: the folder has none.
        OSError: part of the folder cannot be read.
    """
    path = Path(name)
    if not path.is_dir():
        return [path], 0

    def fail(error: OSError):
        raise error

    everything = [
        Path(folder, file)
        for folder, _, files in os.walk(path, onerror=fail)
        for file in files
    ]
    found = [
        file
        for file in everything
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    ]
    if not found:
        raise ValueError(
            f"{name} holds no {' or '.join(suffixes)} files, but {len(everything)} "
            "others: name another folder, or the files themselves."
        )
    return sorted(found), len(everything) - len(found)


def find_jobs(
    inputs: Sequence[str], output: str, suffixes: Collection[str], suffix: str
) -> Plan:
    """Finds which files to make from which, touching none.

    With several inputs, a folder among them, or an existing folder as output, the
    output is a folder that mirrors the folders of the input.

    Args:
        inputs, output: as on a command line; `-` is standard input or output.
        suffixes: of the files to take from folders.
        suffix: that files in an output folder get.

    Raises:
        UsageError: two files would become the same, an input would be replaced, or the
            output cannot hold what is asked for.
        ValueError, OSError: as for `expand`.
    """
    folder = Path(output)
    many = len(inputs) > 1 or Path(inputs[0]).is_dir()
    into_folder = many or folder.is_dir() or output.endswith(("/", os.sep))
    if PIPE in inputs and (many or (into_folder and output != PIPE)):
        raise UsageError(
            f"'-' (standard input) is among {len(inputs)} inputs for {output!r}, but "
            "it has no name of its own: give it alone, and a file as OUT."
        )
    if output == PIPE and many:
        raise UsageError(
            "several files cannot go to '-' (standard output): name a folder as OUT."
        )
    if output == PIPE or not into_folder:
        source = None if inputs[0] == PIPE else Path(inputs[0])
        job = Job(source, None if output == PIPE else folder)
        _check([job])
        return Plan((job,), 0)
    if not folder.is_dir() and (folder.exists() or folder.suffix == suffix):
        raise UsageError(
            f"OUT is the file {output!r}, but several files need a folder: name one."
        )
    jobs: dict[Job, None] = {}  # a set that keeps the order
    num_ignored = 0
    for name in inputs:
        files, others = expand(name, suffixes)
        num_ignored += others
        root = Path(name) if Path(name).is_dir() else Path(name).parent
        # What an earlier run put into a folder below the input is no input.
        inside = folder.resolve() if _is_below(folder, root) else None
        for file in files:
            if inside and _is_below(file, inside):
                num_ignored += 1
                continue
            jobs[Job(file, folder / file.relative_to(root).with_suffix(suffix))] = None
    _check(list(jobs))
    return Plan(tuple(jobs), num_ignored)


def _is_below(path: Path, folder: Path) -> bool:
    path, folder = path.resolve(), folder.resolve()
    return path != folder and path.is_relative_to(folder)


def _check(jobs: list[Job]) -> None:
    """Raises UsageError if one file would replace another."""
    sources = {os.path.realpath(job.source): job.source for job in jobs if job.source}
    makers: dict[str, Path | None] = {}
    for job in jobs:
        if job.target is None:
            continue
        target = os.path.realpath(job.target)
        if target in sources or _is_same_file(job):
            raise UsageError(
                f"{job.target} is an input, but would be replaced: choose another OUT."
            )
        if target in makers and makers[target] != job.source:
            raise UsageError(
                f"{makers[target]} and {job.source} would both become {job.target}: "
                "process them apart, into different folders."
            )
        makers[target] = job.source


def _is_same_file(job: Job) -> bool:
    """Whether two names are of one file, which also finds hard links."""
    try:
        return bool(job.source and job.target and job.source.samefile(job.target))
    except OSError:
        return False


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
def open_input(path: Path | None, stdin: Readable | None) -> Iterator[Readable]:
    """Opens a file, or takes `stdin` if there is no path."""
    if path is None:
        assert stdin is not None
        yield stdin
    else:
        with path.open("rb") as stream:
            yield stream


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


@contextlib.contextmanager
def open_output(path: Path | None, stdout: Writable | None = None) -> Iterator[Any]:
    """A stream for a file that appears only when all of it has been written.

    It is written beside, then renamed; after any exception the temporary file is
    removed and what was there stays. Devices and pipes are written directly.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    if path is None:
        assert stdout is not None
        yield stdout
        return
    if path.exists() and not path.is_file():
        with path.open("wb", buffering=0) as stream:  # a folder raises here
            yield stream
        return
    path = Path(os.path.realpath(path))  # keeps a link, and replaces what it names
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".jaxcodec-{os.getpid()}-{next(_part_numbers)}.part"
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def peek_header(stream: Readable) -> tuple[Header, Source]:
    """Reads the header of a container, and gives back a stream that still has it.

    Raises:
        ContainerError: this is no container, or its header is damaged.
    """
    source = Source(stream)
    return Header.read(Source(io.BytesIO(source.peek(MAX_HEADER_SIZE)))), source
