"""The evaluation itself: what is missing is computed, what is there is kept."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.baselines.command import CommandCodec, parse_codec
from jaxcodec.baselines.installed import find_baseline, how_to_install
from jaxcodec.baselines.system import RATE, Outcome, Setting, System, Trial
from jaxcodec.evaluate.clips import (
    Clip,
    find_clips,
    find_manifest,
    load_clip,
    pick_examples,
)
from jaxcodec.evaluate.codebooks import codebook_usage
from jaxcodec.evaluate.score import Score, Scorer
from jaxcodec.evaluate.store import FORMAT, Store, row_key
from jaxcodec.metrics import perceptual
from jaxcodec.metrics.catalogue import choose

__all__ = ["Options", "Progress", "Result", "evaluate"]

GROUP = 120 * RATE  # samples of clips that are in memory together
Progress = Callable[[int, int, str], None]  # rows done, rows to do, what is going on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate on what."""

    data: Path  # folder of audio
    out: Path  # folder of the rows; an earlier run's rows are kept
    models: Sequence[str] = ("default",)  # see `evaluate.models.find_models`
    baselines: Sequence[str] = ()  # see `baselines.installed.BASELINES`
    codecs: Sequence[str] = ()  # see `baselines.command.parse_codec`
    metrics: Sequence[str] | None = None  # None: all that are installed
    manifest: Path | None = None  # None: a MANIFEST.csv in or above the data
    every: int = 1  # takes each so many clips only
    limit: int | None = None  # takes so many clips, evenly spread
    examples: int = 4  # clips to keep audio of
    workers: int | None = None  # None: one for every core
    batch_size: int | None = None  # chunks together; None: 1 on a CPU, else 16
    retry_failed: bool = False  # computes rows with failures anew
    command: str = ""  # that the report shows


@dataclasses.dataclass(frozen=True)
class Result:
    """How an evaluation went."""

    folder: Path
    num_rows: int  # that the report is made from
    num_new: int  # computed now
    num_failed: int  # rows with a failure, old and new
    num_undecoded: int  # of these, rows of clips that could not be coded
    found: dict[str, str]  # programs that baselines were run with
    missing: dict[str, str]  # baselines and metrics that are not installed: what to do
    left_out: dict[str, str]  # files that were not evaluated: why


@dataclasses.dataclass(frozen=True)
class _Task:
    system: System
    clip: Clip
    setting: Setting

    @property
    def key(self) -> str:
        return row_key(
            self.system.name, self.system.version, self.setting.label, self.clip.digest
        )


def evaluate(
    options: Options, systems: Sequence[System] = (), progress: Progress | None = None
) -> Result:
    """Measures codecs on clips; goes on where an earlier run was interrupted.

    Scripts that call this need the guard `if __name__ == "__main__"`: clips are scored
    in processes of their own, unless `workers` is 1.

    Args:
        options: what to evaluate on what.
        systems: codecs of the caller's own, besides those of the options.
        progress: called with every row.

    Raises:
        ValueError: an option names what does not exist.
        FileNotFoundError: there is no audio.
    """
    metrics, missing = choose(options.metrics)
    names = [metric.name for metric in metrics]
    manifest = options.manifest or find_manifest(options.data)
    clips, left_out = find_clips(options.data, manifest, options.every, options.limit)
    chosen = [*systems, *_baselines(options, missing), *_commands(options)]
    chosen = [*_models(options), *chosen]
    _check(chosen, clips)
    store = Store(options.out)
    examples = pick_examples(clips, options.examples)
    _describe(store, options, chosen, clips, left_out, examples, names, missing)
    kept = {clip.digest for clip in examples}
    tasks = [
        task
        for system in chosen
        for clip in clips
        for setting in system.settings
        if _is_open(
            task := _Task(system, clip, setting),
            store,
            names,
            kept,
            options.retry_failed,
        )
    ]
    _save_originals(store, examples)
    _run(tasks, store, names, kept, options.workers, progress)
    about = store.about()
    about["codebooks"] |= codebook_usage(store, chosen, clips)
    store.set_about(about)
    return _result(store, len(tasks))


def _result(store: Store, num_new: int) -> Result:
    about = store.about()
    digests = {clip["digest"] for clip in about["clips"]}
    versions = {name: found["version"] for name, found in about["systems"].items()}
    rows = [
        row
        for row in store.rows.values()
        if row["digest"] in digests and versions.get(row["system"]) == row["version"]
    ]
    return Result(
        folder=store.folder,
        num_rows=len(rows),
        num_new=num_new,
        num_failed=sum(bool(row["failures"]) for row in rows),
        num_undecoded=sum("codec" in row["failures"] for row in rows),
        found={
            name: system["about"]["programs"]
            for name, system in about["systems"].items()
            if system["kind"] == "baseline"
        },
        missing=about["missing"],
        left_out=about["left_out"],
    )


def _models(options: Options) -> list[System]:
    if not options.models:
        return []
    from jaxcodec import runtime

    runtime.prepare()
    import jax

    from jaxcodec.evaluate.models import find_models

    batch_size = options.batch_size or (1 if jax.default_backend() == "cpu" else 16)
    return list(find_models(options.models, batch_size=batch_size))


def _baselines(options: Options, missing: dict[str, str]) -> Iterator[System]:
    for name in options.baselines:
        found = find_baseline(name)
        if found is None:
            missing[name] = how_to_install(name)
        else:
            yield found


def _commands(options: Options) -> list[CommandCodec]:
    return [parse_codec(text) for text in options.codecs]


def _check(systems: Sequence[System], clips: Sequence[Clip]) -> None:
    names = [system.name for system in systems]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several codecs are called {twice[0]!r}: give each a name of its own."
        )
    if not systems:
        raise ValueError(
            "there is no codec to evaluate: name models, baselines that are installed, "
            "or commands."
        )
    if not clips:
        raise ValueError("none of the audio files can be read: check them.")


def _is_open(
    task: _Task, store: Store, names: Sequence[str], kept: set[str], retry: bool
) -> bool:
    """Whether a row is missing, or something in it."""
    row = store.rows.get(task.key)
    if row is None or (retry and row["failures"]):
        return True
    if "codec" in row["failures"]:
        return False
    if any(name not in row["scores"] | row["failures"] for name in names):
        return True
    where = store.example(task.clip.digest, task.system.name, task.setting.label)
    return task.clip.digest in kept and not where.exists()


def _run(
    tasks: Sequence[_Task],
    store: Store,
    names: Sequence[str],
    kept: set[str],
    workers: int | None,
    progress: Progress | None,
) -> None:
    num_done = 0

    def keep(task: _Task, outcome: Outcome | None, row: dict[str, Any]) -> None:
        nonlocal num_done
        if outcome is not None and task.clip.digest in kept:
            _save_example(store, task, outcome.waveform, row["delay"])
        store.add(row)
        num_done += 1
        if progress:
            progress(num_done, len(tasks), f"{task.system.name} {task.setting.label}")

    if progress and tasks:
        progress(0, len(tasks), tasks[0].system.name)
    with Scorer(names, _num_workers(workers, len(tasks))) as scorer:
        for task, waveform, found in _trials(tasks):
            if isinstance(found, Exception):
                keep(task, None, _failed_row(task, found))
                continue
            _save_codes(store, task, found)
            scorer.submit((task, found), waveform, found.waveform)
            for (done, outcome), score in scorer.finished():
                keep(done, outcome, _row(done, outcome, score))
        for (done, outcome), score in scorer.finished(everything=True):
            keep(done, outcome, _row(done, outcome, score))


def _num_workers(workers: int | None, num_tasks: int) -> int:
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(workers, num_tasks))


def _trials(
    tasks: Sequence[_Task],
) -> Iterator[tuple[_Task, np.ndarray, Outcome | Exception]]:
    """Runs every task, those of one codec and the same settings together."""
    wanted: dict[tuple[int, str], list[_Task]] = {}
    for task in tasks:
        wanted.setdefault((id(task.system), task.clip.digest), []).append(task)
    groups: dict[tuple[int, tuple[Setting, ...]], list[list[_Task]]] = {}
    for (system, _), found in wanted.items():
        settings = tuple(task.setting for task in found)
        groups.setdefault((system, settings), []).append(found)
    for (_, settings), members in groups.items():
        batch: list[list[_Task]] = []
        waveforms: list[np.ndarray] = []
        for found in members:
            batch.append(found)
            waveforms.append(load_clip(found[0].clip.path))
            if sum(map(len, waveforms)) >= GROUP or found is members[-1]:
                yield from _run_batch(batch, waveforms, settings)
                batch, waveforms = [], []


def _run_batch(
    batch: list[list[_Task]], waveforms: list[np.ndarray], settings: tuple[Setting, ...]
) -> Iterator[tuple[_Task, np.ndarray, Outcome | Exception]]:
    by_label = [{task.setting.label: task for task in found} for found in batch]
    trial: Trial
    for trial in batch[0][0].system.run(waveforms, settings):
        task = by_label[trial.clip].pop(trial.setting.label)
        yield task, waveforms[trial.clip], trial.outcome
    left = [task.clip.name for found in by_label for task in found.values()]
    assert not left, f"no outcome for {left}"


def _row(task: _Task, outcome: Outcome, score: Score) -> dict[str, Any]:
    num_samples = round(task.clip.seconds * RATE)
    return _base(task) | {
        "bytes": outcome.num_bytes,
        "payload_bytes": outcome.payload_bytes,
        "delay": score.delay,
        "length_error": len(outcome.waveform) - num_samples,
        "encode_seconds": round(outcome.encode_seconds, 5),
        "decode_seconds": round(outcome.decode_seconds, 5),
        "scores": score.scores,
        "failures": score.failures,
    }


def _failed_row(task: _Task, error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split()) or type(error).__name__
    return _base(task) | {"scores": {}, "failures": {"codec": reason}}


def _base(task: _Task) -> dict[str, Any]:
    return {
        "key": task.key,
        "system": task.system.name,
        "version": task.system.version,
        "setting": task.setting.label,
        "bitrate": task.setting.bitrate,
        "digest": task.clip.digest,
        "seconds": task.clip.seconds,
    }


def _save_codes(store: Store, task: _Task, outcome: Outcome) -> None:
    """Keeps the codes of all streams, from which those of fewer can be had."""
    if outcome.codes is None or task.setting != task.system.settings[-1]:
        return
    path = store.codes(task.system.name, task.system.version, task.clip.digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, outcome.codes.astype(np.uint16))


def _save_originals(store: Store, examples: Sequence[Clip]) -> None:
    for clip in examples:
        path = store.example(clip.digest, "original", "")
        if not path.exists():
            _save_audio(path, load_clip(clip.path))


def _save_example(store: Store, task: _Task, waveform: np.ndarray, delay: int) -> None:
    """Keeps decoded audio without its delay, as long as the original."""
    length = round(task.clip.seconds * RATE)
    shifted = waveform[delay:] if delay > 0 else np.pad(waveform, (-delay, 0))
    shifted = np.pad(shifted, (0, max(length - len(shifted), 0)))[:length]
    path = store.example(task.clip.digest, task.system.name, task.setting.label)
    _save_audio(path, shifted)


def _save_audio(path: Path, waveform: np.ndarray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    soundfile.write(beside, np.clip(waveform, -1, 1), RATE, "PCM_16", format="FLAC")
    beside.replace(path)


def _describe(
    store: Store,
    options: Options,
    systems: Sequence[System],
    clips: Sequence[Clip],
    left_out: dict[str, str],
    examples: Sequence[Clip],
    metrics: Sequence[str],
    missing: dict[str, str],
) -> None:
    """Writes what the rows belong to; codecs of earlier runs stay in the report."""
    before = store.about()
    store.set_about(
        {
            "format": FORMAT,
            "data": str(options.data),
            "command": options.command or before.get("command", ""),
            "clips": [
                {
                    "name": clip.name,
                    "digest": clip.digest,
                    "seconds": clip.seconds,
                    "labels": clip.labels,
                }
                for clip in clips
            ],
            "left_out": left_out,
            "systems": before.get("systems", {})
            | {system.name: _about_system(system) for system in systems},
            "missing": missing,
            "metrics": list(metrics),
            "examples": [clip.digest for clip in examples],
            "codebooks": before.get("codebooks", {}),
            "packages": _packages(),
        }
    )


def _about_system(system: System) -> dict[str, Any]:
    settings = [
        {"label": setting.label, "bitrate": setting.bitrate}
        for setting in system.settings
    ]
    return {
        "kind": system.kind,
        "version": system.version,
        "about": system.about,
        "settings": settings,
    }


def _packages() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import jaxcodec

    found = {"jaxcodec": jaxcodec.__version__, "numpy": np.__version__}
    found["jax"] = metadata.version("jax")
    for module, package in perceptual.PACKAGES.items():
        if version := perceptual.installed(module):
            found[package] = version
    return found
