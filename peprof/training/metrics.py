"""How good answers are: values by scikit-learn and SciPy, and how sure they are by resampling the examples.

Where a metric isn't defined it is 0, as scikit-learn has it for F1 and Matthews: a model that says the same
of every example has found no order among them, so its correlations are 0 too, where SciPy says NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

from peprof.results.record import Predictions
from peprof.suite.metrics import Task

Column = npt.NDArray[Any]

RESAMPLES = 1000
"""Draws of as many examples as there are, with replacement, that an interval is made of."""

_BATCH_ELEMENTS = 2_000_000  # examples times draws that are worked on at a time: some tens of MB


def judge(answers: Predictions, metrics: Sequence[str]) -> dict[str, float]:
    """The value of each metric, in the given order; NaN where an answer is no number.

    Args:
        answers: at least one.
        metrics: names out of ``peprof.suite.metrics`` that fit the answers' task.
    """
    found: dict[str, float] = {}
    for name in metrics:
        truth, guess = _columns(answers, name)
        finite = name == "perplexity" or bool(np.isfinite(guess).all())
        found[name] = float(_MEASURES[name].value(truth, guess)) if finite else float("nan")
    return found


def intervals(
    answers: Predictions, metrics: Sequence[str], *, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile bootstrap interval of each metric over the examples (Efron 1979).

    The same examples are drawn in every call, so equal answers have equal intervals. What can't be resampled
    has none: fewer than two examples, answers that are no numbers.

    Args:
        answers: of one evaluation.
        metrics: names that fit the answers' task.
        resamples: draws of all examples with replacement.
    """
    found: dict[str, tuple[float, float]] = {}
    for name in metrics:
        columns = _columns(answers, name)
        if len(columns[0]) < 2 or not all(np.isfinite(column).all() for column in columns):
            continue
        drawn = stats.bootstrap(
            columns,
            _MEASURES[name].many,
            n_resamples=resamples,
            batch=max(1, _BATCH_ELEMENTS // len(columns[0])),
            vectorized=True,
            paired=True,
            confidence_level=0.95,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        found[name] = (float(drawn.low), float(drawn.high))
    return found


def correct_bits(answers: Predictions, task: Task) -> str | None:
    """Which answers are right, as ``FullResult.correct_bits`` has it; ``None`` where the task has no classes.

    >>> correct_bits(Predictions(labels=(0, 1, 1, 0, 1), predictions=(0, 0, 1, 0, 1)), "classification")
    '1d'
    """
    if task not in ("classification", "text-to-text"):
        return None
    right = zip(answers.labels, answers.predictions, strict=True)
    number = sum(1 << row for row, (label, guess) in enumerate(right) if label == guess)
    return f"{number:0{-(-len(answers.labels) // 4)}x}"


def _columns(answers: Predictions, name: str) -> tuple[Column, Column]:
    first, second = _MEASURES[name].columns
    return np.asarray(getattr(answers, first), dtype=float), np.asarray(getattr(answers, second), dtype=float)


def _share(truth: Column, guess: Column, axis: int = -1) -> Column:
    found: Column = (truth == guess).mean(axis=axis)
    return found


def _quotient(above: Column, below: Column) -> Column:
    """Where the divisor is 0, 0."""
    safe = np.where(below == 0, 1.0, below)
    return np.where(below == 0, 0.0, above / safe)


def _f1_of(wanted: float, truth: Column, guess: Column, axis: int) -> tuple[Column, Column]:
    """F1 of a class, and whether it occurs at all."""
    is_so, said_so = truth == wanted, guess == wanted
    both = (is_so & said_so).sum(axis=axis)
    either = is_so.sum(axis=axis) + said_so.sum(axis=axis)
    return _quotient(2.0 * both, either), either > 0


def _f1(truth: Column, guess: Column, axis: int = -1) -> Column:
    return _f1_of(1.0, truth, guess, axis)[0]


def _macro_f1(truth: Column, guess: Column, axis: int = -1) -> Column:
    """Mean F1 of the classes that occur, in truth or among the guesses, in each draw."""
    total: Any = 0.0
    classes: Any = 0
    for wanted in np.union1d(truth, guess):
        value, occurs = _f1_of(wanted, truth, guess, axis)
        total, classes = total + value, classes + occurs
    return _quotient(total, classes)


def _matthews(truth: Column, guess: Column, axis: int = -1) -> Column:
    """For any number of classes (Gorodkin 2004); for two it is Matthews's own."""
    rows = float(truth.shape[axis])
    agreement: Any = (truth == guess).sum(axis=axis) * rows
    of_truth: Any = rows**2
    of_guess: Any = rows**2
    for wanted in np.union1d(truth, guess):
        is_so = (truth == wanted).sum(axis=axis).astype(float)
        said_so = (guess == wanted).sum(axis=axis).astype(float)
        agreement = agreement - is_so * said_so
        of_truth, of_guess = of_truth - is_so**2, of_guess - said_so**2
    return _quotient(agreement, np.sqrt(of_truth * of_guess))


def _pearson(truth: Column, guess: Column, axis: int = -1) -> Column:
    x = truth - truth.mean(axis=axis, keepdims=True)
    y = guess - guess.mean(axis=axis, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=axis) * (y * y).sum(axis=axis))
    # Equal numbers may differ from their own mean by a rounding, and two roundings correlate as they like.
    constant = (np.ptp(truth, axis=axis) == 0) | (np.ptp(guess, axis=axis) == 0)
    return _quotient((x * y).sum(axis=axis), np.where(constant, 0.0, scale))


def _spearman(truth: Column, guess: Column, axis: int = -1) -> Column:
    return _pearson(stats.rankdata(truth, axis=axis), stats.rankdata(guess, axis=axis), axis)


def _both(truth: Column, guess: Column, axis: int = -1) -> Column:
    return (_pearson(truth, guess, axis) + _spearman(truth, guess, axis)) / 2


def _mse(truth: Column, guess: Column, axis: int = -1) -> Column:
    found: Column = ((truth - guess) ** 2).mean(axis=axis)
    return found


def _perplexity(negative_log_likelihood: Column, tokens: Column, axis: int = -1) -> Column:
    with np.errstate(over="ignore"):  # of a model that knows less than nothing it is infinite
        found: Column = np.exp(negative_log_likelihood.sum(axis=axis) / tokens.sum(axis=axis))
    return found


def _correlation(by: Callable[..., Any]) -> Callable[[Column, Column], float]:
    def value(truth: Column, guess: Column) -> float:
        if np.ptp(truth) == 0 or np.ptp(guess) == 0:
            return 0.0
        return float(by(truth, guess).statistic)

    return value


_pearson_value, _spearman_value = _correlation(stats.pearsonr), _correlation(stats.spearmanr)


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """How a metric is found.

    Args:
        value: of all examples, by a library that people know.
        many: of many draws at once, (draws, examples) -> (draws,); the libraries take one at a time.
        columns: what it compares, by the names that ``Predictions`` has for them.
    """

    value: Callable[[Column, Column], float]
    many: Callable[..., Column]
    columns: tuple[str, str] = ("labels", "predictions")


_MEASURES: Mapping[str, _Measure] = {
    "accuracy": _Measure(value=accuracy_score, many=_share),
    "f1": _Measure(value=lambda truth, guess: f1_score(truth == 1, guess == 1, zero_division=0), many=_f1),
    "macro_f1": _Measure(
        value=lambda truth, guess: f1_score(truth, guess, average="macro", zero_division=0), many=_macro_f1
    ),
    "matthews": _Measure(value=matthews_corrcoef, many=_matthews),
    "exact_match": _Measure(value=accuracy_score, many=_share, columns=("labels", "written")),
    "pearson": _Measure(value=_pearson_value, many=_pearson),
    "spearman": _Measure(value=_spearman_value, many=_spearman),
    "pearson_spearman": _Measure(
        value=lambda truth, guess: (_pearson_value(truth, guess) + _spearman_value(truth, guess)) / 2,
        many=_both,
    ),
    "mse": _Measure(value=mean_squared_error, many=_mse),
    "perplexity": _Measure(
        value=lambda summed, tokens: float(_perplexity(summed, tokens)),
        many=_perplexity,
        columns=("predictions", "tokens"),
    ),
}
