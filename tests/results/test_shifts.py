"""The ratio of two medians, held to a published example, to scipy, and to samples whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from peprof.results.shifts import compare_samples, dependence_of, sample_of, samples_of
from peprof.results.statistics import median
from peprof.results.student import two_sided_quantile
from tests.results.histories import dependent, drifting, gaussian, lognormal, with_outliers

# The example of ci.ratio.median2 of the R package statpsych 1.6, by the method's authors (Bonett & Price
# 2020, "Confidence intervals for ratios of means and medians"): 43 / 37, 95 % from 0.927667 to 1.455933.
PUBLISHED_BASE = [32, 39, 26, 35, 43, 27, 40, 37, 34, 29, 49, 42, 40]
PUBLISHED_NEW = [36, 44, 47, 42, 49, 39, 46, 31, 33, 48]

CASES = 400


SHAPES = [gaussian, lognormal, with_outliers, dependent, drifting]


def shift(base, new):
    """Of one run each."""
    return compare_samples([sample_of(base)], [sample_of(new)])


def test_a_published_example_of_the_ratio_of_two_medians():
    base, new = sample_of(PUBLISHED_BASE), sample_of(PUBLISHED_NEW)
    assert base.worth == 13 and new.worth == 10  # independent: nothing was added to the published variance
    error = math.sqrt(base.variance + new.variance)
    ratio, half = math.log(43 / 37), stats.norm.ppf(0.975) * error
    assert new.log_median - base.log_median == pytest.approx(ratio)
    assert [round(math.exp(end), 6) for end in (ratio - half, ratio + half)] == [0.927667, 1.455933]


@pytest.mark.parametrize("count", [3, 5, 10, 30, 100])
def test_the_order_statistics_are_those_of_the_binomial_distribution(count):
    values = [math.exp(place) for place in range(count)]  # logarithms are the places themselves
    place = max(1, round((count + 1) / 2 - math.sqrt(count)))
    z = stats.norm.isf(stats.binom.cdf(place - 1, count, 0.5))
    wanted = ((count + 1 - 2 * place) / (2 * z)) ** 2
    found = sample_of([values[(7 * step) % count] for step in range(count)] if count % 7 else values)
    assert found.variance / (count / found.worth) == pytest.approx(wanted)


def test_how_sure_a_median_is_agrees_with_scipys_bootstrap():
    steps = lognormal(np.random.default_rng(5), steps=200)
    bootstrap = stats.bootstrap((np.log(steps),), np.median, n_resamples=4000, random_state=1)
    found = sample_of(steps)
    assert math.sqrt(found.variance * found.worth / 200) == pytest.approx(bootstrap.standard_error, rel=0.25)


def test_dependence_is_that_of_an_autoregressive_process():
    """Of whether a value lies above the median the autocorrelation is 2/pi asin(r^k) (Sheppard 1899)."""
    correlation = 0.6
    lags = np.arange(1, 60)
    wanted = 1 + 2 * np.sum(2 / np.pi * np.arcsin(correlation**lags))
    values = dependent(np.random.default_rng(3), steps=20_000, correlation=correlation)
    assert dependence_of(values, median(values)) == pytest.approx(wanted, rel=0.1)
    independent = gaussian(np.random.default_rng(3), steps=20_000)
    assert dependence_of(independent, median(independent)) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, 2.0], [1.0, 1.0, 1.0, 9.0]])
def test_dependence_of_what_tells_nothing_is_none(values):
    assert dependence_of(values, median(values)) == 1.0


@pytest.mark.parametrize("freedom", [0.7, 1, 2, 2.5, 4, 13.7, 58, 1000.5])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99, 0.9999])
def test_quantiles_are_scipys(freedom, confidence):
    wanted = stats.t.isf((1 - confidence) / 2, freedom)
    assert two_sided_quantile(confidence, freedom) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_interval_of_30_steps_holds_the_truth_as_often_as_it_says(shape):
    """At 99 % it may miss 4 of 400 on average; 11 or more would come by chance in 1 of 400 such tests.

    Steps that depend on each other (0.3 from one to the next) miss twice as often at 30 steps, and half as
    wide again is the interval for it: how dependent they are, thirty of them can't tell well.
    """
    generator = np.random.default_rng(11)
    missed = 0
    for _ in range(CASES):
        interval = shift(shape(generator), shape(generator)).interval(0.99)
        missed += not interval.low <= 1 <= interval.high
    assert missed <= (16 if shape is dependent else 10)


def test_steps_alone_would_be_trusted_too_much_without_their_dependence():
    generator = np.random.default_rng(12)
    missed = missed_naively = 0
    for _ in range(CASES):
        base, new = (sample_of(dependent(generator, correlation=0.5)) for _ in range(2))
        interval = compare_samples([base], [new]).interval(0.99)
        missed += not interval.low <= 1 <= interval.high
        error = math.sqrt(base.variance * base.worth / 30 + new.variance * new.worth / 30)
        missed_naively += abs(new.log_median - base.log_median) > stats.norm.ppf(0.995) * error
    assert missed_naively > 2 * missed and missed_naively > 0.05 * CASES


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("run_noise", [0.0, 0.005, 0.02])
def test_an_interval_of_several_runs_holds_the_truth_whatever_differs_between_runs(runs, run_noise):
    generator = np.random.default_rng(13)
    missed = 0
    for _ in range(CASES // 2):
        sides = [
            [
                _slowed(gaussian(generator), math.exp(run_noise * generator.standard_normal()))
                for _ in range(runs)
            ]
            for _ in range(2)
        ]
        samples = [samples_of(side, others=runs) for side in sides]
        interval = compare_samples(*samples).interval(0.99)
        missed += not interval.low <= 1 <= interval.high
    assert missed <= 8  # of 200; 2 on average


def _slowed(steps, factor):
    return [step * factor for step in steps]


def test_one_run_each_can_not_know_what_differs_between_runs_and_says_so():
    generator = np.random.default_rng(14)
    one = shift(gaussian(generator), gaussian(generator))
    assert not one.over_runs and one.log_estimate is not None
    several = compare_samples(*([sample_of(gaussian(generator)) for _ in range(3)] for _ in range(2)))
    assert several.over_runs


def test_five_runs_each_are_students_t_test_of_their_log_medians():
    generator = np.random.default_rng(15)
    sides = [[gaussian(generator) for _ in range(5)] for _ in range(2)]
    found = compare_samples(*(samples_of(side, others=5) for side in sides))
    logs = [[math.log(np.median(run)) for run in side] for side in sides]
    oracle = stats.ttest_ind(logs[1], logs[0])
    interval = oracle.confidence_interval(0.99)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert (found.interval(0.99).low, found.interval(0.99).high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high))
    )


def test_runs_with_one_number_each_need_four_to_tell_their_noise():
    def of(*values):
        return [sample_of([value]) for value in values]

    assert compare_samples(of(600), of(700)).log_estimate is None
    assert compare_samples(of(600), of(700, 701)).log_estimate is None
    found = compare_samples(of(600, 602), of(700, 701))
    oracle = stats.ttest_ind(np.log([700, 701]), np.log([600, 602]))
    assert found.over_runs and found.p_value == pytest.approx(oracle.pvalue)


def test_equal_steps_have_no_noise_and_any_difference_is_one():
    same = shift([0.2] * 30, [0.2] * 30)
    assert (same.interval(0.99).low, same.interval(0.99).high, same.p_value) == (1, 1, 1)
    slower = shift([0.2] * 30, [0.21] * 30)
    assert slower.ratio == pytest.approx(1.05) and slower.p_value == 0
    assert slower.interval(0.99).low == pytest.approx(1.05)


def test_two_steps_have_no_interval():
    assert sample_of([0.2, 0.3]).variance is None
    assert shift([0.2, 0.3], [0.2, 0.3, 0.4]).interval(0.99) is None
