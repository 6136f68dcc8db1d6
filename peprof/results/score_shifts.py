"""Whether a metric of the result changed between two versions: from the same examples, or from intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from peprof.results.crossed import SeedNoise
from peprof.results.paired import compare_answers, compare_seeds
from peprof.results.scores import Score
from peprof.results.statistics import Interval
from peprof.results.student import two_sided_quantile

_NORMAL_95 = two_sided_quantile(0.95, math.inf)


@dataclass(frozen=True, kw_only=True)
class ScoreShift:
    """A metric in both versions.

    Args:
        base, new: its values, over what was compared.
        interval: of new less base; ``None`` where nothing tells how sure it is.
        judged_by: ``answers`` to the same examples; ``seeds``; ``intervals`` of the two values; ``None``
            without an interval.
    """

    base: float
    new: float
    interval: Interval | None
    judged_by: Literal["answers", "seeds", "intervals"] | None


def compare_scores(
    base: Score, new: Score, noise: SeedNoise | None, *, same_examples: bool, confidence: float
) -> ScoreShift:
    """By the strongest test that the two allow.

    Where the answers one by one are known of the same seeds, those are compared. Otherwise the difference has
    an interval that comes from those of the two values, as if other examples had been answered, which is
    wider; or where these have none, one over the seeds.

    Args:
        base, new: the same metric.
        noise: what seeds add to a share of right answers; needed where several seeds have answers.
        same_examples: both were asked the same.
        confidence: of the interval.
    """
    seeds = sorted(base.answers.keys() & new.answers.keys()) if same_examples else []
    if seeds and base.total == new.total and base.total >= 2 and (len(seeds) == 1 or noise is not None):
        first, second = ([score.answers[seed] for seed in seeds] for score in (new, base))
        tested = compare_answers(first, second, new.total, noise, confidence=confidence)
        interval = _agreeing(tested.interval, tested.p_value, confidence)
        return ScoreShift(
            base=_mean(base.by_seed, seeds), new=_mean(new.by_seed, seeds), interval=interval,
            judged_by="answers",
        )  # fmt: skip
    if base.interval is not None and new.interval is not None:
        return ScoreShift(
            base=base.value,
            new=new.value,
            interval=square_and_add(
                (base.value, _at(base.interval, base.value, confidence)),
                (new.value, _at(new.interval, new.value, confidence)),
            ),
            judged_by="intervals",
        )
    return _by_seeds(base, new, confidence)


def _by_seeds(base: Score, new: Score, confidence: float) -> ScoreShift:
    common = sorted(base.by_seed.keys() & new.by_seed.keys())
    tested = compare_seeds(
        [new.by_seed[seed] for seed in common], [base.by_seed[seed] for seed in common], confidence=confidence
    )
    if tested is None:
        return ScoreShift(base=base.value, new=new.value, interval=None, judged_by=None)
    return ScoreShift(
        base=_mean(base.by_seed, common),
        new=_mean(new.by_seed, common),
        interval=tested.interval,
        judged_by="seeds",
    )


def square_and_add(base: tuple[float, Interval], new: tuple[float, Interval]) -> Interval:
    """Interval of a difference, new less base, from those of two independent values.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions: comparison
    of eleven methods", Statistics in Medicine 17, method 10 with Wilson's intervals.

    Args:
        base, new: value and its interval.
    """
    (old, of_old), (late, of_late) = base, new
    difference = late - old
    return Interval(
        low=difference - math.hypot(late - of_late.low, of_old.high - old),
        high=difference + math.hypot(of_late.high - late, old - of_old.low),
    )


def _at(interval: Interval, value: float, confidence: float) -> Interval:
    """A 95 % interval at another confidence, as a normal distribution has it."""
    factor = two_sided_quantile(confidence, math.inf) / _NORMAL_95
    return Interval(
        low=value - factor * (value - interval.low), high=value + factor * (interval.high - value)
    )


def _agreeing(interval: Interval, p_value: float, confidence: float) -> Interval:
    """The interval, reaching 0 where the test, which is the exact one, doesn't call it a difference."""
    if p_value < 1 - confidence:
        return interval
    return Interval(low=min(interval.low, 0.0), high=max(interval.high, 0.0))


def _mean(by_seed: Mapping[int, float], seeds: list[int]) -> float:
    return math.fsum(by_seed[seed] for seed in seeds) / len(seeds)
