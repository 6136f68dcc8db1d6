"""What a metric says of a method over its seeds, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from peprof.results.crossed import MeanSquares, SeedNoise, estimate, seed_noise, squares_of_answers
from peprof.results.figures import MetricFigures
from peprof.results.paired import FEWEST_SEEDS
from peprof.results.statistics import Interval, wilson_interval
from peprof.results.student import two_sided_quantile
from peprof.suite.metrics import Metric

Covered = Literal["examples", "seeds", "seeds and examples"]

_NORMAL_95 = two_sided_quantile(0.95, math.inf)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over the seeds of a row.

    Args:
        metric: its name, and which way is better.
        value: mean over the seeds.
        interval: 95 %; ``None`` where nothing tells.
        covered: what might have been otherwise within the interval: the examples, for one seed or where the
            answers one by one are unknown; ``None`` without an interval.
        total: validation rows.
        by_seed: seed -> its value.
        answers: seed -> answers, bit i is 1 where example i is right; empty unless known of all seeds.
    """

    metric: Metric
    value: float
    interval: Interval | None
    covered: Covered | None
    total: int
    by_seed: Mapping[int, float]
    answers: Mapping[int, int] = field(default_factory=dict, repr=False)

    @property
    def gain(self) -> float:
        """The value turned so that more is better."""
        return self.value if self.metric.higher_is_better else -self.value


def score_of(runs: Sequence[tuple[int, MetricFigures]]) -> Score:
    """One metric over seeds.

    Without the answers one by one a share's interval is Wilson's at as many rows as there are: seeds share
    them, so more of these make it no narrower. Other metrics have the mean of the seeds' own intervals,
    widened by what differs between seeds (variances added, degrees of freedom by Satterthwaite 1946), and cut
    where the metric ends: two seeds that differ leave no doubt that an F1 is at most 1.

    Args:
        runs: seed and what it found, the same metric; at least one. A seed that was run several times counts
            once, with its mean.
    """
    by_seed: dict[int, list[float]] = {}
    for seed, found in runs:
        by_seed.setdefault(seed, []).append(found.value)
    values = {seed: math.fsum(several) / len(several) for seed, several in by_seed.items()}
    value = math.fsum(values.values()) / len(values)
    total = min(found.total for _, found in runs)
    metric = runs[0][1].metric
    interval, covered = _interval(list(values.values()), [found for _, found in runs], value, total)
    if interval is not None:
        low, high = metric.nearest_possible(interval.low), metric.nearest_possible(interval.high)
        interval = Interval(low=low, high=high)
    answers = {seed: found.answers for seed, found in runs if found.answers is not None}
    same_examples = all(found.total == total for _, found in runs)
    return Score(
        metric=metric,
        value=value,
        interval=interval,
        covered=covered,
        total=total,
        by_seed=values,
        answers=answers if len(answers) == len(values) and same_examples else {},
    )


def _interval(
    values: Sequence[float], runs: Sequence[MetricFigures], value: float, total: int
) -> tuple[Interval | None, Covered | None]:
    if runs[0].metric.name in ("accuracy", "exact_match"):
        return wilson_interval(min(value * total, total), total), "examples"
    known = [found.interval for found in runs if found.interval is not None]
    of_examples = (
        Interval(
            low=math.fsum(one.low for one in known) / len(known),
            high=math.fsum(one.high for one in known) / len(known),
        )
        if len(known) == len(runs)
        else None
    )
    if len(values) == 1:
        return of_examples, "examples" if of_examples else None
    spread = math.fsum((one - value) ** 2 for one in values) / (len(values) - 1) / len(values)
    if of_examples is None:
        if len(values) < FEWEST_SEEDS:
            return None, None
        half = two_sided_quantile(0.95, len(values) - 1) * math.sqrt(spread)
        return Interval(low=value - half, high=value + half), "seeds"
    return _widened(of_examples, value, spread, len(values)), "seeds and examples"


def _widened(interval: Interval, value: float, spread: float, seeds: int) -> Interval:
    """An interval over the examples, widened on both sides alike by the variance of a mean over seeds."""
    error = (interval.high - interval.low) / (2 * _NORMAL_95)
    if spread == 0 or error == 0:
        half = two_sided_quantile(0.95, seeds - 1) * math.sqrt(spread)
        return Interval(low=interval.low - half, high=interval.high + half)
    variance = error * error + spread
    freedom = (seeds - 1) * (variance / spread) ** 2
    factor = two_sided_quantile(0.95, freedom) * math.sqrt(variance) / (_NORMAL_95 * error)
    return Interval(
        low=value - factor * (value - interval.low), high=value + factor * (interval.high - value)
    )


def noise_of_seeds(scores: Iterable[Score]) -> SeedNoise | None:
    """What seeds add, from all scores of a table with several; ``None`` where there is none of these."""
    methods = [squares for score in scores if (squares := _squares(score))]
    return seed_noise(methods) if methods else None


def with_noise_of_seeds(score: Score, noise: SeedNoise | None) -> Score:
    """The score with an interval that holds the seeds' noise too, where the answers are known.

    Wilson's interval at as many independent rows as would be as informative, and never at more than there
    are; Student's quantile in place of the normal distribution's.
    """
    squares = _squares(score)
    if squares is None or noise is None:
        return score
    found = estimate(squares, noise, methods=1)
    worth = float(score.total)
    if found.standard_error > 0:
        worth = min(max(score.value * (1 - score.value) / found.standard_error**2, 1.0), worth)
    interval = wilson_interval(min(score.value * worth, worth), worth, quantile=found.quantile())
    return replace(score, interval=interval, covered="seeds and examples")


def _squares(score: Score) -> MeanSquares | None:
    if len(score.answers) < 2 or score.total < 2:
        return None
    return squares_of_answers(list(score.answers.values()), score.total)
