"""Scoring decoded clips on all cores, in processes that hold no accelerator."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np

from jaxcodec.baselines.system import RATE
from jaxcodec.metrics.alignment import align
from jaxcodec.metrics.catalogue import measure

__all__ = ["Score", "Scorer", "score"]

LONGEST_DELAY = RATE // 5  # samples: no codec of a conversation delays by more
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Score(NamedTuple):
    """What is measured on one decoded clip."""

    delay: int  # samples
    scores: dict[str, float]
    failures: dict[str, str]


def score(target: np.ndarray, estimate: np.ndarray, names: Sequence[str]) -> Score:
    """Aligns a decoded clip with its original and measures it.

    Args:
        target, estimate: mono at 16 kHz.
        names: of metrics.
    """
    # what is shorter than a delay does not tell it
    limit = LONGEST_DELAY if len(target) > LONGEST_DELAY else 0
    aligned = align(target, estimate, limit)
    scores, failures = measure(aligned.target, aligned.estimate, names)
    return Score(aligned.delay, scores, failures)


class _Job(NamedTuple):
    tag: Any
    target: np.ndarray
    estimate: np.ndarray
    names: Sequence[str]


class Scorer:
    """A pool of processes; a clip that kills its process fails, and no other does.

    Args:
        workers: processes; with 1 the clips are scored in this process.
    """

    def __init__(self, workers: int):
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: dict[Future[Score], _Job] = {}
        self._done: list[tuple[Any, Score]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Scorer":
        if self._workers > 1:
            self._stack.enter_context(_one_thread_each())
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._pool is not None:
            processes = list((getattr(self._pool, "_processes", None) or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes if error else ():
                process.terminate()  # else the program would wait for its clip
        self._stack.close()

    def submit(
        self,
        tag: Any,
        target: np.ndarray,
        estimate: np.ndarray,
        names: Sequence[str],
    ) -> None:
        """Hands a clip over, and which metrics; waits if too many are waiting."""
        if self._workers <= 1:
            self._done.append((tag, score(target, estimate, names)))
            return
        while len(self._waiting) >= 4 * self._workers:
            self._collect()
        self._start(_Job(tag, target, estimate, names))

    def finished(self, everything: bool = False) -> Iterator[tuple[Any, Score]]:
        """Tags and scores of what is done.

        Args:
            everything: waits for all that was submitted.
        """
        while everything and self._waiting:
            self._collect()
            yield from self._take()
        yield from self._take()

    def _take(self) -> list[tuple[Any, Score]]:
        done, self._done = self._done, []
        return done

    def _start(self, job: "_Job") -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # JAX's threads do not fork
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=_leave_interrupts
            )
        try:
            future = self._pool.submit(score, *job[1:])
        except BrokenProcessPool:
            self._recover()
            self._start(job)
            return
        self._waiting[future] = job

    def _collect(self) -> None:
        ready, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in ready):
            self._recover()
            return
        for future in ready:
            self._done.append((self._waiting.pop(future).tag, future.result()))

    def _recover(self) -> None:
        """Scores what was waiting when a process died, each clip in its own process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        waiting, self._waiting = self._waiting, {}
        context = multiprocessing.get_context("spawn")
        for job in waiting.values():
            with ProcessPoolExecutor(
                1, mp_context=context, initializer=_leave_interrupts
            ) as pool:
                try:
                    found = pool.submit(score, *job[1:]).result()
                except BrokenProcessPool:
                    why = "the process that measured this clip died."
                    found = Score(0, {}, dict.fromkeys(job.names, why))
            self._done.append((job.tag, found))


def _leave_interrupts() -> None:
    """Lets Ctrl-C, which terminals send to all processes, be the program's matter."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Lets processes that are started use one thread: there is one for every core."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
