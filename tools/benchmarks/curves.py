"""Cost over the length of clips, one curve per batch, as a picture."""

import html
import math
from collections.abc import Sequence
from typing import Any

from jaxcodec.report.plot import COLOURS

__all__ = ["svg"]

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 100, 34, 44  # margins
STYLE = (
    "text{fill:#3a3f47}.t{fill:#14171c;font-weight:600}.g{stroke:#e3e6ea}"
    ".a{stroke:#8b929c}"
)


def svg(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Computing time of a second of audio: flat lines are costs that grow evenly.

    Args:
        rows: of one system at several batches and lengths.
        title: above the picture.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no sizes were measured: there is nothing to draw.")
    lengths = sorted({row["seconds"] for row in rows})
    top = 1.15 * max(1000 * row["call_seconds"]["high"] / _audio(row) for row in rows)
    span = math.log(lengths[-1] / lengths[0]) or 1.0

    def x_of(length: float) -> float:
        share = math.log(length / lengths[0]) / span
        return LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)

    parts = _axes(x_of, y_of, lengths, top, title)
    batches = sorted({row["batch"] for row in rows})
    for i, batch in enumerate(batches):
        own = sorted(
            (row for row in rows if row["batch"] == batch), key=lambda r: r["seconds"]
        )
        colour = COLOURS[i % len(COLOURS)]
        parts.append(_curve(own, colour, x_of, y_of))
        y = TOP + 12 + 18 * i
        parts.append(
            f'<circle r="3.6" cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 26}" y="{y}">batch {batch}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="11"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _audio(row: dict[str, Any]) -> float:
    return row["batch"] * row["seconds"]


def _axes(x_of, y_of, lengths: list[float], top: float, title: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<text class="t" x="{LEFT}" y="18" font-size="13">{html.escape(title)}</text>'
    ]
    step = 10 ** math.floor(math.log10(top))
    step = next(k * step for k in (0.2, 0.5, 1, 2) if top / (k * step) <= 6)
    for i in range(int(top / step) + 1):
        y = y_of(i * step)
        parts.append(
            f'<line class="g" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{i * step:g}'
            "</text>"
        )
    for length in lengths:
        parts.append(
            f'<text x="{x_of(length):.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{length:g}</text>"
        )
    parts.append(
        f'<line class="a" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{right}" y="{HEIGHT - 10}" text-anchor="end">seconds per clip</text>'
        f'<text x="14" y="{TOP + 4}" transform="rotate(-90 14 {TOP + 4})" '
        'text-anchor="end">ms per second of audio</text>'
    )
    return parts


def _curve(own: list[dict[str, Any]], colour: str, x_of, y_of) -> str:
    parts, path = [], []
    for row in own:
        x, call = x_of(row["seconds"]), row["call_seconds"]
        low, middle, high = (
            y_of(1000 * call[name] / _audio(row)) for name in ("low", "median", "high")
        )
        path.append(f"{x:.1f},{middle:.1f}")
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
            f'stroke="{colour}" stroke-width="1.2" opacity=".55"/>'
            f'<circle r="3.6" cx="{x:.1f}" cy="{middle:.1f}" fill="{colour}"/>'
        )
    line = (
        f'<polyline points="{" ".join(path)}" fill="none" stroke="{colour}" '
        'stroke-width="2" stroke-linejoin="round"/>'
    )
    return line + "".join(parts)
