import itertools
import random

import numpy as np
import pytest
from scipy import stats

from peprof.results.statistics import (
    Interval,
    drift,
    median,
    median_interval,
    median_interval_over_rounds,
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


@pytest.mark.parametrize("count", [*range(6, 40), 100, 101, 1000, 5000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_interval_of_a_median_is_the_narrowest_pair_that_covers_it_as_often_as_asked(count, confidence):
    values = random.Random(count).sample(range(10 * count), k=count)
    found = median_interval(values, confidence=confidence)
    if found is None:
        assert 1 - 2 * stats.binom.pmf(0, count, 0.5) < confidence, "not even the widest pair covers it"
        return
    ordered = sorted(values)
    low, high = ordered.index(found.low), ordered.index(found.high)
    assert low + high == count - 1, "as many values below it as above it"

    def covers(low, high):
        """The median lies above the first end and below the second: so many values are smaller than it."""
        return stats.binom.cdf(high, count, 0.5) - stats.binom.cdf(low, count, 0.5)

    assert covers(low, high) >= confidence
    assert low + 1 > high - 1 or covers(low + 1, high - 1) < confidence


def test_the_interval_of_a_median_is_scipys():
    values = [random.Random(7).lognormvariate(0, 1) for _ in range(57)]
    found = median_interval(values)
    theirs = stats.quantile_test(values, q=1.0, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == (theirs.low, theirs.high)


def test_too_few_values_have_no_interval():
    assert [median_interval([1.0] * count) for count in range(6)] == [None] * 6
    assert median_interval([3, 1, 2, 6, 5, 4]) == Interval(low=1, high=6)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    draws = np.random.default_rng(5).lognormal(size=(2000, 30))
    hits = [found.low <= 1.0 <= found.high for row in draws.tolist() if (found := median_interval(row))]
    assert len(hits) == 2000 and 0.945 <= np.mean(hits) <= 0.975  # exact: 95.7 % for 30 values


def test_rounds_count_as_one_observation_each():
    rounds = [[1.0, 1.1, 1.2], [1.3, 1.4, 1.5], [1.15, 1.25, 1.35], [0.9, 1.0, 1.1]]
    medians = [np.median(values) for values in rounds]
    middle = np.median(np.concatenate(rounds))
    theirs = stats.t.interval(0.95, 3, loc=middle, scale=stats.sem(medians))
    found = median_interval_over_rounds(rounds)
    assert (found.low, found.high) == pytest.approx(theirs)
    assert median_interval_over_rounds(rounds[:1]) is None


def test_the_interval_over_rounds_holds_where_rounds_differ_and_that_of_all_steps_does_not():
    rng = np.random.default_rng(3)
    hits = {"rounds": 0, "steps": 0}
    for _ in range(500):
        rounds = [(10 + rng.normal() + 0.05 * rng.normal(size=20)).tolist() for _ in range(5)]
        over_rounds = median_interval_over_rounds(rounds)
        over_steps = median_interval([value for values in rounds for value in values])
        hits["rounds"] += over_rounds.low <= 10 <= over_rounds.high
        hits["steps"] += over_steps.low <= 10 <= over_steps.high
    assert hits["rounds"] / 500 >= 0.9 > 0.6 > hits["steps"] / 500


def test_a_drift_is_that_from_the_first_third_to_the_last():
    assert drift([1.0] * 8) is None
    assert drift([1.0] * 9) == 0
    assert drift([1, 9, 1, 5, 5, 5, 3, 3, 0.1]) == pytest.approx(2)
    assert drift([100 - step for step in range(31)]) == pytest.approx(-21 / 95.5)
