"""The loop around the step: phases' borders, evaluation, checkpoints, and resuming."""

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcodec import parallel
from jaxcodec.arrays import Array, Float
from jaxcodec.experiment import Experiment, differences, flattened
from jaxcodec.export.weights import Release
from jaxcodec.train.adversarial import Adversary
from jaxcodec.train.checkpoint import Checkpoints
from jaxcodec.train.programs import Batches, Programs
from jaxcodec.train.step import TrainState

__all__ = ["Evaluation", "Options", "Watcher", "train"]

log = logging.getLogger(__name__)

MOST_SKIPPED = 20  # non-finite steps in a row that end a run
AHEAD = 2  # steps that the host may be ahead of the devices


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What validation found."""

    scalars: dict[str, float]
    audio: dict[str, Float[np.ndarray, "n"]] = dataclasses.field(default_factory=dict)
    sample_rate: int = 16_000  # of the audio, Hz


@runtime_checkable
class Watcher(Protocol):
    """Told of what happens; in the main process only."""

    def begin(self, step: int) -> None:
        """The run begins, or goes on, after `step` steps."""

    def logged(self, step: int, values: dict[str, float]) -> None: ...

    def evaluated(self, step: int, found: Evaluation, state: TrainState) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is looked after; none of it changes what is trained."""

    save_every: int = 500
    log_every: int = 50
    evaluate_every: int = 0  # 0: never
    keep: int = 2  # newest checkpoints
    best: str | None = None  # metric whose best checkpoint is kept, too
    seconds: float | None = None  # stop after so long and save
    accept_changes: bool = False  # resume although settings have changed


def train(
    experiment: Experiment,
    batches: Batches,
    out: str | Path,
    *,
    options: Options | None = None,
    mesh: Mesh | None = None,
    adversary: Adversary | None = None,
    evaluate: Callable[[TrainState], Evaluation] | None = None,
    watchers: Sequence[Watcher] = (),
    stop: Callable[[], bool] = lambda: False,
    programs: Programs | None = None,
    release: Release | None = None,
) -> TrainState:
    """Trains until the schedule ends, and saves.

    A folder that holds checkpoints is gone on with; the same command gives the same
    result whether it was interrupted or not, on any number of devices but for rounding.

    Args:
        experiment: what to train.
        batches: where waveforms come from.
        out: folder for checkpoints.
        options: how the run is looked after.
        mesh: devices to use; all if None.
        adversary: trained losses, from the end of pretraining on.
        evaluate: validation, every `options.evaluate_every` steps and at the end; of a
            release also before the first step.
        watchers: told of what happens.
        stop: asked after every step; True saves and returns.
        programs: compiled before, for the same experiment, mesh and adversary.
        release: what a new run starts from, of an experiment by `origin.go_on_from`.

    Raises:
        FloatingPointError: gradients were not finite for many steps in a row.
        ValueError: the folder's run has other settings, or cannot be restored.
    """
    options = options or Options()
    plan = experiment.schedule
    run = programs or Programs(experiment, mesh or parallel.data_mesh(), adversary)
    checkpoints = Checkpoints(
        Path(out) / "checkpoints", options.keep, options.best if evaluate else None
    )
    settings = flattened(experiment)
    state = _resume(run, checkpoints, batches, settings, options.accept_changes)
    if state is None:
        state = run.start(batches, release)
    first = int(state.step)
    watchers = watchers if parallel.is_main() else ()
    for watcher in watchers:
        watcher.begin(first)
    if release and not first and evaluate and options.evaluate_every:
        _evaluated(evaluate, state, 0, watchers)

    begun = time.monotonic()
    clock = _Clock(first)
    in_flight: deque[Array] = deque()
    for step in range(first, plan.steps):
        if step == plan.pretrain_steps and plan.kmeans_batches:
            state = run.start_codebooks(state, batches)
        with clock.waiting():
            waveform = parallel.global_batch(next(batches).waveform, run.mesh)
        state, metrics = run.step(state, waveform)
        done = step + 1
        quantizing = done > plan.pretrain_steps
        if plan.revive_every and quantizing and done % plan.revive_every == 0:
            state = run.revive(state, waveform)
        in_flight.append(metrics["loss"])
        if len(in_flight) > AHEAD:
            in_flight.popleft().block_until_ready()

        at_end = done == plan.steps
        if done % options.log_every == 0 or at_end:
            values = {name: float(value) for name, value in metrics.items()}
            values |= clock.read(done, run.audio_seconds(waveform))
            values["usage_entropy_bits"] = _usage_entropy(state)
            for watcher in watchers:
                watcher.logged(done, values)
            _check_sanity(done, values, checkpoints)
        found = None
        if evaluate and _is_due(done, options.evaluate_every, at_end):
            found = _evaluated(evaluate, state, done, watchers)
        spent = time.monotonic() - begun
        late = options.seconds is not None and spent > options.seconds
        over = _is_over(stop() or late, done, options.log_every)
        if over or found or _is_due(done, options.save_every, at_end):
            about = {"settings": settings, "data": batches.state()}
            checkpoints.save(state, about, found.scalars if found else None)
        if over:
            log.info("stopped and saved at step %d of %d", done, plan.steps)
            break
    checkpoints.close()
    return state


def _evaluated(
    evaluate: Callable[[TrainState], Evaluation],
    state: TrainState,
    step: int,
    watchers: Sequence[Watcher],
) -> Evaluation:
    found = evaluate(state)
    for watcher in watchers:
        watcher.evaluated(step, found, state)
    return found


def _is_over(wanted: bool, done: int, every: int) -> bool:
    """Whether to stop; the same answer in all processes.

    The first process's wish is asked for at logged steps; a platform that is about to
    take a machine away is heard at every step.
    """
    if jax.process_count() == 1:
        return wanted
    if multihost_utils.reached_preemption_sync_point(done):
        return True
    return done % every == 0 and bool(
        multihost_utils.broadcast_one_to_all(np.asarray(wanted))
    )


def _is_due(done: int, every: int, at_end: bool) -> bool:
    return every > 0 and (done % every == 0 or at_end)


def _check_sanity(
    done: int, values: dict[str, float], checkpoints: Checkpoints
) -> None:
    if values["skipped_in_a_row"] >= MOST_SKIPPED:
        checkpoints.close()
        raise FloatingPointError(
            f"loss or gradients were not finite in {MOST_SKIPPED} steps in a row, to "
            f"step {done}: lower the learning rate; the last saved states are in "
            f"{checkpoints.folder}."
        )


def _resume(
    run: Programs,
    checkpoints: Checkpoints,
    batches: Batches,
    settings: dict[str, Any],
    accept_changes: bool,
) -> TrainState | None:
    """The newest saved state, with the data at its place; None: start anew."""
    if not checkpoints.steps:
        return None
    saved = checkpoints.newest_about().get("settings", settings)
    changed = differences(saved, settings)
    listed = "; ".join(f"{n} was {a!r}, now {b!r}" for n, (a, b) in changed.items())
    if any(name.startswith("origin") for name in changed):
        raise ValueError(
            f"{checkpoints.folder.parent} holds a run with another start: {listed}. "
            "Name another folder, or start from the same weights (--from) as it did."
        )
    if changed and not accept_changes:
        raise ValueError(
            f"{checkpoints.folder.parent} holds a run with other settings: {listed}. "
            "Name another folder, restore the settings, or accept the changes."
        )
    restored = checkpoints.restore(run.shapes)
    if restored is None:
        return None
    step = int(restored.state.step)
    checkpoints.set_aside_after(step)
    batches.restore(restored.about["data"])
    log.info("going on after step %d", step)
    return restored.state


class _Clock:
    """Speed between two readings."""

    def __init__(self, step: int):
        self._step, self._time = step, time.perf_counter()
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for input."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def read(self, step: int, audio_seconds: float) -> dict[str, float]:
        """Speed since the last reading, and the share of time without input."""
        now = time.perf_counter()
        spent, steps = now - self._time, step - self._step
        values = {
            "seconds_per_step": spent / steps,
            "audio_seconds_per_second": audio_seconds * steps / spent,
            "input_wait_percent": 100 * self._waited / spent,
        }
        self._step, self._time, self._waited = step, now, 0.0
        return values


def _usage_entropy(state: TrainState) -> float:
    """Mean entropy of the running code usage, in bits."""
    share = np.asarray(state.usage)
    logs = np.log2(np.where(share > 0, share, 1))
    return float(-np.mean(np.sum(share * logs, axis=-1)))
