import itertools
import random

import numpy as np
import pytest
from scipy import stats

from peprof.results.statistics import (
    Interval,
    median,
    modified_z_scores,
    outliers,
    pareto_front,
    quantile,
    quartiles,
    rate,
    wilson_interval,
)

SAMPLES = [
    random.Random(seed).choices(range(100), k=size) for seed, size in enumerate((1, 2, 3, 4, 5, 30, 101))
]


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_quantiles_are_numpys(sample):
    found = quartiles(sample)
    assert [found.q1, found.median, found.q3] == pytest.approx(np.quantile(sample, [0.25, 0.5, 0.75]))
    assert median(sample) == pytest.approx(np.median(sample))
    for share in (0, 0.1, 0.9, 1):
        assert quantile(sample, share) == pytest.approx(np.quantile(sample, share))


def test_quantiles_refuse_nothing_and_nonsense():
    for function in (median, quartiles, modified_z_scores):
        with pytest.raises(ValueError, match="at least one"):
            function([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile([1.0], 1.5)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 872), (872, 872), (790, 872), (7, 10), (1, 100_000)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_interval_is_scipys(successes, trials, confidence):
    found = wilson_interval(successes, trials, confidence=confidence)
    oracle = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_wilson_interval_of_a_published_example():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I, method 3.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ]:
        found = wilson_interval(successes, trials)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_interval_refuses_nonsense():
    with pytest.raises(ValueError, match="at least one trial"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="between 0 and 10"):
        wilson_interval(11, 10)


def test_intervals_overlap_when_they_share_a_point():
    assert Interval(low=0.1, high=0.2).overlaps(Interval(low=0.2, high=0.3))
    assert Interval(low=0.1, high=0.4).overlaps(Interval(low=0.2, high=0.3))
    assert not Interval(low=0.1, high=0.19).overlaps(Interval(low=0.2, high=0.3))
    assert not Interval(low=0.2, high=0.3).overlaps(Interval(low=0.1, high=0.19))


def test_modified_z_scores_are_the_definition():
    values = np.array([2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3])
    oracle = (values - np.median(values)) / stats.median_abs_deviation(values, scale="normal")
    assert modified_z_scores(list(values)) == pytest.approx(list(oracle))


def test_outliers_of_a_published_example():
    # Iglewicz & Hoaglin 1993: z-scores mask the two; modified ones find them.
    values = [2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3]
    assert np.max(np.abs(stats.zscore(values))) < 3
    assert outliers(values) == (8, 9)


def test_outliers_where_most_values_are_equal():
    assert outliers([]) == ()
    assert outliers([1.0]) == ()
    assert outliers([5.0] * 10) == ()
    assert outliers([5.0] * 20 + [9.0]) == (20,)


def test_rate():
    assert rate(16, 0.2) == 80
    with pytest.raises(ValueError, match="above 0 s"):
        rate(16, 0)


def test_pareto_front_by_the_definition():
    generator = random.Random(3)
    for _ in range(50):
        points = [(generator.randrange(6), generator.randrange(6)) for _ in range(8)]
        beaten = [
            any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points)
            for cost, gain in points
        ]
        assert pareto_front(*zip(*points, strict=True)) == tuple(not b for b in beaten)


def test_pareto_front_keeps_equal_points_and_any_order():
    for order in itertools.permutations(
        [(1, 1, True), (1, 1, True), (2, 1, False), (2, 3, True), (3, 2, False)]
    ):
        costs, gains, expected = zip(*order, strict=True)
        assert pareto_front(costs, gains) == expected
    assert pareto_front([], []) == ()
    with pytest.raises(ValueError, match="zip"):
        pareto_front([1], [])
