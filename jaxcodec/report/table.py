"""One table as text in cells, how it is printed, and how figures become cells."""

import dataclasses
import html
from collections.abc import Sequence

from jaxcodec.metrics.catalogue import Metric
from jaxcodec.metrics.statistics import Interval
from jaxcodec.report.summary import Point

__all__ = ["NONE", "Table", "interval_cell", "label_cell", "mean_cell", "number_cell"]

NONE = "-"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first columns are names, the others figures."""

    title: str
    note: str  # how to read it
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 2

    def markdown(self) -> str:
        """As a pipe table."""
        marks = [
            "---" if i < self.num_names else "--:" for i in range(len(self.header))
        ]
        lines = [self.header, marks, *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
            for line in lines
        )

    def html(self) -> str:
        """As a table element that can be sorted."""

        def cells(tag: str, line: Sequence[str]) -> str:
            return "".join(
                f"<{tag}{'' if i < self.num_names else ' class=n'}>"
                f"{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(line)
            )

        body = "".join(f"<tr>{cells('td', line)}</tr>" for line in self.rows)
        head = f"<thead><tr>{cells('th', self.header)}</tr></thead>"
        return (
            "<div class=scroll><table class=sortable>"
            f"{head}<tbody>{body}</tbody></table></div>"
        )


def mean_cell(point: Point, metric: Metric, with_interval: bool = True) -> str:
    """A mean, on how many clips it failed, and on how many it was taken if not all."""
    failed = point.failed.get(metric.name, 0) + point.failed.get("codec", 0)
    interval = point.scores.get(metric.name)
    scored = interval.num_clips if interval else 0
    note = f" [{failed} failed]" if failed else ""
    if scored and scored + failed < point.num_clips:  # measured on some clips only
        note += f" [on {scored}]"
    if not with_interval and interval:
        return f"{interval.mean:.{metric.digits}f}{note}"
    return interval_cell(interval, metric) + note


def interval_cell(interval: Interval | None, metric: Metric) -> str:
    """A mean and half the width of its interval, which one clip has not."""
    if interval is None:
        return NONE
    if interval.num_clips == 1:
        return f"{interval.mean:.{metric.digits}f}"
    half = (interval.high - interval.low) / 2
    return f"{interval.mean:.{metric.digits}f} ± {half:.{metric.digits}f}"


def number_cell(value: float | None, digits: int = 2) -> str:
    """A figure; a dash for none and for what is not a number."""
    return NONE if value is None or value != value else f"{value:.{digits}f}"


def label_cell(metric: Metric) -> str:
    """A metric's name and which way is better."""
    return metric.label + (" ↑" if metric.higher_is_better else " ↓")
