"""Chunks in batches, several of which are computed at the same time."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxcodec.runtime import give_back, usable_cores

__all__ = ["Batches", "calls_at_once"]

MOST_CALLS = 4  # each needs memory of its own
TIDY = 64  # calls after which memory that is free is given back

Item = tuple[Any, ...]  # arrays with rows (channels) first, and something to pass along


def calls_at_once() -> int:
    """Calls side by side that suit the device."""
    if jax.default_backend() != "cpu":
        return 2  # one is computed, the other fetched
    return min(usable_cores(), MOST_CALLS)


@dataclasses.dataclass(frozen=True)
class Batches:
    """How rows of chunks become calls of a program.

    A program that computes one chunk leaves cores waiting at every small operation, and
    all but one while audio is read, resampled and packed. So calls run side by side,
    while the next chunks are made ready. Memory that calls leave free is cut up by what
    lives longer, so it is given back now and then, or it would grow with the audio.

    Args:
        size: rows per call.
        calls: at the same time.

    Raises:
        ValueError: one of them is below 1.
    """

    size: int = 1
    calls: int = 1
    _made: Iterator[int] = dataclasses.field(
        default_factory=lambda: itertools.count(1),
        init=False,
        repr=False,
        compare=False,
    )

    def __post_init__(self):
        for name in ("size", "calls"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of batches is {getattr(self, name)}: it must be at least "
                    "1."
                )

    def run(
        self, items: Iterable[Item], program: Callable[..., Any]
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Runs items through a program, and gives them back in order.

        No more items are taken than there are calls to keep busy.

        Args:
            items: see `Item`.
            program: of `size` rows; what rows are missing are zeros. It must be safe
                to call from several threads.
        """
        under_way: deque[tuple[list[Item], Future[np.ndarray]]] = deque()
        with ThreadPoolExecutor(self.calls, thread_name_prefix="chunks") as pool:
            try:
                for group in self._groups(items):
                    rows = pool.submit(self._rows, group, program)
                    under_way.append((group, rows))
                    # what is done is given at once: items may come from a live pipe
                    while len(under_way) > self.calls or _is_done(under_way):
                        yield from _apart(*under_way.popleft())
                while under_way:
                    yield from _apart(*under_way.popleft())
            finally:
                for _, rows in under_way:
                    rows.cancel()

    def _groups(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Items that fill at least a batch."""
        group: list[Item] = []
        for item in items:
            group.append(item)
            if sum(len(item[0]) for item in group) >= self.size:
                yield group
                group = []
        if group:
            yield group

    def _rows(self, group: list[Item], program: Callable[..., Any]) -> np.ndarray:
        """What the program makes of all rows of a group."""
        columns = [np.concatenate(part) for part in list(zip(*group, strict=True))[:-1]]
        total = len(columns[0])
        done = []
        for low in range(0, total, self.size):
            part = [column[low : low + self.size] for column in columns]
            short = self.size - len(part[0])
            part = [np.pad(a, ((0, short), *[(0, 0)] * (a.ndim - 1))) for a in part]
            done.append(np.asarray(program(*part)))
            if next(self._made) % TIDY == 0:
                give_back()
        return np.concatenate(done)


def _is_done(under_way: deque[tuple[list[Item], Future[np.ndarray]]]) -> bool:
    """Whether the first call has ended."""
    return bool(under_way) and under_way[0][1].done()


def _apart(
    group: list[Item], rows: "Future[np.ndarray]"
) -> Iterator[tuple[np.ndarray, Any]]:
    found, row = rows.result(), 0
    for item in group:
        count = len(item[0])
        yield found[row : row + count], item[-1]
        row += count
