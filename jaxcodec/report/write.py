"""All files of a report, redrawn from the rows of an evaluation."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from jaxcodec.evaluate.store import write_beside
from jaxcodec.metrics.catalogue import METRICS
from jaxcodec.report import plot
from jaxcodec.report.evaluation import Evaluation, load
from jaxcodec.report.listening import examples
from jaxcodec.report.page import page
from jaxcodec.report.summary import Point, summarise
from jaxcodec.report.table import Table
from jaxcodec.report.tables import all_tables, readme_table

__all__ = ["FILES", "report"]

# name: what it is
FILES = {
    "report.html": "the page: plots, tables, listening",
    "report.md": "the same tables as Markdown",
    "readme.md": "the plot and a small table, and that of ablations, for a README",
    "rate_distortion.svg": "the plot",
    "rows.csv": "a line per codec, clip and setting",
    "summary.csv": "a line per codec and setting",
    "report.json": "both, and what they belong to",
}
IN_FIGURE = ("pesq_wb", "visqol", "stoi", "mel", "si_sdr")  # the first three


def report(
    folder: str | Path, out: str | Path | None = None, command: str | None = None
) -> list[Path]:
    """Draws the report of an evaluation; computes no score and runs no codec.

    Args:
        folder: that `evaluate` wrote.
        out: where the files of `FILES` go; to the same folder if None.
        command: that made the rows, to be shown; the one that was kept if None.

    Raises:
        FileNotFoundError: there was no evaluation in this folder.
        ValueError: its files are damaged, or have no row.
    """
    evaluation = load(folder)
    command = command or evaluation.about.get("command", "")
    out = Path(folder if out is None else out)
    points = summarise(evaluation)
    tables = all_tables(evaluation, points)
    styles = plot.style_of(list(evaluation.about["systems"]))
    names = {metric.name for metric in evaluation.metrics}
    drawn = [METRICS[name] for name in IN_FIGURE if name in names][:3]
    contents = {
        "report.html": page(
            evaluation, points, tables, styles, examples(evaluation, points), command
        ),
        "report.md": _markdown(evaluation, tables, command),
        "readme.md": _readme(
            [readme_table(evaluation, points), *tables.get("ablations", [])], command
        ),
        "rate_distortion.svg": plot.figure(
            points, drawn or evaluation.metrics[:1], styles
        ),
        "rows.csv": _rows_csv(evaluation),
        "summary.csv": _summary_csv(evaluation, points),
        "report.json": _json(evaluation, points),
    }
    for name, content in contents.items():
        write_beside(out / name, content)
    return [out / name for name in contents]


def _markdown(
    evaluation: Evaluation, tables: dict[str, list[Table]], command: str
) -> str:
    about = evaluation.about
    number = len(about["clips"])
    plural = "" if number == 1 else "s"
    parts = ["# Evaluation", f"{number} clip{plural} of `{about['data']}`."]
    if command:
        parts.append(f"```sh\n{command}\n```")
    parts.append("![rate and quality](rate_distortion.svg)")
    parts += [f"- not measured: {text}" for text in about["missing"].values()]
    parts += [f"- left out: {name}: {why}" for name, why in about["left_out"].items()]
    for table in (table for group in tables.values() for table in group):
        parts += [f"## {table.title}", table.note]
        if table.rows:
            parts.append(table.markdown())
    return "\n\n".join(parts) + "\n"


def _readme(tables: list[Table], command: str) -> str:
    parts = ["![rate and quality](rate_distortion.svg)"]
    parts += [table.markdown() for table in tables]
    if command:
        parts.append(f"```sh\n{command}\n```")
    return "\n\n".join(parts) + "\n"


def _flat_rows(evaluation: Evaluation) -> tuple[list[str], list[list[Any]]]:
    """Rows as a rectangle: names of columns, and values."""
    labels = sorted({label for row in evaluation.rows for label in row["labels"]})
    names = [metric.name for metric in evaluation.metrics]
    plain = [
        "system",
        "version",
        "setting",
        "bitrate",
        "clip",
        "digest",
        "seconds",
        "bytes",
        "payload_bytes",
        "delay",
        "length_error",
        "encode_seconds",
        "decode_seconds",
    ]
    values = [
        [row.get(name) for name in plain]
        + [row["labels"].get(label) for label in labels]
        + [row["scores"].get(name) for name in names]
        + ["; ".join(f"{k}: {v}" for k, v in row["failures"].items())]
        for row in evaluation.rows
    ]
    return [*plain, *labels, *names, "failures"], values


def _rows_csv(evaluation: Evaluation) -> str:
    header, values = _flat_rows(evaluation)
    return _csv([header, *values])


def _summary_csv(evaluation: Evaluation, points: list[Point]) -> str:
    fields = [
        field.name
        for field in dataclasses.fields(Point)
        if field.name not in ("scores", "failed")
    ]
    names = [metric.name for metric in evaluation.metrics]
    header = list(fields)
    for name in names:
        header += [name, f"{name}_low", f"{name}_high", f"{name}_count"]
        header.append(f"{name}_failed")
    lines = [header]
    for point in points:
        line = [getattr(point, field) for field in fields]
        for name in names:
            line += point.scores.get(name, ("", "", "", 0))[:4]
            line.append(point.failed.get(name, 0))
        lines.append(line)
    return _csv(lines)


def _csv(lines: list[list[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _json(evaluation: Evaluation, points: list[Point]) -> str:
    summary = []
    for point in points:
        plain = {k: _finite(v) for k, v in vars(point).items() if k != "scores"}
        scores = {name: i._asdict() for name, i in point.scores.items()}
        summary.append({**plain, "scores": scores})
    metrics = {
        name: {"label": metric.label, "higher_is_better": metric.higher_is_better}
        for name, metric in METRICS.items()
    }
    about = {k: v for k, v in evaluation.about.items() if k != "examples"}
    content = {
        "about": about,
        "metrics": metrics,
        "summary": summary,
        "rows": evaluation.rows,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0 else value
