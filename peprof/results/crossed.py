"""Means over seeds and examples, both a sample: of one method's answers, or of two methods' difference.

Answers are integers: bit i is 1 where the answer to example i is right. All sums that are needed are counts
of bits, so that a table of many rows is tested in no time and without numpy.

The analysis of variance is that of Dorfman, Berbaum & Metz 1992 ("Receiver operating characteristic rating
analysis: generalization to the population of readers and patients with the jackknife method"): their readers
are our seeds, their patients our examples. The degrees of freedom are those of Hillis 2007 ("A comparison of
denominator degrees of freedom methods for multiple observer ROC analysis"). One thing is ours: a method has
far fewer seeds than they have readers, so what seeds add is estimated from all methods of a table together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from peprof.results.statistics import Interval
from peprof.results.student import two_sided_p, two_sided_quantile


@dataclass(frozen=True, kw_only=True)
class MeanSquares:
    """A table of seeds by examples, taken apart.

    Args:
        mean: over all.
        of_seeds, of_examples, of_rest: mean squares.
        seeds, examples: how many.
    """

    mean: float
    of_seeds: float
    of_examples: float
    of_rest: float
    seeds: int
    examples: int


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """What another seed changes of a method's share of right answers, beyond what other examples would.

    Args:
        variance: of the share; 0 where no more was seen than chance explains.
        degrees_of_freedom: that it was estimated with.
    """

    variance: float
    degrees_of_freedom: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its uncertainty.

    Args:
        mean: the value.
        standard_error: of it.
        degrees_of_freedom: of that.
    """

    mean: float
    standard_error: float
    degrees_of_freedom: float

    def quantile(self, *, confidence: float = 0.95) -> float:
        """Standard errors to either side that hold the true value with this confidence."""
        return two_sided_quantile(confidence, self.degrees_of_freedom)

    def interval(self, *, confidence: float = 0.95) -> Interval:
        """By Student's t."""
        half = self.quantile(confidence=confidence) * self.standard_error
        return Interval(low=self.mean - half, high=self.mean + half)

    @property
    def p_value(self) -> float:
        """That the true value is 0, two-sided."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return two_sided_p(self.mean / self.standard_error, self.degrees_of_freedom)


def squares_of_answers(answers: Sequence[int], examples: int) -> MeanSquares:
    """Of one method.

    Args:
        answers: of each seed, at least two.
        examples: how many, at least 2.
    """
    planes = _planes(tuple(answers))
    sums = [own.bit_count() for own in answers]
    return _mean_squares(sums, _products(planes, planes), sum(sums), examples)


def squares_of_differences(first: Sequence[int], second: Sequence[int], examples: int) -> MeanSquares:
    """Of what is 1 where only the first is right, -1 where only the second is, and 0 elsewhere.

    Args:
        first, second: answers of each seed, the same seeds in the same order, at least two.
        examples: how many, at least 2.
    """
    pairs = list(zip(first, second, strict=True))
    left, right = _planes(tuple(first)), _planes(tuple(second))
    squares = _products(left, left) - 2 * _products(left, right) + _products(right, right)
    ones = sum((a ^ b).bit_count() for a, b in pairs)
    return _mean_squares([a.bit_count() - b.bit_count() for a, b in pairs], squares, ones, examples)


@lru_cache(maxsize=256)  # each method of a table is held against each other
def _planes(answers: tuple[int, ...]) -> tuple[int, ...]:
    """How many seeds are right, for all examples at once: bit i of the n-th number is bit n of example i's.

    Seeds are added one by one as a row of adders does: so two methods' sums over their seeds cost a few
    operations for each seed, and not for each two of them.
    """
    planes: list[int] = []
    for carry in answers:
        for place, plane in enumerate(planes):
            planes[place], carry = plane ^ carry, plane & carry
        if carry:
            planes.append(carry)
    return tuple(planes)


@lru_cache(maxsize=256)  # likewise: each with itself
def _products(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """The sum over the examples of the product of two methods' numbers of seeds that are right."""
    return sum(
        (one & other).bit_count() << (place + another)
        for place, one in enumerate(first)
        for another, other in enumerate(second)
    )


def _mean_squares(sums: Sequence[int], of_sums: int, of_values: int, examples: int) -> MeanSquares:
    """From each seed's sum over the examples: two-way, no repetition.

    Args:
        sums: of each seed.
        of_sums: over the examples, of the square of the sum over seeds.
        of_values: over all, of the squares.
        examples: how many.
    """
    seeds, whole = len(sums), sum(sums)
    level = whole * whole / (seeds * examples)
    of_seeds = sum(value * value for value in sums) / examples - level
    of_examples = of_sums / seeds - level
    rest = of_values - level - of_seeds - of_examples
    return MeanSquares(
        mean=whole / (seeds * examples),
        of_seeds=max(of_seeds, 0.0) / (seeds - 1),
        of_examples=max(of_examples, 0.0) / (examples - 1),
        of_rest=max(rest, 0.0) / ((seeds - 1) * (examples - 1)),
        seeds=seeds,
        examples=examples,
    )


def seed_noise(methods: Sequence[MeanSquares]) -> SeedNoise:
    """Of all methods together, as if seeds changed each as much as the others.

    Where one is far more restless than the others it is judged too mildly, they too strictly.

    Args:
        methods: of each that has at least two seeds; at least one.
    """
    freedom = sum(squares.seeds - 1 for squares in methods)
    excess = math.fsum(
        (squares.seeds - 1) * (squares.of_seeds - squares.of_rest) / squares.examples for squares in methods
    )
    return SeedNoise(variance=max(excess / freedom, 0.0), degrees_of_freedom=freedom)


def estimate(squares: MeanSquares, noise: SeedNoise, *, methods: int) -> Estimate:
    """The mean, as if seeds and examples had both been drawn anew.

    Its variance is (s + max(MS_examples - MS_rest, 0)) / (seeds * examples). Dorfman, Berbaum & Metz have
    MS_seeds in place of s; it is here what MS_seeds is expected to be, MS_rest + examples * seed variance.

    Args:
        squares: of one method's answers, or of two methods' difference.
        noise: that seeds add to one method.
        methods: 1, or 2 for a difference, to which both add theirs.
    """
    of_seeds = squares.of_rest + squares.examples * methods * noise.variance
    variance = of_seeds + max(squares.of_examples - squares.of_rest, 0.0)
    most = squares.examples - 1.0
    freedom = min(noise.degrees_of_freedom * (variance / of_seeds) ** 2, most) if of_seeds > 0 else most
    return Estimate(
        mean=squares.mean,
        standard_error=math.sqrt(variance / (squares.seeds * squares.examples)),
        degrees_of_freedom=freedom,
    )
