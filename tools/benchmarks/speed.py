"""One size of one kind of work: systems are made ready, alternate, and are compared."""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks import figures
from tools.benchmarks.alternate import Failed, Worker, output_of, play
from tools.benchmarks.machine import device_of
from tools.benchmarks.order import Order

__all__ = ["Settings", "compare", "failed_row"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 7
    turn_seconds: float = 0.5
    together: bool = False  # make all systems ready at once: on a machine of many cores
    deadline: float | None = None  # of `time.monotonic`; what is not ready is left out


def compare(
    orders: Sequence[Order], model: str, settings: Settings
) -> list[dict[str, Any]]:
    """Rows of all systems; one that failed has `failed` instead of figures."""
    failed: dict[Order, str] = {}
    workers: dict[Order, Worker] = {}
    try:
        if settings.together:
            workers = {order: Worker(order) for order in orders}
        for order in orders:
            _say(f"preparing {_title(order)}")
            if order not in workers:
                workers[order] = Worker(order)
            try:
                workers[order].ready(_left(settings.deadline))
            except Failed as failure:
                _say(f"failed: {failure}")
                failed[order] = str(failure)
                workers.pop(order).close()
        _same_device(workers.values())
        return _measured(orders, workers, failed, model, settings)
    except Failed as failure:  # in its turn, so that the others' have no meaning
        why = {order: failed.get(order, f"in turns: {failure}") for order in orders}
        return [failed_row(order, model, why[order]) for order in orders]
    finally:
        for worker in workers.values():
            worker.close()


def _measured(
    orders: Sequence[Order],
    workers: dict[Order, Worker],
    failed: dict[Order, str],
    model: str,
    settings: Settings,
) -> list[dict[str, Any]]:
    playing = [order for order in orders if order in workers]
    players = [workers[order] for order in playing]
    _say(f"{settings.rounds} rounds of {len(players)} systems")
    turns = dict(
        zip(
            playing,
            play(players, settings.rounds, settings.turn_seconds),
            strict=True,
        )
    )
    memory = {order: workers[order].ask(memory=True) for order in playing}
    agreements = _agreements(playing, workers)
    rate = next(
        (
            workers[order].ask(peak_rate=True)["peak_rate"]
            for order in playing
            if order.system == "jaxcodec"
        ),
        None,
    )
    rows = []
    for order in orders:
        if order in failed:
            rows.append(failed_row(order, model, failed[order]))
            continue
        worker = workers[order]
        ours = order.system == "jaxcodec"
        device = device_of(str(worker.about.get("device")))
        found = figures.row(
            order,
            model,
            turns[order],
            worker.about,
            memory[order],
            worker.ask(count=True) if ours else {},
            device if ours else None,
            rate if ours else None,
        )
        reference = reference_of(order, playing)
        if reference and reference is not order:
            pair = turns[order], turns[reference]
            found["times_as_long"] = figures.ratios(*pair)
            found["times_the_cpu"] = figures.ratios(*pair, "cpu_seconds")
        rows.append({**found, **agreements.get(order, {})})
    return rows


def reference_of(order: Order, playing: Sequence[Order]) -> Order | None:
    """Ours that a system is compared with: first of the same precision."""
    ours = [o for o in playing if o.system == "jaxcodec"]
    same = [o for o in ours if o.precision == order.precision]
    return next(iter(same or ours), None)


def _agreements(
    playing: Sequence[Order], workers: dict[Order, Worker]
) -> dict[Order, dict[str, float]]:
    """Results of systems with the same weights beside their reference's."""
    found: dict[Order, dict[str, float]] = {}
    if len(playing) < 2:
        return found
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            order: output_of(workers[order], Path(folder), str(number))
            for number, order in enumerate(playing)
            if order.has_our_weights
        }
        for order, path in paths.items():
            reference = reference_of(order, playing)
            if reference and reference is not order:
                found[order] = figures.agreement(
                    order.work, np.load(paths[reference]), np.load(path)
                )
    return found


def failed_row(order: Order, model: str, why: str) -> dict[str, Any]:
    """What stands in for the figures of a system that has none."""
    named = ("system", "layout", "work", "batch", "seconds", "precision", "threads")
    about = {name: getattr(order, name) for name in named}
    return {**about, "model": model, "failed": why}


def _same_device(workers: Iterable[Worker]) -> None:
    """Refuses to compare a GPU with a CPU.

    Raises:
        ValueError: systems found devices of several kinds.
    """
    found = {worker.order.system: worker.about["platform"] for worker in workers}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{system} on {kind}" for system, kind in found.items())
        raise ValueError(f"systems run on different devices: {told}. Try --device cpu.")


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.1)


def _title(order: Order) -> str:
    return f"{order.work}, {order.name}, {order.batch} x {order.seconds:g} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
