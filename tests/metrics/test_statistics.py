import math

import numpy as np
import pytest

from jaxcodec.metrics.statistics import bd_rate, mean_interval, paired_difference


def test_interval_of_one_value_and_of_equal_values():
    assert mean_interval([3.0]) == (3, 3, 3, 1, 1)
    assert mean_interval([2.5] * 7) == (2.5, 2.5, 2.5, 7, 7)


def test_interval_holds_the_true_mean_as_often_as_it_says():
    numbers = np.random.default_rng(0)
    held = []
    for _ in range(300):
        found = mean_interval(numbers.normal(5, 2, 40).tolist(), resamples=400)
        held.append(found.low <= 5 <= found.high)
        assert found.low < found.mean < found.high
    assert 0.90 <= np.mean(held) <= 0.98


def test_interval_shrinks_with_the_root_of_the_clips():
    values = np.random.default_rng(0).normal(size=1600)
    wide, narrow = mean_interval(values[:100].tolist()), mean_interval(values.tolist())
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert ratio == pytest.approx(4, rel=0.25)


def test_clips_of_one_speaker_are_drawn_together():
    """Copies of a clip tell nothing new, and a speaker with many clips weighs more."""
    values, speakers = [1.0, 4.0, 2.0, 8.0], ["a", "b", "c", "d"]
    alone = mean_interval(values)
    copied = mean_interval(values * 5, speakers * 5)
    assert copied == alone._replace(num_clips=20)
    assert mean_interval(values, speakers) == alone
    assert mean_interval(values, ["a"] * 4) == alone  # there is but one: by clips
    # two speakers are drawn in four ways; so many draws see the extremes
    found = mean_interval([0, 0, 0, 4], ["a", "a", "b", "b"])
    assert found == (1, 0, 2, 4, 2)
    found = mean_interval([0, 0, 0, 4], ["a", "a", "a", "b"])
    assert found == (1, 0, 4, 4, 2)
    # the middle of these: one of each, of whose four clips the mean is 1
    found = mean_interval([0, 0, 0, 4], ["a", "a", "a", "b"], confidence=0.3)
    assert found == (1, 1, 1, 4, 2)


def test_speakers_explain_what_clips_do_not():
    """Of ten clips per speaker, intervals over clips hold the truth too seldom."""
    numbers = np.random.default_rng(0)
    speakers = np.repeat(np.arange(25), 10).tolist()
    held = []
    for _ in range(150):
        values = numbers.normal(0, 1, 25).repeat(10) + numbers.normal(0, 0.5, 250)
        found = [
            mean_interval(values.tolist(), groups, resamples=300)
            for groups in (speakers, None)
        ]
        held.append([interval.low <= 0 <= interval.high for interval in found])
    by_speaker, by_clip = np.mean(held, axis=0)
    assert 0.88 <= by_speaker <= 0.99
    assert by_clip < 0.65


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_interval_refuses(values):
    with pytest.raises(ValueError, match="expected at least one, all finite"):
        mean_interval(values)


def test_paired_uses_the_clips_that_both_have():
    first = {"a": 3.0, "b": 2.0, "c": 9.0}
    second = {"a": 2.0, "b": 2.0, "d": 0.0}
    found = paired_difference(first, second)
    assert found.difference.mean == 0.5
    assert found.difference.num_clips == 2
    assert found.wins == 0.75
    assert paired_difference(first, {"d": 1.0}) is None
    speakers = {"a": "x", "b": "y", "c": "x", "d": "x"}
    more = {"a": 2.0, "b": 2.0, "c": 7.0}
    # x is 1 and 2 better, y equal
    assert paired_difference(first, more, speakers).difference == (1, 0, 1.5, 3, 2)


def test_pairing_takes_the_difficulty_of_clips_out():
    numbers = np.random.default_rng(0)
    difficulty = numbers.normal(0, 1, 50)
    first = {str(i): d + 0.1 for i, d in enumerate(difficulty)}
    second = {str(i): d + 0.02 * numbers.normal() for i, d in enumerate(difficulty)}
    found = paired_difference(first, second).difference
    assert 0 < found.low < 0.1 < found.high + 0.01
    assert found.high - found.low < 0.02


def test_bd_rate_of_exact_cases():
    rates, quality = [1000, 2000, 4000, 8000], [1.0, 2.0, 3.0, 4.0]
    double = [2 * rate for rate in rates]
    assert bd_rate(rates, quality, rates, quality) == pytest.approx(0)
    assert bd_rate(rates, quality, double, quality) == pytest.approx(100)
    assert bd_rate(double, quality, rates, quality) == pytest.approx(-50)
    # the order of points does not matter, nor does what lies outside the common range
    assert bd_rate(rates[::-1], quality[::-1], double, quality) == pytest.approx(100)
    assert bd_rate(rates, quality, [4000, 8000], [2, 3]) == pytest.approx(100)
    # one octave apart at the bottom, none at the top: half an octave on average
    got = bd_rate([1000, 4000], [0, 1], [2000, 4000], [0, 1])
    assert got == pytest.approx(100 * (math.sqrt(2) - 1))


def test_bd_rate_leaves_points_out_that_are_not_better():
    rates, quality = [1000, 2000, 4000], [1.0, 2.0, 3.0]
    worse = bd_rate(rates, quality, [1000, 2000, 3000, 4000], [1.0, 2.0, 1.9, 3.0])
    assert worse == pytest.approx(0)


@pytest.mark.parametrize(
    ("other_rates", "other_quality"),
    [([1000], [1.0]), ([1000, 2000], [5.0, 6.0]), ([1000, 2000], [2.0, 1.0])],
)
def test_bd_rate_without_meaning(other_rates, other_quality):
    assert bd_rate([1000, 2000], [1.0, 2.0], other_rates, other_quality) is None
