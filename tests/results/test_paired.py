import math
import random

import numpy as np
import pytest
from scipy import stats

from peprof.results.crossed import SeedNoise
from peprof.results.paired import compare_answers, compare_seeds, holm, matched_interval, mcnemar_p


def packed(right):
    return sum(1 << place for place, one in enumerate(right) if one)


def test_mcnemar_of_published_examples():
    # The binomial coefficients of 22 over 0 to 6 add up to 110,056; twice that of 2**22 is 0.0525.
    assert round(mcnemar_p(6, 16), 4) == round(mcnemar_p(16, 6), 4) == 0.0525
    # Agresti, "Categorical Data Analysis", approval of a prime minister: of 1,600 people 150 changed one
    # way and 86 the other; p < 0.0001, the difference 0.04 with a 95 % interval from 0.021 to 0.059.
    assert mcnemar_p(150, 86) < 0.0001
    found = matched_interval(150, 86, 1600)
    assert (round(found.low, 3), round(found.high, 3)) == (0.021, 0.059)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 1), (0, 6), (5, 5), (121, 59), (30, 42)])
def test_mcnemar_is_scipys_binomial_test(only_first, only_second):
    wanted = stats.binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert mcnemar_p(only_first, only_second) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("only_first", "only_second", "total"), [(0, 0, 20), (9, 2, 60), (40, 41, 872)])
def test_the_matched_interval_is_walds_with_half_an_example_in_each_cell(only_first, only_second, total):
    both = (total - only_first - only_second) / 2
    values, counts = np.array([0, 0, 1, -1]), np.array([both, both, only_first, only_second]) + 0.5
    mean = np.average(values, weights=counts)
    error = math.sqrt(np.average((values - mean) ** 2, weights=counts) / counts.sum())
    found = matched_interval(only_first, only_second, total)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, mean, error))
    wide = matched_interval(only_first, only_second, total, confidence=0.99)
    assert (wide.low, wide.high) == pytest.approx(stats.norm.interval(0.99, mean, error))


def test_one_seed_is_compared_by_mcnemar():
    first = [True] * 30 + [False] * 10 + [True] * 60
    second = [False] * 30 + [True] * 10 + [True] * 60
    found = compare_answers([packed(first)], [packed(second)], 100, None)
    assert (found.test, found.difference, found.seeds) == ("mcnemar", pytest.approx(0.2), 1)
    assert found.p_value == pytest.approx(stats.binomtest(10, 40).pvalue)
    assert found.interval.low < 0.2 < found.interval.high


def test_several_seeds_are_compared_with_the_noise_of_both():
    generator = random.Random(2)
    runs = [
        [packed(generator.random() < share for _ in range(500)) for _ in range(3)] for share in (0.9, 0.8)
    ]
    quiet = compare_answers(*runs, 500, SeedNoise(variance=0.0, degrees_of_freedom=4))
    restless = compare_answers(*runs, 500, SeedNoise(variance=0.03**2, degrees_of_freedom=4))
    assert quiet.test == "crossed" and quiet.seeds == 3
    rights = [sum(run.bit_count() for run in own) for own in runs]
    assert quiet.difference == pytest.approx((rights[0] - rights[1]) / 1500) == restless.difference
    assert quiet.p_value < 0.01 < restless.p_value
    assert restless.interval.low < quiet.interval.low and quiet.interval.high < restless.interval.high
    with pytest.raises(ValueError, match="estimate of their noise"):
        compare_answers(*runs, 500, None)


def test_equal_answers_do_not_differ():
    same = [packed([True, False, True]), packed([True, True, True])]
    for runs, noise in ((same, SeedNoise(variance=0.0, degrees_of_freedom=1)), (same[:1], None)):
        found = compare_answers(runs, runs, 3, noise)
        assert (found.difference, found.p_value) == (0, 1)


def test_seeds_alone_are_compared_by_scipys_paired_t_test():
    first, second = [88.1, 87.0, 89.3, 88.8], [86.5, 87.2, 87.1, 86.9]
    found = compare_seeds(first, second)
    oracle = stats.ttest_rel(first, second)
    interval = oracle.confidence_interval(0.95)
    assert (found.test, found.seeds) == ("seeds", 4)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


def test_students_own_example():
    # Student 1908, "The probable error of a mean": hours of sleep that two drugs added for ten patients;
    # mean difference 1.58, t = 4.06, as R prints it p = 0.002833 and 0.70 to 2.46.
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    two = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare_seeds(two, one)
    assert round(found.difference, 2) == 1.58
    assert round(found.p_value, 6) == 0.002833
    assert (round(found.interval.low, 7), round(found.interval.high, 7)) == (0.7001142, 2.4598858)


def test_too_few_seeds_are_not_compared():
    assert compare_seeds([0.9, 0.8], [0.7, 0.6]) is None
    assert compare_seeds([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).p_value == 1


def test_holm_of_a_published_example_and_one_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # The third, times three, is less than the second, times four: no smaller p-value may follow.
    assert holm([0.01, 0.02, 0.022, 0.09, 0.1]) == pytest.approx([0.05, 0.08, 0.08, 0.18, 0.18])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
