"""Figures of programs for pods, as a Markdown table, and what grows with the pod."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

__all__ = ["CHIPS", "Chip", "growth", "seconds", "table"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is published of a chip.

    Source: cloud.google.com/tpu/docs, system architecture; the clock follows from the
    peak of its four matrix units.
    """

    flops: float  # per second, bfloat16
    bandwidth: float  # bytes of memory per second
    clock: float  # Hz


CHIPS = {
    "v5e": Chip(197e12, 819e9, 1.5e9),
    "v6e": Chip(918e12, 1640e9, 1.75e9),
}


def table(rows: list[dict[str, Any]], audio_seconds: float) -> str:
    """The results as Markdown, one column each."""
    lines: list[tuple[str, list[str]]] = []

    def line(name: str, value: Callable[[dict[str, Any]], str]) -> None:
        lines.append((name, [_value(row, value) for row in rows]))

    mib = 2**20
    for name in ("arguments", "outputs", "temporaries", "total"):
        line(f"{name}, MiB", lambda r, name=name: f"{r['memory'][name] / mib:,.1f}")
    line("operations, GFLOP", lambda r: f"{r['flops'] / 1e9:,.1f}")
    line("bytes accessed, MB", lambda r: f"{r['bytes'] / 1e6:,.1f}")
    line("compiler's cycles, million", lambda r: f"{r['cycles'] / 1e6:,.2f}")
    line("the same, ms", lambda r: f"{seconds(r) * 1e3:,.2f}")
    line(
        "bytes at full bandwidth, ms",
        lambda r: f"{1e3 * r['bytes'] / chip_of(r).bandwidth:,.2f}",
    )
    line(
        "estimated audio-s/s",
        lambda r: f"{r['batch'] * audio_seconds / seconds(r):,.0f}",
    )
    kinds = {kind: 0 for row in rows for kind in row.get("collectives", {})}
    for kind in kinds:
        line(
            f"{kind}: number, MB",
            lambda r, kind=kind: (
                f"{r['collectives'][kind]['count']}, "
                f"{r['collectives'][kind]['bytes'] / 1e6:,.2f}"
                if kind in r["collectives"]
                else "none"
            ),
        )
    line("compile, s", lambda r: f"{r['compile_seconds']:,.0f}")
    heads = [f"{row['topology']}, {row['batch']} per chip" for row in rows]
    text = [" | ".join(["", "per chip", *heads, ""]).strip()]
    text.append("| " + " | ".join(["---"] * (len(rows) + 1)) + " |")
    text += ["| " + " | ".join([name, *values]) + " |" for name, values in lines]
    return "\n".join(text)


def _value(row: dict[str, Any], value: Callable[[dict[str, Any]], str]) -> str:
    try:
        return value(row)
    except KeyError:
        return "does not fit" if not row["fits"] else "?"


def chip_of(row: dict[str, Any]) -> Chip:
    """The chip of a result.

    Raises:
        KeyError: nothing is known of it.
    """
    return CHIPS[re.split("[:=_]", row["topology"])[0]]


def seconds(row: dict[str, Any]) -> float:
    """The compiler's cycles as a time."""
    return row["cycles"] / chip_of(row).clock


def growth(small: dict[str, Any], large: dict[str, Any]) -> list[str]:
    """What a chip has more of in a larger topology, beyond the all-reduce.

    A share of 2 % is let pass: the compiler places things anew for every topology.
    """
    named = {
        "memory": (small["memory"]["total"], large["memory"]["total"]),
        "operations": (small["flops"], large["flops"]),
        "bytes": (small["bytes"], large["bytes"]),
        "cycles": (small["cycles"], large["cycles"]),
    }
    for kind in {**small["collectives"], **large["collectives"]}:
        pair = (small["collectives"].get(kind), large["collectives"].get(kind))
        old, new = (found or {"count": 0, "bytes": 0} for found in pair)
        named[f"{kind} bytes"] = (old["bytes"], new["bytes"])
        if kind != "all-reduce":
            named[f"number of {kind}"] = (old["count"], new["count"])
    return [
        f"{name}: {old:.4g} -> {new:.4g}"
        for name, (old, new) in named.items()
        if new > 1.02 * old
    ]
