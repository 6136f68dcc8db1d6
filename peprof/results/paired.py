"""Whether two methods differ: from answers to the same examples, or from the seeds they have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peprof.results.crossed import Estimate, SeedNoise, estimate, squares_of_differences
from peprof.results.statistics import Interval
from peprof.results.student import binomial_tail, two_sided_quantile

TestName = Literal["mcnemar", "crossed", "seeds"]

#: Seeds that a test over seeds alone needs: of two, equal differences are too likely to happen by chance.
FEWEST_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A difference, first less second, and what was found of it.

    Args:
        test: ``mcnemar``: one seed, the examples' noise alone; ``crossed``: several seeds, the noise of seeds
            and examples; ``seeds``: the paired t test, the seeds' noise alone.
        difference: mean over what they have in common.
        interval: 95 %, unless asked otherwise.
        p_value: of no difference, two-sided; for this pair alone.
        seeds: that they have in common.
    """

    test: TestName
    difference: float
    interval: Interval
    p_value: float
    seeds: int


def compare_answers(
    first: Sequence[int],
    second: Sequence[int],
    examples: int,
    noise: SeedNoise | None,
    *,
    confidence: float = 0.95,
) -> Tested:
    """Tests the difference of two methods' shares of right answers.

    With one seed by the exact McNemar test (McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions or percentages"): other examples might have said otherwise. With several
    as ``peprof.results.crossed`` says: so might other seeds.

    Args:
        first, second: answers of each seed, the same seeds in the same order, at least one; bit i is 1 where
            example i is right.
        examples: how many, at least 2.
        noise: of the seeds; not needed for one seed.
        confidence: of the interval.

    Raises:
        ValueError: several seeds without ``noise``.
    """
    if len(first) == 1:
        only_first, only_second = _discordant(first, second)
        return Tested(
            test="mcnemar",
            difference=(only_first - only_second) / examples,
            interval=matched_interval(only_first, only_second, examples, confidence=confidence),
            p_value=mcnemar_p(only_first, only_second),
            seeds=1,
        )
    return _tested("crossed", _crossed(first, second, examples, noise), len(first), confidence)


def p_of_answers(
    first: Sequence[int], second: Sequence[int], examples: int, noise: SeedNoise | None
) -> tuple[TestName, float]:
    """The test and its p-value alone, without the interval, which takes longer: see ``compare_answers``."""
    if len(first) == 1:
        return "mcnemar", mcnemar_p(*_discordant(first, second))
    return "crossed", _crossed(first, second, examples, noise).p_value


def _discordant(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    return (first[0] & ~second[0]).bit_count(), (second[0] & ~first[0]).bit_count()


def _crossed(first: Sequence[int], second: Sequence[int], examples: int, noise: SeedNoise | None) -> Estimate:
    if noise is None:
        raise ValueError("several seeds need an estimate of their noise")
    return estimate(squares_of_differences(first, second, examples), noise, methods=2)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value: whether the examples that one alone has right favour either.

    Args:
        only_first, only_second: examples that only this one has right.
    """
    return min(1.0, 2 * binomial_tail(min(only_first, only_second), only_first + only_second))


def matched_interval(
    only_first: int, only_second: int, examples: int, *, confidence: float = 0.95
) -> Interval:
    """Interval for the difference of two shares of the same examples.

    Wald's with half an example added to each of the four cells (Agresti & Min 2005, "Simple improved
    confidence intervals for comparing matched proportions").
    """
    whole = examples + 2
    middle = (only_first - only_second) / whole
    discordant = (only_first + only_second + 1) / whole
    half = two_sided_quantile(confidence, math.inf) * math.sqrt((discordant - middle * middle) / whole)
    return Interval(low=max(middle - half, -1.0), high=min(middle + half, 1.0))


def compare_seeds(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> Tested | None:
    """The paired t test over seeds; ``None`` for fewer than ``FEWEST_SEEDS``.

    All seeds answer the same examples: what other examples would say, it doesn't know.

    Args:
        first, second: values of the same seeds in the same order.
        confidence: of the interval.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    count = len(differences)
    if count < FEWEST_SEEDS:
        return None
    mean = math.fsum(differences) / count
    variance = math.fsum((value - mean) ** 2 for value in differences) / (count - 1)
    found = Estimate(mean=mean, standard_error=math.sqrt(variance / count), degrees_of_freedom=count - 1.0)
    return _tested("seeds", found, count, confidence)


def _tested(test: TestName, found: Estimate, seeds: int, confidence: float) -> Tested:
    return Tested(
        test=test,
        difference=found.mean,
        interval=found.interval(confidence=confidence),
        p_value=found.p_value,
        seeds=seeds,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that any wrong rejection among all of them keeps its level, in their order.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
