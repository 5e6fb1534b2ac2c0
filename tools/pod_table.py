"""Figures of programs for pods, as a Markdown table, and what grows with the pod.

python -m tools.pod_table FILE.json ...  # results that `compile_for_pod` wrote
"""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

__all__ = ["CHIPS", "Chip", "chip_of", "growth", "table"]


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip; a TPU's clock follows from the published peak of its matrix units.

    Sources: cloud.google.com/tpu/docs, system architecture; NVIDIA's data sheet.
    """

    memory: float  # bytes that a program can have
    bandwidth: float  # bytes of memory per second
    clock: float  # Hz


CHIPS = {
    "v5e": Chip(15.75 * 2**30, 819e9, 1.5e9),
    "v6e": Chip(31 * 2**30, 1640e9, 1.75e9),
    "h200": Chip(141e9, 4800e9, 1.98e9),
}


BYTES = {
    "bytes": "bytes accessed",
    "unpadded_bytes": "bytes accessed without padding",
    "moved": "operands and results in tiles",
    "moved_in_memory": "of these in memory",
}


def chip_of(topology: str) -> Chip | None:
    """The chip of a topology such as `v5e:4x4`, None if nothing is known of it."""
    return CHIPS.get(re.split("[:=_]", topology)[0])


def table(rows: list[dict[str, Any]]) -> str:
    """Results as Markdown, one column each."""
    columns = [_cells(row) for row in rows]
    names = list({name: None for cells in columns for name in cells})
    heads = [_head(row) for row in rows]
    lines = [("per chip", heads), ("---", ["---"] * len(rows))]
    for name in names:
        missing = ["none" if row["fits"] else "does not fit" for row in rows]
        pairs = zip(columns, missing, strict=True)
        lines.append((name, [cells.get(name, text) for cells, text in pairs]))
    return "\n".join(f"| {' | '.join([name, *cells])} |" for name, cells in lines)


def _head(row: dict[str, Any]) -> str:
    """What was compiled, for how many chips."""
    what = [row.get("experiment"), row.get("part"), row.get("layout")]
    if row.get("direction") == "forward":
        what.append("forward")
    if row.get("precision", "float32") != "float32":
        what.append(row["precision"])
    where = f"{row['topology']}, {row['batch']} per chip"
    if "clip_seconds" in row:
        where += f", {row['clip_seconds']:.3g} s each"
    return ", ".join([" ".join(word for word in what if word), where]).strip(", ")


def _cells(row: dict[str, Any]) -> dict[str, str]:
    if not row["fits"]:
        return {}
    memory, chip = row["memory"], chip_of(row["topology"])
    audio = row["batch"] * row.get("clip_seconds", 0.0)
    if row["part"] == "optimizer":
        audio = 0.0  # it has nothing to do with audio
    kinds = ("arguments", "outputs", "temporaries", "total")
    cells = {f"{kind}, MiB": f"{memory[kind] / 2**20:,.1f}" for kind in kinds}
    if "flops" in row:
        cells["operations, GFLOP"] = f"{row['flops'] / 1e9:,.1f}"
    if audio and "flops" in row:
        cells["GFLOP per audio-s"] = f"{row['flops'] / 1e9 / audio:,.2f}"
    for name, words in BYTES.items():
        if name in row:
            cells[f"{words}, MB"] = f"{row[name] / 1e6:,.1f}"
            if audio:
                per_second = row[name] / 1e6 / audio
                cells[f"{words}, MB per audio-s"] = f"{per_second:,.1f}"
    if chip and audio and "moved_in_memory" in row:
        seconds = row["moved_in_memory"] / chip.bandwidth
        cells["that at full bandwidth, us per audio-s"] = (
            f"{1e6 * seconds / audio:,.1f}"
        )
    if "cycles" in row:
        cells |= _times(row, chip, audio)
    elif "kernels" in row:
        cells["kernels"] = f"{row['kernels']:,}"
    relayouts = row.get("relayouts")  # results of older versions have no count
    if relayouts:
        name = "reshapes without an estimate: number, MB"
        cells[name] = f"{relayouts['count']}, {relayouts['bytes'] / 1e6:,.1f}"
    for kind, moved in row["collectives"].items():
        cells[f"{kind}: number, MB"] = f"{moved['count']}, {moved['bytes'] / 1e6:,.2f}"
    if "planned_only" not in row:
        cells["compilation, s"] = f"{row['compile_seconds']:,.0f}"
    return cells


def _times(row: dict[str, Any], chip: Chip | None, audio: float) -> dict[str, str]:
    """The compiler's estimates of the time, and what the bandwidth allows."""
    cells = {"compiler's cycles, million": f"{row['cycles'] / 1e6:,.2f}"}
    if chip is None:
        return cells
    seconds = row["cycles"] / chip.clock
    cells["the same, ms"] = f"{1e3 * seconds:,.2f}"
    cells["bytes at full bandwidth, ms"] = f"{1e3 * row['bytes'] / chip.bandwidth:,.2f}"
    if audio:
        cells["the same, us per audio-s"] = f"{1e6 * seconds / audio:,.1f}"
        cells["audio-s/s by the cycles"] = f"{audio / seconds:,.0f}"
    return cells


def growth(small: dict[str, Any], large: dict[str, Any]) -> list[str]:
    """What a chip has more of in a larger topology, beyond the all-reduce.

    A share of 2 % is let pass: the compiler places things anew for every topology.
    """
    named = {"memory": (small["memory"]["total"], large["memory"]["total"])}
    figures = {"flops": "operations", "cycles": "cycles", **BYTES}
    for key, name in figures.items():
        if key in small and key in large:
            named[name] = (small[key], large[key])
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


def main(files: list[str]) -> int:
    if not files:
        print(__doc__, file=sys.stderr)
        return 2
    from tools.pod_sums import sum_table  # which needs this module

    rows = []
    for file in files:
        found = json.loads(Path(file).read_text())
        for program, parts in found.get("sums", {}).items():
            print(sum_table(program, parts), end="\n\n")
        rows.extend(found.get("results", [] if "sums" in found else [found]))
    if rows:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
