"""Rate-distortion plots as SVG text, for a page or by themselves."""

import dataclasses
import html
import math
from collections.abc import Sequence

from jaxcodec.metrics.catalogue import Metric
from jaxcodec.report.summary import Point

__all__ = ["COLOURS", "figure", "style_of", "svg_plot"]

# distinguishable by colour-blind readers, on white and on dark
COLOURS = (
    "#2f7ed8",
    "#e0662b",
    "#1f9e77",
    "#c2559c",
    "#b58900",
    "#5aa9c7",
    "#8a63c9",
    "#9c6b4f",
)
MARKS = ("circle", "square", "diamond", "triangle")
TICKS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)  # kbit/s
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 40  # margins
LIGHT = (
    "text{fill:#3a3f47}.t{fill:#14171c;font-weight:600}.g{stroke:#e3e6ea}"
    ".a{stroke:#8b929c}"
)


@dataclasses.dataclass(frozen=True)
class Style:
    """How a codec is drawn everywhere."""

    colour: str
    mark: str


def style_of(systems: Sequence[str]) -> dict[str, Style]:
    """A colour and a mark for each codec, in their order."""
    return {
        name: Style(COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)])
        for i, name in enumerate(systems)
    }


def svg_plot(
    points: Sequence[Point],
    metric: Metric,
    is_payload: bool,
    styles: dict[str, Style],
    size: tuple[int, int] = (360, 270),
) -> str:
    """One measure over the bitrate, as an `svg` element without colours of its own."""
    width, height = size
    inside = _plot(points, metric, is_payload, styles, size)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(metric.label)} over bitrate">{inside}</svg>'
    )


def figure(
    points: Sequence[Point],
    metrics: Sequence[Metric],
    styles: dict[str, Style],
    is_payload: bool = False,
) -> str:
    """Plots side by side with a legend: a file that can be shown anywhere."""
    width, height = 380, 300
    top = 34
    parts = []
    for column, metric in enumerate(metrics):
        inside = _plot(points, metric, is_payload, styles, (width, height))
        parts.append(f'<g transform="translate({column * width} {top})">{inside}</g>')
    x = LEFT
    for name, style in styles.items():
        parts.append(
            f'<g transform="translate({x} 20)">'
            f'<line x1="0" x2="22" y1="0" y2="0" stroke="{style.colour}" '
            f'stroke-width="2"/>{_mark(style, 11, 0)}'
            f'<text class="t" x="28" y="4">{html.escape(name)}</text></g>'
        )
        x += 52 + 8 * len(name)
    total = max(width * len(metrics), x)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height + top}" '
        f'width="{total}" height="{height + top}" font-family="system-ui, sans-serif" '
        f'font-size="11"><style>{LIGHT}</style>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _plot(
    points: Sequence[Point],
    metric: Metric,
    is_payload: bool,
    styles: dict[str, Style],
    size: tuple[int, int],
) -> str:
    width, height = size
    curves = {name: _curve(points, name, metric, is_payload) for name in styles}
    drawn = [point for curve in curves.values() for point in curve]
    title = html.escape(metric.label)
    if not metric.higher_is_better:
        title += " (lower is better)"
    parts = [f'<text class="t" x="{LEFT}" y="18" font-size="13">{title}</text>']
    if not drawn:
        return parts[0] + f'<text x="{LEFT}" y="{height / 2}">no value</text>'
    x_of = _log_scale([x for x, *_ in drawn], LEFT, width - RIGHT)
    low, high, step = _nice(
        min(low for _, _, low, _, _ in drawn), max(high for _, _, _, high, _ in drawn)
    )
    span = height - BOTTOM - TOP

    def y_of(value: float) -> float:
        return height - BOTTOM - (value - low) / (high - low) * span

    parts += _axes(x_of, y_of, (low, high, step), drawn, size)
    for name, curve in curves.items():
        parts.append(_draw(curve, name, styles[name], x_of, y_of, metric))
    return "".join(parts)


def _curve(
    points: Sequence[Point], system: str, metric: Metric, is_payload: bool
) -> list[tuple[float, float, float, float, str]]:
    """Bitrate, mean, interval and setting, in the order of bitrates."""
    found = []
    for point in points:
        rate = point.payload_kbps if is_payload else point.kbps
        interval = point.scores.get(metric.name)
        if point.system == system and interval and rate and rate > 0:
            found.append(
                (rate, interval.mean, interval.low, interval.high, point.setting)
            )
    return sorted(found)


def _axes(x_of, y_of, scale, drawn, size) -> list[str]:
    width, height = size
    low, high, step = scale
    bottom = height - BOTTOM
    parts = []
    digits = max(0, -math.floor(math.log10(step)))
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        y = y_of(value)
        parts.append(
            f'<line class="g" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{value:.{digits}f}</text>"
        )
    rates = [x for x, *_ in drawn]
    for tick in TICKS:
        if min(rates) / 1.25 <= tick <= max(rates) * 1.25:
            x = x_of(tick)
            parts.append(
                f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
                f'y2="{bottom}"/><text x="{x:.1f}" y="{bottom + 15}" '
                f'text-anchor="middle">{tick:g}</text>'
            )
    parts.append(
        f'<line class="a" x1="{LEFT}" x2="{width - RIGHT}" y1="{bottom}" '
        f'y2="{bottom}"/><text x="{width - RIGHT}" y="{height - 8}" '
        'text-anchor="end">kbit/s</text>'
    )
    return parts


def _draw(curve, name: str, style: Style, x_of, y_of, metric: Metric) -> str:
    if not curve:
        return ""
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y, *_ in curve)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{style.colour}" '
        'stroke-width="2" stroke-linejoin="round"/>'
    ]
    for x, y, low, high, setting in curve:
        place = f'x1="{x_of(x):.1f}" x2="{x_of(x):.1f}"'
        value = f"{y:.{metric.digits}f}"
        interval = f"{low:.{metric.digits}f} to {high:.{metric.digits}f}"
        parts.append(
            f"<g><title>{html.escape(name)} {html.escape(setting)}: {x:.2f} kbit/s, "
            f"{html.escape(metric.label)} {value} ({interval})</title>"
            f'<line {place} y1="{y_of(low):.1f}" y2="{y_of(high):.1f}" '
            f'stroke="{style.colour}" stroke-width="1.2" opacity=".55"/>'
            f"{_mark(style, x_of(x), y_of(y))}</g>"
        )
    return "".join(parts)


def _mark(style: Style, x: float, y: float) -> str:
    place = f'transform="translate({x:.1f} {y:.1f})" fill="{style.colour}"'
    shapes = {
        "circle": f'<circle r="3.6" {place}/>',
        "square": f'<rect x="-3.2" y="-3.2" width="6.4" height="6.4" {place}/>',
        "diamond": f'<path d="M0-4.4 4.4 0 0 4.4-4.4 0Z" {place}/>',
        "triangle": f'<path d="M0-4.4 4.2 3.4-4.2 3.4Z" {place}/>',
    }
    return shapes[style.mark]


def _log_scale(values: Sequence[float], left: float, right: float):
    low, high = math.log(min(values) / 1.2), math.log(max(values) * 1.2)

    def place(value: float) -> float:
        return left + (math.log(value) - low) / (high - low) * (right - left)

    return place


def _nice(low: float, high: float) -> tuple[float, float, float]:
    """Ends of an axis and a step, in round numbers, about five steps long."""
    spread = max(high - low, 1e-3)
    base = 10 ** math.floor(math.log10(spread / 5))
    step = next(k * base for k in (1, 2, 2.5, 5, 10) if k * base >= spread / 5)
    bottom, top = math.floor(low / step) * step, math.ceil(high / step) * step
    return bottom, max(top, bottom + step), step
