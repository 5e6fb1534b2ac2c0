"""Systems in processes of their own, that get turns one after the other.

PyTorch's and XLA's thread pools spin for a while when work has ended, and PyTorch's
lose several-fold where another pool keeps the cores busy. In one process, or in
processes that run at once, each would slow the other down. So each system lives in a
process that sleeps on a pipe while another has its turn; and because turns alternate,
what else the machine does falls on all of them alike.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from jaxcodec.runtime import TUNABLES
from tools.benchmarks.make import ROOT
from tools.benchmarks.order import Order

__all__ = ["Failed", "Player", "Worker", "play", "schedule"]

REST = 0.05  # seconds before a turn: the threads of the last one fall asleep


class Failed(Exception):
    """A system cannot do what it was asked for; the message says why."""


class Player(Protocol):
    """What gets turns."""

    def turn(self, seconds: float) -> dict[str, Any]:
        """Calls, wall and CPU seconds of one turn."""
        ...


class Worker:
    """A process that holds one system; see `tools.benchmarks.worker`."""

    def __init__(self, order: Order):
        self.order = order
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        if order.huge_pages:
            env.setdefault("GLIBC_TUNABLES", TUNABLES)
        if order.device != "auto":
            env["JAX_PLATFORMS"] = "cpu" if order.device == "cpu" else "cuda"
        self._log: IO = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmarks.worker", order.to_json()],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.about: dict[str, Any] = {}

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ready(self, limit: float | None = None) -> None:
        """Waits until the system is compiled and warm.

        Raises:
            Failed: it cannot do the work, or takes longer than `limit` seconds.
        """
        self.about = self._answer(limit)

    def turn(self, seconds: float) -> dict[str, Any]:
        """See `Player`."""
        return self.ask(turn=seconds)

    def ask(self, limit: float | None = None, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            Failed: see `ready`.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer(limit)

    def _answer(self, limit: float | None) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=limit)
        except queue.Empty:
            raise Failed(f"took longer than {limit:.0f} s") from None
        if line is None:
            code = self._process.wait()
            raise Failed(f"ended with status {code}{self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def schedule(num_players: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, player) in order; every second round backwards.

    So a machine that grows slower or faster favours nobody.
    """
    for number in range(rounds):
        players = range(num_players)
        for player in reversed(players) if number % 2 else players:
            yield number, player


def play(
    players: Sequence[Player],
    rounds: int,
    seconds: float,
    rest: float = REST,
    on_turn: Callable[[int, int], None] = lambda number, player: None,
) -> list[list[dict[str, Any]]]:
    """Turns of every player, round by round.

    Args:
        players: who alternate.
        rounds: turns of each.
        seconds: of a turn, at least; a turn is at least one call.
        rest: seconds before each turn.
        on_turn: told before each turn.
    """
    turns: list[list[dict[str, Any]]] = [[] for _ in players]
    for number, player in schedule(len(players), rounds):
        on_turn(number, player)
        time.sleep(rest)
        turns[player].append(players[player].turn(seconds))
    return turns


def output_of(worker: Worker, folder: Path, name: str) -> Path:
    """The worker's output as a file."""
    path = folder / f"{name}.npy"
    worker.ask(output=str(path))
    return path
