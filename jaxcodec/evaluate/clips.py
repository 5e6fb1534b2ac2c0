"""The clips of an evaluation: found, identified by content, labelled by a manifest."""

import csv
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcodec.baselines.system import RATE
from jaxcodec.data.audio_files import find_audio

__all__ = ["Clip", "find_clips", "find_manifest", "load_clip", "pick_examples"]

LABELS = ("language", "speaker", "corpus")
PATHS = ("path", "file", "filename", "clip")  # names of a manifest's first column
UNKNOWN = ("", "-")
LONG = 8.0  # seconds; longer clips make no good examples


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording."""

    name: str  # path below the folder of the data
    path: Path
    digest: str  # of the samples that codecs are given
    seconds: float
    labels: dict[str, str]  # language, speaker and so on, where known


def load_clip(path: Path) -> np.ndarray:
    """A recording as mono float32 at 16 kHz: channels are averaged, others resampled.

    Raises:
        OSError, RuntimeError: it cannot be read.
    """
    import soundfile
    import soxr

    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)


def find_manifest(folder: Path) -> Path | None:
    """The file MANIFEST.csv in a folder or in the two above it."""
    folder = folder.resolve()
    for place in (folder, *folder.parents[:2]):
        if (place / "MANIFEST.csv").is_file():
            return place / "MANIFEST.csv"
    return None


def find_clips(
    folder: Path, manifest: Path | None = None, every: int = 1, limit: int | None = None
) -> tuple[list[Clip], dict[str, str]]:
    """All recordings below a folder, without those that hold the same samples.

    Args:
        folder: of audio files.
        manifest: a CSV file with a column `path`, relative to the manifest or to the
            folder, and columns `language`, `speaker` or `corpus`.
        every: takes each so many files only, as sorted by name.
        limit: takes this many, evenly spread.

    Returns:
        The clips, and why others are left out, by name.

    Raises:
        FileNotFoundError: the folder holds no audio.
        ValueError: the manifest has no column of paths.
    """
    files = find_audio(folder)[::every]
    if limit is not None and limit < len(files):
        chosen = np.linspace(0, len(files) - 1, limit).round().astype(int)
        files = [files[index] for index in chosen]
    labels = _read_manifest(manifest) if manifest else {}
    clips: dict[str, Clip] = {}
    left_out: dict[str, str] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            waveform = load_clip(path)
        except (OSError, RuntimeError) as error:
            left_out[name] = f"it cannot be read: {' '.join(str(error).split())}"
            continue
        if not waveform.size or not np.isfinite(waveform).all():
            wrong = np.count_nonzero(~np.isfinite(waveform))
            left_out[name] = (
                f"{wrong} of its samples are not finite numbers."
                if wrong
                else "it has no samples."
            )
            continue
        digest = hashlib.sha256(waveform.tobytes()).hexdigest()[:16]
        if digest in clips:
            left_out[name] = f"it holds the same samples as {clips[digest].name}."
            continue
        known = labels.get(path.resolve(), {})
        clips[digest] = Clip(name, path, digest, len(waveform) / RATE, known)
    return list(clips.values()), left_out


def pick_examples(clips: Sequence[Clip], number: int) -> list[Clip]:
    """Clips to listen to: of 2 to 8 s, of as many speakers and languages as can be."""
    fitting = [clip for clip in clips if 2 <= clip.seconds <= LONG] or list(clips)
    chosen: list[Clip] = []
    while fitting and len(chosen) < number:
        seen = [set(clip.labels.values()) for clip in chosen]
        # the least known labels first, and of those spread over the list
        fitting.sort(
            key=lambda clip: sum(len(s & {*clip.labels.values()}) for s in seen)
        )
        chosen.append(fitting.pop(0 if _has_labels(fitting) else len(fitting) // 2))
    return sorted(chosen, key=lambda clip: clip.name)


def _has_labels(clips: Sequence[Clip]) -> bool:
    """Whether any of the clips has labels."""
    return any(clip.labels for clip in clips)


def _read_manifest(path: Path) -> dict[Path, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    named = next((column for column in PATHS if column in columns), None)
    if named is None:
        raise ValueError(
            f"the manifest {path} has the columns {', '.join(columns) or 'none'}: "
            f"expected one of {', '.join(PATHS)} with the files' paths."
        )
    return {
        (path.parent / row[named]).resolve(): {
            label: row[label] for label in LABELS if row.get(label, "") not in UNKNOWN
        }
        for row in rows
    }
