"""Metrics against published examples and the libraries people know; intervals against what theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from peprof.results.record import Predictions
from peprof.suite.metrics import METRICS
from peprof.training.metrics import _MEASURES, correct_bits, intervals, judge


def answers(labels: object, predictions: object, **more: object) -> Predictions:
    return Predictions.model_validate(
        {"labels": tuple(labels), "predictions": tuple(predictions), **more}  # type: ignore[call-overload]
    )


# "Phi coefficient", Wikipedia: of eight cats six are found, of four dogs three; cats are class 1.
CATS = answers([1] * 8 + [0] * 4, [1] * 6 + [0] * 2 + [1] + [0] * 3)
# Anscombe 1973, "Graphs in statistical analysis", the first of the four: r = 0.816.
ANSCOMBE = answers(
    [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5],
    [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68],
)
# "Spearman's rank correlation coefficient", Wikipedia: IQ and hours of television, rho = -29/165.
TELEVISION = answers([106, 100, 86, 101, 99, 103, 97, 113, 112, 110], [7, 27, 2, 50, 28, 29, 20, 12, 6, 17])


def test_every_metric_that_a_suite_may_name_is_there() -> None:
    assert set(_MEASURES) == set(METRICS)


def test_classes_against_a_published_table() -> None:
    found = judge(CATS, ["matthews", "accuracy", "f1", "macro_f1"])
    assert list(found) == ["matthews", "accuracy", "f1", "macro_f1"], "in the order that was asked for"
    assert found["matthews"] == pytest.approx(0.478, abs=5e-4)
    assert found["accuracy"] == pytest.approx(9 / 12)
    assert found["f1"] == pytest.approx(2 * 6 / (2 * 6 + 1 + 2))
    assert found["macro_f1"] == pytest.approx((12 / 15 + 6 / 9) / 2)


def test_f1_is_of_class_one_whatever_other_classes_there_are() -> None:
    assert judge(answers([1, 1, 2, 2, 0], [1, 2, 1, 2, 0]), ["f1"])["f1"] == pytest.approx(0.5)


def test_correlations_against_published_ones() -> None:
    assert judge(ANSCOMBE, ["pearson"])["pearson"] == pytest.approx(0.81642, abs=5e-6)
    found = judge(TELEVISION, ["pearson_spearman", "spearman", "pearson"])
    assert found["spearman"] == pytest.approx(-29 / 165)
    assert found["pearson_spearman"] == pytest.approx((found["spearman"] + found["pearson"]) / 2)
    assert judge(answers([1, 2, 4], [1.5, 2, 3]), ["mse"])["mse"] == pytest.approx((0.25 + 0 + 1) / 3)


def test_perplexity_is_of_tokens_not_of_examples() -> None:
    # Three tokens of probability 1/2 and one of 1/8: 64 ** (1/4).
    found = answers([], [3 * math.log(2), math.log(8)], tokens=(3, 1))
    assert judge(found, ["perplexity"])["perplexity"] == pytest.approx(64**0.25)
    hopeless = answers([], [4000.0, 4000.0], tokens=(1, 1))
    assert judge(hopeless, ["perplexity"]) == {"perplexity": math.inf}


def test_exact_matches_are_of_what_was_written() -> None:
    found = answers([0, 1, 1, 0], [0, 1, 1, 0], written=(0, -1, 1, 1))
    assert judge(found, ["accuracy", "exact_match"]) == {"accuracy": 1.0, "exact_match": 0.5}


@pytest.mark.parametrize("guess", [0.1, 3.0])
def test_a_model_that_always_says_the_same_has_found_nothing(guess: float) -> None:
    found = answers([0, 1, 2, 1], [guess] * 4)
    assert judge(found, ["pearson", "spearman", "pearson_spearman"]) == dict.fromkeys(
        ["pearson", "spearman", "pearson_spearman"], 0.0
    )
    assert intervals(found, ["pearson"]) == {"pearson": (0.0, 0.0)}
    assert judge(answers([0, 1, 1], [0, 0, 0]), ["matthews", "f1"]) == {"matthews": 0.0, "f1": 0.0}


def test_answers_that_are_no_numbers_have_no_metric_and_no_interval() -> None:
    found = answers([1.0, 2.0, 3.0], [1.0, math.nan, 2.0])
    assert math.isnan(judge(found, ["pearson"])["pearson"]) and math.isnan(judge(found, ["mse"])["mse"])
    assert intervals(found, ["pearson", "mse"]) == {}
    assert intervals(answers([1], [1]), ["accuracy"]) == {}, "one example can't be resampled"


DRAW = np.random.default_rng(1)
LIBRARY = {
    "accuracy": sk.accuracy_score,
    "f1": lambda truth, guess: sk.f1_score(truth, guess, labels=[1], average="macro", zero_division=0),
    "macro_f1": lambda truth, guess: sk.f1_score(truth, guess, average="macro", zero_division=0),
    "matthews": sk.matthews_corrcoef,
    "pearson": lambda truth, guess: stats.pearsonr(truth, guess).statistic,
    "spearman": lambda truth, guess: stats.spearmanr(truth, guess).statistic,
    "mse": sk.mean_squared_error,
}


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("classes", [2, 4])
def test_many_draws_at_once_give_what_the_library_gives_one_by_one(name: str, classes: int) -> None:
    # Few rows of few values: ties, and draws in which a class is missing.
    truth = DRAW.integers(0, classes, (200, 9)).astype(float)
    guess = np.where(DRAW.random((200, 9)) < 0.6, truth, DRAW.integers(0, classes, (200, 9)))
    varied = [row for row in range(200) if np.ptp(truth[row]) and np.ptp(guess[row])]
    many = _MEASURES[name].many(truth, guess)
    for row in varied:
        assert many[row] == pytest.approx(LIBRARY[name](truth[row], guess[row]), abs=1e-12)
    assert len(varied) > 150


def test_the_interval_of_an_accuracy_is_that_of_the_binomial_distribution() -> None:
    found = answers([1] * 1000, [1] * 800 + [0] * 200)
    low, high = intervals(found, ["accuracy"])["accuracy"]
    expected = stats.binom.ppf([0.025, 0.975], 1000, 0.8) / 1000
    assert (low, high) == pytest.approx(tuple(expected), abs=0.004)
    assert intervals(found, ["accuracy"]) == {"accuracy": (low, high)}, "the same draws each time"


def test_the_interval_of_a_correlation_is_near_fishers() -> None:
    truth = DRAW.normal(size=1000)
    guess = 0.7 * truth + np.sqrt(1 - 0.49) * DRAW.normal(size=1000)
    found = answers(truth, guess)
    low, high = intervals(found, ["pearson"])["pearson"]
    expected = stats.pearsonr(truth, guess).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)
    of_ranks = intervals(found, ["spearman"])["spearman"]
    assert of_ranks[0] < judge(found, ["spearman"])["spearman"] < of_ranks[1]


def test_the_interval_of_a_perplexity_draws_whole_examples() -> None:
    # Equal likelihoods a token: whatever is drawn, the perplexity is 2.
    tokens = (1, 5, 9, 2)
    even = answers([], [math.log(2) * count for count in tokens], tokens=tokens)
    assert intervals(even, ["perplexity"])["perplexity"] == pytest.approx((2.0, 2.0))


def test_right_answers_are_bits_of_a_number_in_the_splits_order() -> None:
    found = answers([0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 1])
    bits = correct_bits(found, "classification")
    assert bits == "1d", "0b011101, first example last"
    assert [int(bits, 16) >> row & 1 for row in range(6)] == [1, 0, 1, 1, 1, 0]
    assert correct_bits(answers([0] * 9, [1] * 9), "text-to-text") == "000", "a digit for each four"
    assert correct_bits(answers([1.0], [1.0]), "regression") is None
    assert correct_bits(answers([], [1.0], tokens=(1,)), "language-modelling") is None
