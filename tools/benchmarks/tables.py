"""Results as Markdown, and the README's blocks that are made of them.

A block `<!-- bench:NAME -->` ... `<!-- /bench -->` holds the table of
`experiments/results/bench_NAME.json`; `bench:NAME/encode+decode` only that work of it.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.benchmarks.figures import growth

__all__ = ["blocks_of", "grid", "render", "rewrite"]

BLOCK = re.compile(r"<!-- bench:([\w+/-]+) -->\n(.*?)<!-- /bench -->", re.S)
SYSTEMS = {
    "torch": "PyTorch twin, eager",
    "torch-pages": "PyTorch twin, eager, huge pages",
    "torch-compile": "PyTorch twin, torch.compile",
    "encodec": "EnCodec 24 kHz (transformers)",
    "dac": "DAC 16 kHz (transformers)",
    "mimi": "Mimi 24 kHz (transformers)",
}
Row = dict[str, Any]


def _number(value: float) -> str:
    """Three digits, and more only where they stand before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _spread(value: dict[str, float]) -> str:
    parts = (_number(value[name]) for name in ("median", "low", "high"))
    return "{} ({} to {})".format(*parts)


def _system(row: Row) -> str:
    parts = [SYSTEMS.get(row["system"], row["system"]), row.get("layout")]
    parts.append("remat" if row.get("remat") else None)
    return ", ".join(part for part in parts if part)


def _size(row: Row) -> str:
    return f"{row['batch']} x {row['seconds']:g} s" if "batch" in row else ""


def _result(row: Row) -> str:
    """Whether the same came out, or why nothing did."""
    if "failed" in row:
        return f"failed: {row['failed']}".replace("|", "/")
    if "codes_that_differ" in row:
        return f"{row['codes_that_differ']:.3%} of codes differ"
    if "error_of_peak" in row:
        return f"within {row['error_of_peak']:.1e} of the peak"
    if "loss_error" in row:
        return f"loss within {row['loss_error']:.1e}"
    return ""


def _field(name: str, form: Callable[[Any], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "" if value is None else form(value)

    return cell


# heading, cell, and whether the README's tables have it
COLUMNS: tuple[tuple[str, Callable[[Row], str], bool], ...] = (
    ("work", lambda row: row.get("direction") or row["work"], True),
    ("model", _field("model", str), True),
    ("system", _system, True),
    ("clips", _size, True),
    ("precision", _field("precision", str), True),
    ("threads", _field("threads", str), True),
    ("audio-s/s", _field("audio_seconds_per_second", _number), True),
    ("per device", _field("per_device", _number), False),
    ("real-time factor", _field("real_time_factor", _number), False),
    ("seconds (quartiles)", _field("call_seconds", _spread), True),
    ("times as long as jaxcodec", _field("times_as_long", _spread), True),
    (
        "CPU-seconds",
        _field("call_cpu_seconds", lambda value: _number(value["median"])),
        False,
    ),
    ("times the CPU", _field("times_the_cpu", _spread), False),
    ("compile, s", _field("compile_seconds", _number), False),
    ("GFLOP per audio-s", _field("gflop_per_audio_second", _number), False),
    ("MB per audio-s", _field("mb_per_audio_second", _number), False),
    ("MFU", _field("mfu", lambda value: f"{value:.1%}"), True),
    ("of bandwidth", _field("bandwidth_share", lambda value: f"{value:.1%}"), False),
    ("of roofline", _field("roofline_share", lambda value: f"{value:.1%}"), False),
    ("host peak, MiB", _field("host_peak_mib", _number), True),
    ("device peak, MiB", _field("device_peak_mib", _number), True),
    ("XLA's temporaries, MiB", _field("temporary_mib", _number), False),
    ("same result", _result, False),
)


def table(rows: Sequence[Row], brief: bool = False) -> str:
    """Rows as Markdown, without columns that are empty or the same word throughout.

    Args:
        rows: of `figures.row` or of `fresh`.
        brief: only what the README shows.
    """
    kept = []
    for heading, cell, in_brief in COLUMNS:
        cells = [cell(row) for row in rows]
        if any(cells) and (in_brief or not brief):
            kept.append((heading, cells))
    lines = ["| " + " | ".join(heading for heading, _ in kept) + " |"]
    lines.append("| --- " * len(kept) + "|")
    for i in range(len(rows)):
        lines.append("| " + " | ".join(cells[i] for _, cells in kept) + " |")
    return "\n".join(lines)


def grid(rows: Sequence[Row]) -> str:
    """Audio-seconds per second over batch and length, and how the cost grows."""
    done = [row for row in rows if "failed" not in row]
    parts = []
    for key in dict.fromkeys(_curve(row) for row in done):
        own = [row for row in done if _curve(row) == key]
        lengths = sorted({row["seconds"] for row in own})
        heads = [f"{length:g} s" for length in lengths]
        lines = [f"{key}, audio-s/s:", ""]
        lines.append("| clips | " + " | ".join(heads) + " |")
        lines.append("| --- " * (len(lengths) + 1) + "|")
        for batch in sorted({row["batch"] for row in own}):
            at = {r["seconds"]: r for r in own if r["batch"] == batch}
            cells = [
                _number(at[length]["audio_seconds_per_second"]) if length in at else ""
                for length in lengths
            ]
            lines.append(f"| {batch} | " + " | ".join(cells) + " |")
        exponent = growth(own)
        if exponent is not None:
            lines += ["", f"Time grows as (seconds of audio) ** {exponent:.2f}."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _curve(row: Row) -> str:
    """Everything but the size."""
    parts = [row["work"], row["model"], _system(row), row["precision"]]
    if row.get("threads"):
        parts.append(f"{row['threads']} threads")
    return ", ".join(parts)


def about(document: dict[str, Any]) -> str:
    """A sentence on what the figures come from."""
    machine = document["machine"]
    versions = machine["versions"]
    named = [f"{n} {versions[n]}" for n in ("jax", "jaxlib", "torch") if n in versions]
    rows = document["rows"]
    kinds = sorted({row["device"] for row in rows if row.get("device")} - {"cpu"})
    parts = [*kinds, machine["processor"], f"{machine['cores']} cores", *named]
    turns = sorted({row["turns"] for row in rows if row.get("turns")})
    text = f"{', '.join(parts)}; {machine['measured']}."
    if turns:
        number = " or ".join(map(str, turns))
        text = f"Medians and quartiles of {number} turns in alternation; {text}"
    if document.get("note"):
        text += f" {document['note']}"
    peaks = [
        row["peak_tflops"]
        for row in rows
        if row.get("peak_from") == "matmul in this run" and row.get("peak_tflops")
    ]
    if peaks:
        rates = " to ".join(dict.fromkeys(f"{f(peaks):.2g}" for f in (min, max)))
        text += f" MFU is relative to a matmul in the same run ({rates} TFLOP/s)."
    return text


def render(
    document: dict[str, Any], works: Sequence[str] | None = None, brief: bool = False
) -> str:
    """A document as Markdown.

    Args:
        document: as `tools.bench` writes it.
        works: only these; all if None.
        brief: see `table`; what failed is told below it.

    Raises:
        ValueError: there is no such work in it.
    """
    there = list(dict.fromkeys(row["work"] for row in document["rows"]))
    chosen = there if works is None else list(works)
    if missing := set(chosen) - set(there):
        raise ValueError(
            f"the results have no {', '.join(sorted(missing))}: they have "
            f"{', '.join(there)}."
        )
    every = [row for row in document["rows"] if row["work"] in chosen]
    rows = [row for row in every if not (brief and "failed" in row)]
    timed = [row for row in rows if row["work"] not in ("startup", "memory")]
    parts = []
    for own in (timed, [row for row in rows if row not in timed]):
        if own:
            parts.append(table(own, brief))
    if document.get("grid"):
        parts.append(grid(timed))
    parts.append(about({**document, "rows": rows}))
    if missing := [row for row in every if row not in rows]:
        parts[-1] += f" Not measured: {'; '.join(map(_missing, missing))}."
    return "\n\n".join(parts)


def _missing(row: Row) -> str:
    parts = (row["work"], _size(row), _system(row), row.get("precision"))
    return f"{', '.join(part for part in parts if part)} ({row['failed']})"


def blocks_of(text: str) -> list[str]:
    """Names of the blocks in a text."""
    return [found[1] for found in BLOCK.finditer(text)]


def rewrite(text: str, read: Callable[[str], dict[str, Any]]) -> str:
    """A text with its blocks as the results have them.

    Args:
        text: Markdown.
        read: the document of a name.
    """

    def block(found: re.Match[str]) -> str:
        name, _, works = found[1].partition("/")
        made = render(read(name), works.split("+") if works else None, brief=True)
        return f"<!-- bench:{found[1]} -->\n{made}\n<!-- /bench -->"

    return BLOCK.sub(block, text)


def result_path(folder: Path, name: str) -> Path:
    """Where the results of a name are kept."""
    return folder / f"bench_{name}.json"
