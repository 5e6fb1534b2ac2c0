"""The page: one HTML file with everything in it; no server, no network."""

import html
import json
from importlib.resources import files
from typing import Any

from jaxcodec.report.evaluation import Evaluation
from jaxcodec.report.plot import Style, svg_plot
from jaxcodec.report.summary import Point
from jaxcodec.report.table import Table
from jaxcodec.report.tables import about_intervals

__all__ = ["page"]

SECTIONS = {
    "plots": "Rate and quality",
    "listen": "Listen",
    "test": "Blind tests",
    "scores": "Scores",
    "comparison": "Comparison",
    "ablations": "Ablations",
    "groups": "Groups",
    "worst": "Worst clips",
    "failures": "Failures",
    "cost": "Speed and delay",
    "codebooks": "Codebooks",
    "rows": "All rows",
    "about": "Method",
}


def page(
    evaluation: Evaluation,
    points: list[Point],
    tables: dict[str, list[Table]],
    styles: dict[str, Style],
    examples: list[dict[str, Any]],
    command: str,
) -> str:
    """The HTML text of a report."""
    assets = files("jaxcodec.report") / "assets"
    bodies = {name: _tables(found) for name, found in tables.items()}
    bodies["plots"] = _plots(evaluation, points, styles)
    bodies["rows"] = (assets / "rows.html").read_text()
    bodies["about"] = _about(evaluation, command)
    if examples:
        bodies["listen"] = (assets / "listen.html").read_text()
        bodies["test"] = (assets / "test.html").read_text()
    shown = {name: title for name, title in SECTIONS.items() if name in bodies}
    sections = "".join(
        f'<section id="{name}"><h2>{title}</h2>{bodies[name]}</section>'
        for name, title in shown.items()
    )
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in shown.items())
    data = {
        "examples": examples,
        "colours": {name: style.colour for name, style in styles.items()},
        "primary": evaluation.primary.label,
        "rows": _rows(evaluation),
    }
    scripts = "".join(
        f"<script>{(assets / name).read_text()}</script>"
        for name in ("audio.js", "listen.js", "test.js", "tables.js")
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>Codec evaluation</title><style>{(assets / 'page.css').read_text()}"
        f"</style></head><body><header>{_headline(evaluation, points)}</header>"
        f"<nav>{links}</nav><main>{sections}</main>"
        f'<script type="application/json" id="data">{_embed(data)}</script>{scripts}'
        "</body></html>\n"
    )


def _embed(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _headline(evaluation: Evaluation, points: list[Point]) -> str:
    about, metric = evaluation.about, evaluation.primary
    seconds = sum(clip["seconds"] for clip in about["clips"])
    failed = sum(bool(row["failures"]) for row in evaluation.rows)
    facts = [
        (str(len(about["clips"])), "clips"),
        (f"{seconds / 60:.1f}", "minutes"),
        (str(len(about["systems"])), "codecs"),
        (str(len(evaluation.rows)), "rows"),
        (str(failed), "rows with a failure"),
    ]
    best = max(
        (p for p in points if p.system == evaluation.reference),
        key=lambda point: point.kbps,
    )
    if interval := best.scores.get(metric.name):
        score = f"{interval.mean:.{metric.digits}f}"
        what = f"{metric.label}, {best.system} at {best.kbps:.2f} kbit/s"
        facts.insert(0, (score, what))
    cards = "".join(
        f"<div class=fact><b>{html.escape(number)}</b><span>{html.escape(what)}</span>"
        "</div>"
        for number, what in facts
    )
    named = ", ".join(about["systems"])
    return (
        f"<h1>Codec evaluation</h1><p>{html.escape(named)} on "
        f"<code>{html.escape(about['data'])}</code></p><div class=facts>{cards}</div>"
    )


def _plots(
    evaluation: Evaluation, points: list[Point], styles: dict[str, Style]
) -> str:
    legend = "".join(
        f'<span class=key><i style="background:{style.colour}"></i>'
        f"{html.escape(name)}</span>"
        for name, style in styles.items()
    )
    grids = "".join(
        f'<div class="plots {kind}">'
        + "".join(
            f"<figure>{svg_plot(points, metric, kind == 'payload', styles)}</figure>"
            for metric in evaluation.metrics
        )
        + "</div>"
        for kind in ("files", "payload")
    )
    return (
        "<p class=note>A point is one setting of a codec: the mean over clips, with "
        f"its 95 % bootstrap interval. {about_intervals(evaluation)} Point at one to "
        "read it.</p>"
        "<input type=checkbox id=payload hidden><div class=legend>"
        f"{legend}<label for=payload class=switch><span class=off>bits of whole files"
        "</span><span class=on>bits without headers and framing</span></label></div>"
        f"{grids}"
    )


def _tables(tables: list[Table]) -> str:
    parts = []
    for index, table in enumerate(tables):
        head = f"<h3>{html.escape(table.title)}</h3>"
        body = f"<p class=note>{html.escape(table.note)}</p>"
        body += table.html() if table.rows else ""
        if len(tables) > 2 and index:
            title = html.escape(table.title)
            parts.append(f"<details><summary>{title}</summary>{body}</details>")
        else:
            parts.append((head if len(tables) > 1 else "") + body)
    return "".join(parts)


def _rows(evaluation: Evaluation) -> dict[str, Any]:
    """All rows as columns for the table that can be searched."""
    names = [metric.name for metric in evaluation.metrics]
    header = ["codec", "setting", "clip", "kbit/s", "delay ms"]
    header += [metric.label for metric in evaluation.metrics]
    lines = []
    for row in evaluation.rows:
        rate = (
            round(8e-3 * row["bytes"] / row["seconds"], 3) if row.get("bytes") else None
        )
        delay = round(row["delay"] / 16, 2) if "delay" in row else None
        line = [row["system"], row["setting"], row["clip"], rate, delay]
        line += [
            round(row["scores"][name], 4) if name in row["scores"] else None
            for name in names
        ]
        failed = "; ".join(f"{name}: {why}" for name, why in row["failures"].items())
        lines.append([*line, failed])
    return {"header": [*header, "failures"], "lines": lines}


def _about(evaluation: Evaluation, command: str) -> str:
    about = evaluation.about
    parts = []
    if command:
        parts.append(f"<pre>{html.escape(command)}</pre>")
    systems = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{found['kind']}</td><td>"
        + html.escape("; ".join(f"{k}: {v}" for k, v in found["about"].items()))
        + "</td></tr>"
        for name, found in about["systems"].items()
    )
    parts.append(
        "<div class=scroll><table><thead><tr><th>codec</th><th>kind</th>"
        f"<th>made of</th></tr></thead><tbody>{systems}</tbody></table></div>"
    )
    missing = "".join(f"<li>{html.escape(text)}</li>" for text in _missing(about))
    if missing:
        parts.append(f"<h3>Left out</h3><ul>{missing}</ul>")
    packages = ", ".join(f"{k} {v}" for k, v in about["packages"].items())
    parts.append(
        "<p class=note>Clips are mono at 16 kHz: channels are averaged, other rates "
        "resampled, before coding. Each decoded clip is shifted by its delay, found by "
        "cross-correlation (of envelopes, where a codec does not keep the waveform), "
        "before it is scored. ViSQOL is its speech mode with the exponential fit. "
        f"Measured with {html.escape(packages)}.</p>"
    )
    return "".join(parts)


def _missing(about: dict[str, Any]) -> list[str]:
    missing = [f"{name}: {why}" for name, why in about["missing"].items()]
    return missing + [f"{name}: {why}" for name, why in about["left_out"].items()]
