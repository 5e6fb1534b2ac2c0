"""Random access to stretches of audio: the protocol, folders and manifests."""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile

from jaxcodec.arrays import Float
from jaxcodec.data.audio_files import find_audio

__all__ = [
    "BadAudio",
    "Extent",
    "FileSource",
    "Source",
    "from_folder",
    "from_manifest",
    "manifest_rows",
    "mono",
]

_MAX_SAMPLES = 1 << 42  # more is libsndfile's way to say that it does not know
_MAX_DENSITY = 200  # samples per byte from which a header is not believed unseen
_MANIFESTS = (".csv", ".jsonl")


class BadAudio(ValueError):
    """An item, or a stretch of it, that cannot be trained on.

    Attributes:
        kind: one of a few words to count by, such as "empty" or "unreadable".
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason

    def __str__(self) -> str:
        return self.reason


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much audio an item holds."""

    num_samples: int  # per channel
    sample_rate: int  # Hz

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate


@runtime_checkable
class Source(Protocol):
    """Recordings that can be read from anywhere, in any order, by many threads.

    Sources travel to worker processes, so they can be pickled.
    """

    @property
    def identity(self) -> str:
        """What and where this is, for messages and cache names."""
        ...

    def __len__(self) -> int: ...

    def describe(self, index: int) -> str:
        """The item's name, which stays when the data moves to another place."""
        ...

    def stamp(self, index: int) -> str:
        """Something cheap that changes when the item does.

        Raises:
            BadAudio: the item is not there.
        """
        ...

    def extent(self, index: int) -> Extent:
        """Length and rate, from the header if there is one.

        Raises:
            BadAudio: it cannot be told.
        """
        ...

    def read(self, index: int, start: int, frames: int) -> Float[np.ndarray, " n"]:
        """Float32 samples from `start` on, mixed down to mono, at the item's rate.

        Raises:
            BadAudio: they are not there, or cannot be decoded.
        """
        ...


def mono(samples: Float[np.ndarray, "n c"]) -> Float[np.ndarray, " n"]:
    """The mean over channels."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Audio files, read in place.

    Args:
        root: folder that the names are relative to.
        names: of the files, with forward slashes.
        identity: for messages.
    """

    root: Path
    names: tuple[str, ...]
    identity: str

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, index: int) -> str:
        """The path below the root."""
        return self.names[index]

    def stamp(self, index: int) -> str:
        """Size and time of the last change."""
        status = self._status(index)
        return f"{status.st_size}-{status.st_mtime_ns}"

    def extent(self, index: int) -> Extent:
        """Length and rate as the header gives them.

        A header that promises more than such a small file could hold is only believed
        once the last sample has been read.
        """
        size = self._status(index).st_size
        if not size:
            raise BadAudio("empty", "it has 0 bytes.")
        with self._open(index) as sound:
            extent = Extent(sound.frames, sound.samplerate)
        if not extent.num_samples:
            raise BadAudio("empty", "it has no samples.")
        if not 0 < extent.num_samples < _MAX_SAMPLES:
            raise BadAudio(
                "unreadable", "its header does not tell its length: encode it anew."
            )
        if extent.num_samples > _MAX_DENSITY * size:
            self.read(index, extent.num_samples - 1, 1)
        return extent

    def read(self, index: int, start: int, frames: int) -> Float[np.ndarray, " n"]:
        """Seeks, and decodes no more than is asked for."""
        try:
            with self._open(index) as sound:
                sound.seek(start)
                samples = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise BadAudio(
                "unreadable", f"it cannot be decoded from sample {start} on ({error})."
            ) from error
        if len(samples) != frames:
            raise BadAudio(
                "cut short",
                f"it ends at sample {start + len(samples)}, but its header promises "
                f"at least {start + frames}.",
            )
        return mono(samples)

    def _status(self, index: int) -> os.stat_result:
        try:
            return (self.root / self.names[index]).stat()
        except OSError as error:
            raise BadAudio("missing", f"{error.strerror}.") from error

    def _open(self, index: int) -> soundfile.SoundFile:
        try:
            return soundfile.SoundFile(self.root / self.names[index])
        except (soundfile.SoundFileError, OSError) as error:
            detail = getattr(error, "error_string", str(error)).removeprefix("Error : ")
            raise BadAudio(
                "unreadable", f"it cannot be opened as audio ({detail.rstrip('.')})."
            ) from error


def from_folder(folder: str | Path) -> FileSource:
    """All audio below a folder.

    Raises:
        FileNotFoundError: the folder does not exist or holds no audio.
    """
    folder = Path(folder)
    names = tuple(path.relative_to(folder).as_posix() for path in find_audio(folder))
    return FileSource(folder, names, f"folder {folder}")


def from_manifest(
    path: str | Path, where: Mapping[str, str | Sequence[str]] | None = None
) -> FileSource:
    """The files that a manifest lists.

    Args:
        path: CSV with a header line, or JSON lines. The column `path` is relative to
            the manifest's folder; there may be others.
        where: keeps rows whose column has this value, or one of these.

    Raises:
        ValueError: it is no manifest, or nothing is left.
        OSError: it cannot be read.
    """
    path = Path(path)
    rows = manifest_rows(path)
    for column, wanted in (where or {}).items():
        values = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        seen = sorted({row[column] for row in rows if column in row})
        if not seen:
            columns = ", ".join(dict.fromkeys(name for row in rows for name in row))
            raise ValueError(
                f"manifest {path} has no column {column!r} to choose by: it has "
                f"{columns}."
            )
        rows = [row for row in rows if row.get(column) in values]
        if not rows:
            raise ValueError(
                f"manifest {path} has no row left where {column} is "
                f"{' or '.join(map(repr, values))}: it is "
                f"{', '.join(map(repr, seen[:8]))}."
            )
    names = tuple(Path(row["path"]).as_posix() for row in rows)
    chosen = "".join(f", {key} = {value}" for key, value in (where or {}).items())
    return FileSource(path.parent, names, f"manifest {path}{chosen}")


def manifest_rows(path: str | Path) -> list[dict[str, str]]:
    """Rows of a manifest as text, each with a `path`.

    Raises:
        ValueError: it is of another format, has no rows, or a row has no path.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in _MANIFESTS:
        raise ValueError(
            f"{path} is no manifest: its name must end in {' or '.join(_MANIFESTS)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"manifest {path} is not UTF-8 text (byte {error.start}): save it as such."
        ) from error
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    rows = read(path, text)
    if not rows:
        raise ValueError(f"manifest {path} lists no files: it needs at least one row.")
    return rows


def _csv_rows(path: Path, text: str) -> list[dict[str, str]]:
    reader = csv.DictReader(text.splitlines())
    columns = reader.fieldnames or []
    if "path" not in columns:
        raise ValueError(
            f"manifest {path} has no column 'path': its first line names "
            f"{', '.join(map(repr, columns)) or 'nothing'}."
        )
    found = []
    for row in reader:
        if not row["path"] or None in row:
            raise ValueError(
                f"manifest {path}, line {reader.line_num}: expected a path and at most "
                f"{len(columns)} columns, found {list(row.values())}."
            )
        found.append({name: value or "" for name, value in row.items()})
    return found


def _json_rows(path: Path, text: str) -> list[dict[str, str]]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"manifest {path}, line {number} is no JSON ({error}): expected one "
                "object per line."
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            raise ValueError(
                f"manifest {path}, line {number}: expected an object with a 'path', "
                f"found {line[:60]!r}."
            )
        found.append({name: str(value) for name, value in row.items()})
    return found
