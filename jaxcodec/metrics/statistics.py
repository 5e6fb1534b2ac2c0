"""What scores of many clips say: intervals, paired differences, whole curves."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Interval", "Paired", "bd_rate", "mean_interval", "paired_difference"]

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the interval in which it may as well lie."""

    mean: float
    low: float
    high: float
    num_clips: int
    num_drawn: int  # speakers, or whatever was drawn together; else clips


class Paired(NamedTuple):
    """Difference of two codecs on the clips that both have scores for."""

    difference: Interval
    wins: float  # share of clips on which the first is higher; ties count half


def mean_interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean over clips and its percentile bootstrap interval.

    Clips of one speaker are alike, so that they say less than as many clips of several:
    with `groups`, whole groups are drawn, and the mean is that of all clips in them.
    Where all values are of one group, clips are drawn after all.

    The same values give the same interval: the seed is fixed. One value has an interval
    of no width, which says nothing; look at the count. With less than about twenty
    groups intervals are somewhat too narrow.

    Args:
        values: of clips.
        groups: which values belong together, such as each clip's speaker; None: none.
        confidence: share of such intervals that hold the true mean.
        resamples: how often is drawn.

    Raises:
        ValueError: there are no values, or some are not finite.

    Source: Efron & Tibshirani 1993, chapter 13; Davison & Hinkley 1997, section 3.8,
        for groups.
    """
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"{array.size} values, {int((~np.isfinite(array)).sum())} of them not "
            "finite: expected at least one, all finite."
        )
    order = list(range(array.size) if groups is None else dict.fromkeys(groups))
    if len(order) == 1:
        order, groups = list(range(array.size)), None
    place = {group: index for index, group in enumerate(order)}
    index = [place[group] for group in groups or order]
    totals, counts = np.bincount(index, array), np.bincount(index)
    numbers = np.random.default_rng(0)
    means = []
    for _ in range(resamples):
        drawn = numbers.integers(0, len(order), len(order))
        means.append(totals[drawn].sum() / counts[drawn].sum())
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(
        float(array.mean()), float(low), float(high), array.size, len(order)
    )


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    groups: Mapping[str, Hashable] | None = None,
) -> Paired | None:
    """How much higher the first codec scores, clip by clip.

    Args:
        first, second: score of each clip, by the clip's name.
        groups: of clips, by name; see `mean_interval`.

    Returns:
        None if no clip has both.
    """
    names = sorted(first.keys() & second.keys())
    if not names:
        return None
    differences = np.array([first[name] - second[name] for name in names])
    wins = np.mean((differences > 0) + 0.5 * (differences == 0))
    alike = None if groups is None else [groups[name] for name in names]
    return Paired(mean_interval(differences.tolist(), alike), float(wins))


def bd_rate(
    rates: Sequence[float],
    qualities: Sequence[float],
    other_rates: Sequence[float],
    other_qualities: Sequence[float],
) -> float | None:
    """Percent more bits that the other codec needs for the same quality, on average.

    Log rates are interpolated over quality by monotone cubics and averaged over the
    qualities that both curves reach. Negative: the other codec needs fewer bits.

    Args:
        rates, other_rates: bits per second, above 0.
        qualities, other_qualities: higher is better.

    Returns:
        None where the measure has no meaning: less than two points on a curve, or no
        quality in common. Points that cost more than another and are no better are left
        out of their curve.

    Source: Bjontegaard 2001, ITU-T VCEG-M33, with monotone (Fritsch-Carlson) pieces.
    """
    from scipy.interpolate import PchipInterpolator

    curves = []
    for rate, quality in ((rates, qualities), (other_rates, other_qualities)):
        front: list[tuple[float, float]] = []
        for bits, score in sorted(zip(rate, quality, strict=True)):
            if not front or score > front[-1][0]:
                front.append((score, math.log(bits)))
        if len(front) < 2:
            return None
        curves.append(tuple(np.array(front).T))
    low = max(quality[0] for quality, _ in curves)
    high = min(quality[-1] for quality, _ in curves)
    if low >= high:
        return None
    areas = [PchipInterpolator(*curve).integrate(low, high) for curve in curves]
    return 100 * math.expm1((areas[1] - areas[0]) / (high - low))
