"""Files: which are read, which are written from which, and how safely."""

import contextlib
import dataclasses
import io
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxcodec.bitstream.header import MAX_HEADER_SIZE, Header
from jaxcodec.bitstream.source import Readable, Source
from jaxcodec.bitstream.writer import Writable
from jaxcodec.data.audio_files import SUFFIXES

__all__ = [
    "PIPE",
    "SUFFIXES",
    "Job",
    "Plan",
    "UsageError",
    "expand",
    "find_jobs",
    "open_input",
    "open_output",
    "peek_header",
]

PIPE = "-"
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


def peek_header(stream: Readable) -> tuple[Header, Source]:
    """Reads the header of a container, and gives back a stream that still has it.

    Raises:
        ContainerError: this is no container, or its header is damaged.
    """
    source = Source(stream)
    return Header.read(Source(io.BytesIO(source.peek(MAX_HEADER_SIZE)))), source
