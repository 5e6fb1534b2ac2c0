"""What the rows say together: means with intervals, differences, failures, extremes."""

import dataclasses
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from jaxcodec.baselines.system import RATE
from jaxcodec.metrics.catalogue import Metric
from jaxcodec.metrics.statistics import (
    Interval,
    Paired,
    bd_rate,
    mean_interval,
    paired_difference,
)
from jaxcodec.report.evaluation import Evaluation

__all__ = [
    "Failure",
    "Point",
    "bd_rates",
    "breakdown",
    "compared",
    "failures",
    "paired",
    "summarise",
    "worst",
]

NEAR = 1.35  # ratio of bitrates up to which two settings are compared pairwise


@dataclasses.dataclass(frozen=True)
class Point:
    """One codec at one setting, over all clips."""

    system: str
    setting: str
    num_clips: int  # with a row
    num_decoded: int
    kbps: float  # of whole files: all bits over all seconds
    payload_kbps: float | None  # without headers and framing
    delay_ms: float  # median over clips, taken out before scoring
    delay_spread_ms: float  # between the extremes
    length_errors: int  # clips that came back with another length
    encode_speed: float  # times real time
    decode_speed: float
    scores: dict[str, Interval]
    failed: dict[str, int]  # clips by metric
    utilisation: float | None


class Failure(NamedTuple):
    """What has no value for one reason."""

    metrics: tuple[str, ...]  # or `codec`, if nothing was decoded
    reason: str
    systems: tuple[str, ...]
    clips: tuple[str, ...]
    num_rows: int


def summarise(evaluation: Evaluation) -> list[Point]:
    """Every operating point that has rows, in the order of the codecs' settings."""
    points = []
    for system, about in evaluation.about["systems"].items():
        usage = evaluation.about["codebooks"].get(system)
        for number, setting in enumerate(about["settings"]):
            rows = evaluation.at(system, setting["label"])
            if rows:
                used = usage["utilisation"][number] if usage else None
                points.append(
                    _point(system, setting["label"], rows, used, evaluation.speakers)
                )
    return points


def _point(
    system: str,
    setting: str,
    rows: list[dict[str, Any]],
    used: float | None,
    speakers: dict[str, str],
) -> Point:
    decoded = [row for row in rows if "bytes" in row]
    seconds = sum(row["seconds"] for row in decoded)
    payloads = [row["payload_bytes"] for row in decoded]
    known = bool(payloads) and None not in payloads
    delays = [1000 * row["delay"] / RATE for row in decoded] or [math.nan]
    names = {name for row in rows for name in row["scores"]}
    scores = {name: _interval(rows, name, speakers) for name in names}
    return Point(
        system=system,
        setting=setting,
        num_clips=len(rows),
        num_decoded=len(decoded),
        kbps=_ratio(8e-3 * sum(row["bytes"] for row in decoded), seconds),
        payload_kbps=_ratio(8e-3 * sum(payloads), seconds) if known else None,
        delay_ms=float(np.median(delays)),
        delay_spread_ms=max(delays) - min(delays),
        length_errors=sum(row["length_error"] != 0 for row in decoded),
        encode_speed=_ratio(seconds, sum(row["encode_seconds"] for row in decoded)),
        decode_speed=_ratio(seconds, sum(row["decode_seconds"] for row in decoded)),
        scores=scores,
        failed=dict(Counter(name for row in rows for name in row["failures"])),
        utilisation=used,
    )


def _interval(
    rows: list[dict[str, Any]], name: str, speakers: dict[str, str]
) -> Interval:
    """Of a metric, over rows of one operating point that some have a value in."""
    scored = [row for row in rows if name in row["scores"]]
    return mean_interval(
        [row["scores"][name] for row in scored],
        [speakers[row["digest"]] for row in scored],
    )


def _ratio(number: float, of: float) -> float:
    return number / of if of else math.nan


def compared(evaluation: Evaluation, points: list[Point]) -> list[Point]:
    """The reference at its highest bitrate, and what others have nearest to that."""
    ours = [point for point in points if point.system == evaluation.reference]
    top = max(ours, key=lambda point: _log(point.kbps))
    chosen = [top]
    for system in dict.fromkeys(point.system for point in points):
        if system != top.system:
            others = [point for point in points if point.system == system]
            chosen.append(min(others, key=lambda point: _distance(point, top)))
    return chosen


def paired(
    evaluation: Evaluation, points: list[Point], metric: Metric
) -> list[tuple[Point, Point, Paired]]:
    """Differences of the reference from other codecs at about the same bitrate."""
    found = []
    ours = [point for point in points if point.system == evaluation.reference]
    for system in dict.fromkeys(point.system for point in points):
        others = [point for point in points if point.system == system]
        for mine in ours if system != evaluation.reference else ():
            other = min(others, key=lambda point: _distance(point, mine))
            if _distance(other, mine) > math.log(NEAR):
                continue
            first, second = (_by_clip(evaluation, p, metric) for p in (mine, other))
            difference = paired_difference(first, second, evaluation.speakers)
            if difference:
                found.append((mine, other, difference))
    return found


def bd_rates(
    evaluation: Evaluation, points: list[Point], is_payload: bool
) -> dict[str, dict[str, float | None]]:
    """Percent more bits than the reference's, by codec and metric."""
    reference = evaluation.reference
    found: dict[str, dict[str, float | None]] = {}
    for system in dict.fromkeys(point.system for point in points):
        if system == reference:
            continue
        found[system] = {}
        for metric in evaluation.metrics:
            ours = _curve(points, reference, metric, is_payload)
            theirs = _curve(points, system, metric, is_payload)
            found[system][metric.name] = bd_rate(*ours, *theirs)
    return found


def breakdown(
    evaluation: Evaluation, points: list[Point], label: str, metric: Metric
) -> dict[str, list[Interval | None]]:
    """Means at some points for every language, speaker or whatever a label tells."""
    values = {row["labels"][label] for row in evaluation.rows if label in row["labels"]}
    found: dict[str, list[Interval | None]] = {}
    for value in sorted(values):
        found[value] = []
        for point in points:
            rows = [
                row
                for row in evaluation.at(point.system, point.setting)
                if row["labels"].get(label) == value and metric.name in row["scores"]
            ]
            found[value].append(
                _interval(rows, metric.name, evaluation.speakers) if rows else None
            )
    return found


def worst(
    evaluation: Evaluation, point: Point, metric: Metric, number: int = 10
) -> list[dict[str, Any]]:
    """Rows with the poorest scores, the poorest first."""
    rows = [
        row
        for row in evaluation.at(point.system, point.setting)
        if metric.name in row["scores"]
    ]
    sign = 1 if metric.higher_is_better else -1
    return sorted(rows, key=lambda row: sign * row["scores"][metric.name])[:number]


def failures(evaluation: Evaluation) -> list[Failure]:
    """What failed for the same reason, together."""
    found: dict[tuple[tuple[str, ...], str], list[dict[str, Any]]] = {}
    for row in evaluation.rows:
        by_reason: dict[str, list[str]] = {}
        for name, reason in row["failures"].items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            found.setdefault((tuple(names), reason), []).append(row)
    return [
        Failure(
            metrics=names,
            reason=reason,
            systems=tuple(dict.fromkeys(row["system"] for row in rows)),
            clips=tuple(dict.fromkeys(row["clip"] for row in rows)),
            num_rows=len(rows),
        )
        for (names, reason), rows in sorted(found.items(), key=lambda pair: pair[0])
    ]


def _by_clip(evaluation: Evaluation, point: Point, metric: Metric) -> dict[str, float]:
    return {
        row["digest"]: row["scores"][metric.name]
        for row in evaluation.at(point.system, point.setting)
        if metric.name in row["scores"]
    }


def _curve(
    points: list[Point], system: str, metric: Metric, is_payload: bool
) -> tuple[list[float], list[float]]:
    sign = 1 if metric.higher_is_better else -1
    rates, qualities = [], []
    for point in points:
        rate = point.payload_kbps if is_payload else point.kbps
        if point.system == system and metric.name in point.scores and rate:
            rates.append(rate)
            qualities.append(sign * point.scores[metric.name].mean)
    return rates, qualities


def _log(kbps: float) -> float:
    return math.log(kbps) if kbps > 0 else -math.inf


def _distance(point: Point, other: Point) -> float:
    """Of two bitrates, as the logarithm of their ratio."""
    if not (point.kbps > 0 and other.kbps > 0):
        return math.inf
    return abs(math.log(point.kbps / other.kbps))
