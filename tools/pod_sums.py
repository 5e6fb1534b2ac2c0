"""What a whole program would take, as the sum of its parts, side by side by layout.

The TPU compiler notes cycles only while it writes code, and that takes too long for a
whole program. Its parts, compiled by themselves, can be added up; what crosses the
seams between them is not in the sum. A clip's own work is given per second of audio,
and the optimizer's, which is per step, is divided by the audio of the step.
"""

from collections.abc import Iterable
from typing import Any

from tools.pod_table import chip_of

__all__ = ["sum_table"]

Rows = list[dict[str, Any]]

# per second of audio, for each layout; see `_figures`
COLUMNS = ("us", "us with reshapes", "MB in tiles", "of these in memory")
NOTE = (
    "A sum of parts compiled by themselves: what crosses their seams is not in it. "
    "Per second of audio of one chip. Reshapes that move data have no estimate; their "
    "bytes at full bandwidth are added in the second figure."
)


def sum_table(program: str, rows: Rows) -> str:
    """Results of parts as Markdown: a line each, and their sum.

    Args:
        program: what the parts add up to.
        rows: results of `compile_for_pod`, of one or more layouts.

    Raises:
        ValueError: a part has no time, or a layout lacks a part that another has.
    """
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    found = {(row["part"], row["layout"]): _figures(row) for row in rows}
    missing = [(p, k) for p in parts for k in layouts if (p, k) not in found]
    if missing:
        raise ValueError(
            f"{program}: no result of {missing[0][0]} for layout {missing[0][1]}, but "
            "for another: give the results of the same parts for every layout."
        )
    first = rows[0]
    head = [f"{program}, {first['topology']}, {first['batch']} per chip"]
    for column in COLUMNS:
        head += [f"{column}, {layout}" for layout in layouts]
        head += ["ratio"] * (len(layouts) == 2)
    lines = [head, ["---"] * len(head)]
    sums = {k: _added(found[part, k] for part in parts) for k in layouts}
    named = {part: {k: found[part, k] for k in layouts} for part in parts}
    for name, figures in {**named, "sum": sums}.items():
        cells = [name]
        for index in range(len(COLUMNS)):
            values = [figures[layout][index] for layout in layouts]
            cells += [f"{value:,.1f}" for value in values]
            if len(layouts) == 2:
                cells.append(f"{values[0] / values[1]:.2f}")
        lines.append(cells)
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([NOTE, "", *text])


def _figures(row: dict[str, Any]) -> tuple[float, ...]:
    """Microseconds by the cycles, with what has none, and MB, per second of audio."""
    chip = chip_of(row["topology"])
    if chip is None or "cycles" not in row:
        raise ValueError(
            f"{row['part']}, {row['layout']}, {row['topology']} has no time: expected "
            "a result for v5e or v6e that fits, and was not made with --plan."
        )
    audio = row["batch"] * row["clip_seconds"]
    cycles = row["cycles"] / chip.clock
    # reshapes that move data have no estimate: at best they go at full bandwidth
    reshapes = row["relayouts_in_memory"] / chip.bandwidth
    times = 1e6 * cycles, 1e6 * (cycles + reshapes)
    sizes = row["moved"] / 1e6, row["moved_in_memory"] / 1e6
    return tuple(value / audio for value in (*times, *sizes))


def _added(figures: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*figures, strict=True)))
