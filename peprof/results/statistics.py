"""Pure functions on plain numbers: nothing here knows of records, files or tables.

Written out rather than taken from scipy, whose import alone costs more than a whole leaderboard may take
(1.2 s measured); the tests hold them against scipy and numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, stdev

from peprof.results.student import binomial_tail, two_sided_quantile

#: Modified z-scores beyond this are outliers (Iglewicz & Hoaglin 1993, "How to Detect and Handle Outliers").
OUTLIER_THRESHOLD = 3.5

# The normal distribution's 75 % point: makes the median absolute deviation estimate a standard deviation.
_MAD_SCALE = NormalDist().inv_cdf(0.75)
# sqrt(pi / 2): does the same for the mean absolute deviation.
_MEAN_AD_SCALE = math.sqrt(math.pi / 2)

_LEAST_FOR_DRIFT = 9  # so that a third of the values has a median that one of them doesn't decide


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """The middle of a sample and its spread, in the sample's unit."""

    q1: float
    median: float
    q3: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two have a point in common."""
        return self.low <= other.high and other.low <= self.high


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the sample lies, interpolated linearly (type 7, as numpy does).

    Args:
        values: at least one, in any order.
        share: between 0 and 1.

    Raises:
        ValueError: no values, or ``share`` outside 0 to 1.
    """
    if not values:
        raise ValueError("a quantile needs at least one value")
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    return _quantile_of_sorted(sorted(values), share)


def _quantile_of_sorted(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    low = ordered[below]
    return low if below == position else low + (ordered[below + 1] - low) * (position - below)


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones for an even number.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a median needs at least one value")
    return _quantile_of_sorted(sorted(values), 0.5)


def quartiles(values: Sequence[float]) -> Quartiles:
    """First quartile, median and third quartile, interpolated linearly.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("quartiles need at least one value")
    ordered = sorted(values)
    return Quartiles(
        q1=_quantile_of_sorted(ordered, 0.25),
        median=_quantile_of_sorted(ordered, 0.5),
        q3=_quantile_of_sorted(ordered, 0.75),
    )


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Interval for the median of what the values are a sample of, whatever its distribution.

    From the k-th smallest to the k-th largest value, with the largest k for which that covers the median
    often enough: the number of values below it is binomial with 1/2 (David & Nagaraja 2003, "Order
    Statistics", section 7.1). Nothing is drawn at random, so that a table says the same each time.

    Args:
        values: in any order; independent of each other.
        confidence: between 0 and 1, exclusive; reached at least.

    Returns:
        ``None`` where even all of the values don't reach so far: for fewer than 6 at 95 %.
    """
    count = len(values)
    low = _rank_of_median_interval(count, confidence)
    if low == 0:
        return None
    ordered = sorted(values)
    return Interval(low=ordered[low - 1], high=ordered[count - low])


@lru_cache(maxsize=1024)  # a table of many runs asks the same for each of them
def _rank_of_median_interval(count: int, confidence: float) -> int:
    """The largest k of ``median_interval``; 0 where there is none."""
    tail = (1 - confidence) / 2
    low, high = 0, (count + 1) // 2  # the largest k lies from low, which is no k yet, to high
    while low < high:
        middle = (low + high + 1) // 2
        if binomial_tail(middle - 1, count) <= tail:
            low = middle
        else:
            high = middle - 1
    return low


def median_interval_over_rounds(
    rounds: Sequence[Sequence[float]], *, confidence: float = 0.95
) -> Interval | None:
    """Interval for the median of values that were taken in rounds, between which something may have changed.

    Values of one round resemble each other, so that each round counts as one observation: the median of all
    values, plus or minus Student's t times the standard error of the rounds' medians.

    Args:
        rounds: the values of each; none is empty.
        confidence: between 0 and 1, exclusive.

    Returns:
        ``None`` for fewer than two rounds.
    """
    count = len(rounds)
    if count < 2:
        return None
    middle = median([value for values in rounds for value in values])
    half = two_sided_quantile(confidence, count - 1) * stdev(map(median, rounds)) / math.sqrt(count)
    return Interval(low=middle - half, high=middle + half)


def drift(values: Sequence[float]) -> float | None:
    """By which share the values of the last third lie above those of the first, by their medians.

    Args:
        values: in the order in which they were taken; above 0.

    Returns:
        ``None`` for fewer than nine.
    """
    if len(values) < _LEAST_FOR_DRIFT:
        return None
    third = len(values) // 3
    return median(values[-third:]) / median(values[:third]) - 1


def wilson_interval(
    successes: float, trials: float, *, confidence: float = 0.95, quantile: float | None = None
) -> Interval:
    """Interval for a proportion that stays within 0 to 1 and holds its level near the ends.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", without
    continuity correction.

    Args:
        successes: how many of the trials; a fraction where it is a mean over seeds.
        trials: at least 1; a fraction where it is how many independent ones would be as informative (Korn &
            Graubard 1998, "Confidence intervals for proportions with small expected number of positive
            counts estimated from survey data").
        confidence: between 0 and 1, exclusive.
        quantile: in place of the normal distribution's, where the spread itself is an estimate.

    Raises:
        ValueError: ``trials`` below 1, or ``successes`` outside 0 to ``trials``.
    """
    if trials < 1:
        raise ValueError(f"a proportion needs at least one trial, not {trials}")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie between 0 and {trials}, not {successes}")
    z = quantile if quantile is not None else two_sided_quantile(confidence, math.inf)
    share = successes / trials
    shrink = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the very ends rounding leaves the bound an ulp beside 0 or 1, which it is exactly.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return Interval(low=low, high=high)


def modified_z_scores(values: Sequence[float]) -> list[float]:
    """Distances from the median in robust standard deviations (Iglewicz & Hoaglin 1993).

    Where more than half of the values are equal, so that the median absolute deviation is 0, the mean
    absolute deviation takes its place; where all are equal, all scores are 0.

    Raises:
        ValueError: no values.
    """
    middle, scale = _robust_scale(values)
    if scale == 0:
        return [0.0] * len(values)
    return [(value - middle) / scale for value in values]


def _robust_scale(values: Sequence[float]) -> tuple[float, float]:
    """The median, and what stands for the standard deviation."""
    middle = median(values)
    distances = [abs(value - middle) for value in values]
    scale = median(distances) / _MAD_SCALE or math.fsum(distances) / len(distances) * _MEAN_AD_SCALE
    return middle, scale


def outliers(values: Sequence[float], *, threshold: float = OUTLIER_THRESHOLD) -> tuple[int, ...]:
    """Positions of the values whose modified z-score lies beyond the threshold, in order."""
    if not values:
        return ()
    middle, scale = _robust_scale(values)
    limit = threshold * scale
    if max(values) - middle <= limit and middle - min(values) <= limit:
        return ()  # mostly: spares looking at each
    return tuple(place for place, value in enumerate(values) if abs(value - middle) > limit)


def rate(amount: float, seconds: float) -> float:
    """Amount per second.

    Raises:
        ValueError: ``seconds`` not above 0: no clock says so of real work.
    """
    if not seconds > 0:
        raise ValueError(f"a rate needs a time above 0 s, not {seconds}")
    return amount / seconds


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> tuple[bool, ...]:
    """Marks the points that no other beats: at most their cost and at least their gain, one of them better.

    Args:
        costs: what should be small, one a point.
        gains: what should be large, one a point.

    Raises:
        ValueError: different lengths.
    """
    points = list(zip(costs, gains, strict=True))
    on_front = [False] * len(points)
    best_cheaper = -math.inf  # the largest gain among all points of smaller cost
    best_at_cost, cost_before = -math.inf, -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        cost, gain = points[index]
        if cost > cost_before:
            best_cheaper, best_at_cost, cost_before = max(best_cheaper, best_at_cost), gain, cost
        on_front[index] = gain > best_cheaper and gain == best_at_cost
    return tuple(on_front)
