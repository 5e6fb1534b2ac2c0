"""The evaluation itself: what is missing is computed, what is there is kept."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.baselines.command import CommandCodec, parse_codec
from jaxcodec.baselines.installed import find_baseline, how_to_install
from jaxcodec.baselines.system import RATE, Outcome, System
from jaxcodec.evaluate.about import describe
from jaxcodec.evaluate.clips import (
    Clip,
    find_clips,
    find_manifest,
    load_clip,
    pick_examples,
)
from jaxcodec.evaluate.codebooks import codebook_usage
from jaxcodec.evaluate.options import Options, Progress, Result
from jaxcodec.evaluate.score import Score, Scorer
from jaxcodec.evaluate.store import Store
from jaxcodec.evaluate.tasks import Task, failed_row, open_tasks, scored_row, trials
from jaxcodec.metrics.catalogue import choose

__all__ = ["Options", "Progress", "Result", "evaluate"]


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
    describe(store, options, chosen, clips, left_out, examples, names, missing)
    kept = {clip.digest for clip in examples}
    tasks = open_tasks(chosen, clips, store, names, kept, options.retry_failed)
    _save_originals(store, examples)
    _run(tasks, store, kept, options.workers, progress)
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
        undecoded={
            row["system"]: row["failures"]["codec"]
            for row in reversed(rows)
            if "codec" in row["failures"]
        },
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


def _run(
    tasks: Sequence[Task],
    store: Store,
    kept: set[str],
    workers: int | None,
    progress: Progress | None,
) -> None:
    num_done = 0

    def keep(task: Task, outcome: Outcome, score: Score) -> None:
        before = store.rows.get(task.key)
        add(task, outcome, scored_row(task, outcome, score, before))

    def add(task: Task, outcome: Outcome | None, made: dict[str, Any]) -> None:
        nonlocal num_done
        if outcome is not None and task.clip.digest in kept:
            _save_example(store, task, outcome.waveform, made["delay"])
        store.add(made)
        num_done += 1
        if progress:
            progress(num_done, len(tasks), f"{task.system.name} {task.setting.label}")

    if progress and tasks:
        progress(0, len(tasks), tasks[0].system.name)
    with Scorer(_num_workers(workers, len(tasks))) as scorer:
        for task, waveform, found in trials(tasks):
            if isinstance(found, Exception):
                add(task, None, failed_row(task, found))
                continue
            _save_codes(store, task, found)
            scorer.submit((task, found), waveform, found.waveform, task.names)
            for (done, outcome), score in scorer.finished():
                keep(done, outcome, score)
        for (done, outcome), score in scorer.finished(everything=True):
            keep(done, outcome, score)


def _num_workers(workers: int | None, num_tasks: int) -> int:
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(workers, num_tasks))


def _save_codes(store: Store, task: Task, outcome: Outcome) -> None:
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


def _save_example(store: Store, task: Task, waveform: np.ndarray, delay: int) -> None:
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
