"""By what factor a repeated measurement changed between two versions, and how sure that is.

Measured are repetitions of one work: the steps of a run, and several runs. Nothing is drawn at random, and
nothing is assumed of how steps are distributed: an interval comes from the order of the values, so that a
slow step counts as slow however slow it was.

Steps of a run are not independent: the machine drifts. How much less they say than as many independent ones
is estimated from how long they stay on one side of their median. Thirty steps tell only so much of that: what
changes over a good part of the measured time can't be told from a difference between the versions. Several
runs of each show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from peprof.results.crossed import Estimate
from peprof.results.statistics import Interval, median
from peprof.results.student import binomial_tail, two_sided_quantile

#: A sample of fewer has no interval.
FEWEST_STEPS = 3
#: Runs of both versions, less one each, from which on they tell by themselves how noisy they are.
FEWEST_FREEDOM = 2
#: From so many on nothing else is asked: five runs of each.
ENOUGH_FREEDOM = 8

# Autocorrelation at lag 1 that chance alone gives a sample of n is about 1 / sqrt(n): beyond that the steps
# are taken as dependent.
_DEPENDENT_FROM = 1.0

_LARGEST_LOG = 700.0  # of what a number can hold


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The median of one run's steps, and its uncertainty.

    Args:
        log_median: natural logarithm of the median.
        variance: of that; ``None`` for too few steps, and where it isn't asked for.
        worth: as how many independent steps they are.
    """

    log_median: float
    variance: float | None
    worth: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How a measurement changed; ratios are new over base.

    Args:
        ratio: of the medians.
        log_estimate: of its natural logarithm; ``None`` where nothing tells how noisy it is.
        over_runs: what differs from run to run is in the noise; otherwise it is that within runs alone.
    """

    ratio: float
    log_estimate: Estimate | None
    over_runs: bool

    def interval(self, confidence: float) -> Interval | None:
        """Of the ratio."""
        if self.log_estimate is None:
            return None
        found = self.log_estimate.interval(confidence=confidence)
        return Interval(low=_exp(found.low), high=_exp(found.high))

    @property
    def p_value(self) -> float | None:
        """That nothing changed, two-sided."""
        return None if self.log_estimate is None else self.log_estimate.p_value


def samples_of(runs: Sequence[Sequence[float]], *, others: int) -> list[Sample]:
    """One version's runs; without what their steps tell of the noise where there are runs enough to do so.

    Args:
        runs: steps of each, see ``sample_of``.
        others: how many runs the other version has.
    """
    if len(runs) + others - 2 >= ENOUGH_FREEDOM:
        return [Sample(log_median=math.log(median(steps)), variance=None, worth=len(steps)) for steps in runs]
    return [sample_of(steps) for steps in runs]


def sample_of(steps: Sequence[float]) -> Sample:
    """One run's median and how sure it is.

    The variance is that of Price & Bonett 2002 ("Distribution-free confidence intervals for difference and
    ratio of medians", J. Stat. Comput. Simul. 72), from two order statistics, times how dependent the steps
    are.

    Args:
        steps: seconds, all above 0, in the order in which they were measured; at least one.
    """
    ordered = sorted(steps)
    middle = median(ordered)
    if len(ordered) < FEWEST_STEPS:
        return Sample(log_median=math.log(middle), variance=None, worth=len(ordered))
    dependence = dependence_of(steps, middle)
    low, high, quantile = _order_statistics(len(ordered))
    error = math.log(ordered[high] / ordered[low]) / (2 * quantile)
    return Sample(
        log_median=math.log(middle), variance=error * error * dependence, worth=len(ordered) / dependence
    )


_PLACES: dict[int, tuple[int, int, float]] = {}


def _order_statistics(count: int) -> tuple[int, int, float]:
    """Places of the two order statistics, and how many standard errors each is from the median."""
    if count not in _PLACES:
        place = max(1, round((count + 1) / 2 - math.sqrt(count)))
        tail = binomial_tail(place - 1, count)
        _PLACES[count] = (place - 1, count - place, two_sided_quantile(1 - 2 * tail, math.inf))
    return _PLACES[count]


def dependence_of(values: Sequence[float], middle: float) -> float:
    """By what factor the variance of a median grows because its values aren't independent; at least 1.

    It is 1 + 2 * sum of the autocorrelations of whether a value lies above the median, summed in pairs as
    long as these are positive, and as if they never grew (Geyer 1992, "Practical Markov chain Monte Carlo").
    Where the first is no more than chance gives, values are taken as independent.

    Args:
        values: in order, at least two.
        middle: their median.
    """
    count = len(values)
    above = sum(1 << place for place, value in enumerate(values) if value > middle)
    share = above.bit_count() / count
    spread = share * (1 - share)
    if spread == 0:
        return 1.0

    def correlation(lag: int) -> float:
        both = (above & (above >> lag)).bit_count()
        early = (above & ((1 << (count - lag)) - 1)).bit_count()
        late = (above >> lag).bit_count()
        return (both - share * (early + late) + share * share * (count - lag)) / (count * spread)

    if correlation(1) + 1 / count <= _DEPENDENT_FROM / math.sqrt(count):
        return 1.0
    total, before = -1.0, math.inf
    for lag in range(0, count // 2 - 1, 2):
        pair = min((1.0 if lag == 0 else correlation(lag)) + correlation(lag + 1), before)
        if pair <= 0:
            break
        total, before = total + 2 * pair, pair
    return max(total, 1.0)


def compare_samples(base: Sequence[Sample], new: Sequence[Sample]) -> Shift:
    """The ratio of two versions' medians, from all runs.

    With one run of each the noise is that of their steps. With several the runs are the repeated measurement,
    and the variance of their medians is added. That holds the steps' own, which so counts twice: two to five
    runs can't tell how much of their differences is what, and may agree by chance. Where a run's steps tell
    nothing, or aren't asked, the runs' differences are all that is known of the noise.

    Args:
        base, new: one for each run, at least one.
    """
    means = _mean(base), _mean(new)
    mean = means[1] - means[0]
    within = _within(base, new)
    terms = [] if within is None else [(within.standard_error**2, within.degrees_of_freedom)]
    freedom = len(base) + len(new) - 2
    over_runs = freedom >= (1 if terms else FEWEST_FREEDOM)
    if over_runs:
        squares = math.fsum(
            (one.log_median - middle) ** 2
            for side, middle in zip((base, new), means, strict=True)
            for one in side
        )
        terms.append((squares / freedom * (1 / len(base) + 1 / len(new)), float(freedom)))
    return Shift(
        ratio=_exp(mean), log_estimate=_estimate(mean, terms) if terms else None, over_runs=over_runs
    )


def _estimate(mean: float, terms: Sequence[tuple[float, float]]) -> Estimate:
    """With the sum of variances, each with its degrees of freedom.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    variance = math.fsum(term for term, _ in terms)
    squares = math.fsum(term * term / freedom for term, freedom in terms)
    return Estimate(
        mean=mean,
        standard_error=math.sqrt(variance),
        degrees_of_freedom=variance * variance / squares if squares > 0 else math.inf,
    )


def _within(base: Sequence[Sample], new: Sequence[Sample]) -> Estimate | None:
    """The noise that steps alone give the difference of two sides' means; ``None`` where a run tells none."""
    terms = []
    for side in (base, new):
        for sample in side:
            if sample.variance is None:
                return None
            terms.append((sample.variance / len(side) ** 2, max(sample.worth - 1, 1.0)))
    return _estimate(0.0, terms)


def _mean(samples: Sequence[Sample]) -> float:
    return math.fsum(sample.log_median for sample in samples) / len(samples)


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_LOG else math.inf
