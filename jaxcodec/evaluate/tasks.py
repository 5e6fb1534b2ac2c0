"""What is to be coded and scored: a codec at one setting on one clip, each a row."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxcodec.baselines.system import RATE, Outcome, Setting, System, Trial
from jaxcodec.evaluate.clips import Clip, load_clip
from jaxcodec.evaluate.score import Score
from jaxcodec.evaluate.store import Store, row_key

__all__ = ["Task", "failed_row", "open_tasks", "scored_row", "trials"]

GROUP = 120 * RATE  # samples of clips that are in memory together


@dataclasses.dataclass(frozen=True)
class Task:
    """One codec at one setting on one clip."""

    system: System
    clip: Clip
    setting: Setting
    names: tuple[str, ...]  # of metrics that its row has not yet

    @property
    def key(self) -> str:
        return row_key(
            self.system.name, self.system.version, self.setting.label, self.clip.digest
        )


def open_tasks(
    systems: Sequence[System],
    clips: Sequence[Clip],
    store: Store,
    names: Sequence[str],
    kept: set[str],
    retry: bool,
) -> list[Task]:
    """What no row tells yet, in the order of codecs; scores that are there are kept.

    Args:
        systems, clips: every codec at each of its settings, on every clip.
        store: with the rows that there are.
        names: of metrics that a row should have.
        kept: digests of clips whose decoded audio is wanted too.
        retry: failed rows count as missing.
    """
    places = (
        Task(system, clip, setting, tuple(names))
        for system in systems
        for clip in clips
        for setting in system.settings
    )
    tasks = []
    for task in places:
        row = store.rows.get(task.key)
        if row and "codec" in row["failures"] and not retry:
            continue
        known = row["scores"] | ({} if retry else row["failures"]) if row else {}
        missing = tuple(name for name in names if name not in known)
        where = store.example(task.clip.digest, task.system.name, task.setting.label)
        is_unheard = task.clip.digest in kept and not where.exists()
        if row is None or missing or is_unheard:
            tasks.append(dataclasses.replace(task, names=missing))
    return tasks


def trials(
    tasks: Sequence[Task],
) -> Iterator[tuple[Task, np.ndarray, Outcome | Exception]]:
    """Runs every task, those of one codec and the same settings together."""
    wanted: dict[tuple[int, str], list[Task]] = {}
    for task in tasks:
        wanted.setdefault((id(task.system), task.clip.digest), []).append(task)
    groups: dict[tuple[int, tuple[Setting, ...]], list[list[Task]]] = {}
    for (system, _), found in wanted.items():
        settings = tuple(task.setting for task in found)
        groups.setdefault((system, settings), []).append(found)
    for (_, settings), members in groups.items():
        batch: list[list[Task]] = []
        waveforms: list[np.ndarray] = []
        for found in members:
            batch.append(found)
            waveforms.append(load_clip(found[0].clip.path))
            if sum(map(len, waveforms)) >= GROUP or found is members[-1]:
                yield from _run_batch(batch, waveforms, settings)
                batch, waveforms = [], []


def _run_batch(
    batch: list[list[Task]], waveforms: list[np.ndarray], settings: tuple[Setting, ...]
) -> Iterator[tuple[Task, np.ndarray, Outcome | Exception]]:
    by_label = [{task.setting.label: task for task in found} for found in batch]
    trial: Trial
    for trial in batch[0][0].system.run(waveforms, settings):
        task = by_label[trial.clip].pop(trial.setting.label)
        yield task, waveforms[trial.clip], trial.outcome
    left = [task.clip.name for found in by_label for task in found.values()]
    assert not left, f"no outcome for {left}"


def scored_row(
    task: Task, outcome: Outcome, score: Score, before: dict[str, Any] | None
) -> dict[str, Any]:
    """A row with what was measured now, and what of it was known before."""
    known = {
        kind: {
            name: value
            for name, value in (before or {}).get(kind, {}).items()
            if name not in (*task.names, "codec")
        }
        for kind in ("scores", "failures")
    }
    num_samples = round(task.clip.seconds * RATE)
    return _base(task) | {
        "bytes": outcome.num_bytes,
        "payload_bytes": outcome.payload_bytes,
        "delay": score.delay,
        "length_error": len(outcome.waveform) - num_samples,
        "encode_seconds": round(outcome.encode_seconds, 5),
        "decode_seconds": round(outcome.decode_seconds, 5),
        "scores": known["scores"] | score.scores,
        "failures": known["failures"] | score.failures,
    }


def failed_row(task: Task, error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split()) or type(error).__name__
    return _base(task) | {"scores": {}, "failures": {"codec": reason}}


def _base(task: Task) -> dict[str, Any]:
    return {
        "key": task.key,
        "system": task.system.name,
        "version": task.system.version,
        "setting": task.setting.label,
        "bitrate": task.setting.bitrate,
        "digest": task.clip.digest,
        "seconds": task.clip.seconds,
    }
