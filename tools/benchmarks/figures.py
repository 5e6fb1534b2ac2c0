"""From turns to figures: medians, spreads, rates, and shares of what is possible."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tools.benchmarks.machine import Device
from tools.benchmarks.order import Order, audio_seconds

__all__ = ["agreement", "growth", "ratios", "row", "spread"]

Turns = Sequence[dict[str, Any]]


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.percentile(samples, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def per_call(turns: Turns, clock: str = "seconds") -> list[float]:
    """Mean time of a call in each turn."""
    return [turn[clock] / turn["calls"] for turn in turns]


def ratios(turns: Turns, reference: Turns, clock: str = "seconds") -> dict[str, float]:
    """How many times as long as the reference a call takes, round by round.

    Both had their turns in the same rounds, so what slows the machine down for a while
    cancels out.
    """
    pairs = zip(per_call(turns, clock), per_call(reference, clock), strict=True)
    return spread([own / other for own, other in pairs])


def row(
    order: Order,
    model: str,
    turns: Turns,
    about: dict[str, Any],
    memory: dict[str, Any],
    counted: dict[str, Any],
    device: Device | None,
    matmul_rate: float | None,
) -> dict[str, Any]:
    """The figures of one system at one size.

    Args:
        order: what was done.
        model: its name.
        turns: of `alternate.play`.
        about, memory, counted: what the worker said.
        device: the accelerator's peaks, if they are known.
        matmul_rate: FLOP/s of a large product in this run, on a CPU.
    """
    call, seconds = spread(per_call(turns)), audio_seconds(order)
    rate, devices = seconds / call["median"], about.get("devices", 1)
    found = {
        "system": order.system,
        "layout": order.layout,
        "remat": order.remat,
        "work": order.work,
        "model": model if order.has_our_weights else "random weights",
        "batch": order.batch,
        "seconds": round(seconds / order.batch, 3),
        "precision": order.precision,
        "streams": order.streams or order.config()["max_streams"],
        "threads": order.threads,
        "device": about.get("device"),
        "devices": devices,
        "turns": len(turns),
        "calls": sum(turn["calls"] for turn in turns),
        "call_seconds": call,
        "call_cpu_seconds": spread(per_call(turns, "cpu_seconds")),
        "audio_seconds_per_second": rate,
        "per_device": rate / devices,
        "real_time_factor": 1 / rate,
        "compile_seconds": about.get("compile_seconds"),
        "host_peak_mib": _mib(memory.get("host")),
        "device_peak_mib": _mib(memory.get("device")),
        "temporary_mib": _mib(about.get("temporary_bytes")),
        "parameters": about.get("parameters"),
    }
    # a product on one of the devices that a CPU is made takes all of its cores
    apart = devices if device else 1
    return found | _shares(order, rate / apart, counted, device, matmul_rate)


def _shares(
    order: Order,
    rate: float,
    counted: dict[str, Any],
    device: Device | None,
    matmul_rate: float | None,
) -> dict[str, Any]:
    """Operations and bytes per second of audio, and how near the peaks that is.

    Args:
        rate: audio-seconds per second of what the peaks are of.
    """
    flops, moved = counted.get("flops"), counted.get("bytes")
    peak = device.rates.get(order.precision) if device else matmul_rate
    seconds = audio_seconds(order)
    found: dict[str, Any] = {
        "gflop_per_audio_second": flops and flops / seconds / 1e9,
        "mb_per_audio_second": moved and moved / seconds / 1e6,
        "peak_tflops": peak and peak / 1e12,
        "peak_from": None,
        "mfu": None,
        "bandwidth_share": None,
        "roofline_share": None,
    }
    if peak:
        found["peak_from"] = "data sheet" if device else "matmul in this run"
    if flops and peak:
        found["mfu"] = rate * flops / seconds / peak
    if moved and device:
        found["bandwidth_share"] = rate * moved / seconds / device.bandwidth
    if found["mfu"] and found["bandwidth_share"]:
        # the roofline is the longer of the two times that the peaks allow
        found["roofline_share"] = max(found["mfu"], found["bandwidth_share"])
    return found


def _mib(count: int | None) -> float | None:
    return count / 2**20 if count else None


def agreement(work: str, ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """How far two systems with the same weights came to the same result."""
    if work == "encode":
        return {"codes_that_differ": float(np.mean(ours != theirs))}
    peak = float(np.max(np.abs(ours)))
    error = float(np.max(np.abs(ours - theirs)))
    return {"error_of_peak" if work == "decode" else "loss_error": error / peak}


def different(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What two systems made of the same float32 work, where it was not the same.

    Times of wrong results are worth nothing. A few codes are ties, which rounding
    decides.
    """
    most = {"codes_that_differ": 5e-3, "error_of_peak": 1e-3, "loss_error": 1e-3}
    return [
        f"{row['work']} by {row['system']} on {row.get('threads')} threads, "
        f"{row['batch']} x {row['seconds']:g} s: {name} is {row[name]:.3g}, at most "
        f"{limit:g} was expected."
        for row in rows
        for name, limit in most.items()
        if row.get("precision") == "float32" and not row.get(name, 0) <= limit
    ]


def growth(rows: Sequence[dict[str, Any]]) -> float | None:
    """Exponent with which time grows with the seconds of audio in a call.

    1: twice the audio takes twice the time; less: batches or longer clips pay. The
    slope of a straight line through the logarithms; None of less than two sizes.
    """
    audio = [math.log(row["batch"] * row["seconds"]) for row in rows]
    taken = [math.log(row["call_seconds"]["median"]) for row in rows]
    if len(set(audio)) < 2:
        return None
    return float(np.polyfit(audio, taken, 1)[0])
