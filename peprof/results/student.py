"""Student's t and the binomial distribution, by the incomplete beta function that both come from.

Written out for the reason that ``peprof.results.statistics`` gives: a table must not wait for scipy. The
tests hold it against scipy.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_TINY = 1e-300  # stands for 0 where it would be divided by
_PRECISION = 1e-15
# The last step to a quantile, as a share of it: what is left is about its square.
_PRECISE_ENOUGH = 1e-6
_EXPANDED_FROM = 3.0
_MOST_TERMS = 10_000
# From here on t and the normal distribution agree to six digits, and the fraction below grows long.
_NORMAL_FROM = 1e6


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    By its continued fraction (DLMF 8.17.22), evaluated as Lentz does (Press et al., "Numerical Recipes",
    3rd edition, section 6.4).

    Args:
        x: between 0 and 1.
        a, b: above 0.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # there the fraction of the complement converges faster
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    value, c, d = 1.0, 1.0, 0.0
    for number in range(1, _MOST_TERMS):
        m = number // 2
        if number % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def two_sided_p(t: float, degrees_of_freedom: float) -> float:
    """The probability of a value at least as far from 0 as ``t``, both sides together."""
    if math.isinf(t):
        return 0.0
    if degrees_of_freedom >= _NORMAL_FROM:
        return math.erfc(abs(t) / math.sqrt(2))
    share = degrees_of_freedom / (degrees_of_freedom + t * t)
    return incomplete_beta(share, degrees_of_freedom / 2, 0.5)


def two_sided_quantile(confidence: float, degrees_of_freedom: float) -> float:
    """How far from 0 a share ``confidence`` of all values lies at most.

    Args:
        confidence: between 0 and 1, exclusive.
        degrees_of_freedom: above 0, not necessarily whole.
    """
    normal = NormalDist().inv_cdf(0.5 + confidence / 2)
    if degrees_of_freedom >= _NORMAL_FROM:
        return normal
    # Newton's method. Beyond 0 the probability falls ever more slowly, so that from below the value each step
    # ends below it again, and from above the first one does.
    value = _expanded(normal, degrees_of_freedom) if degrees_of_freedom >= _EXPANDED_FROM else normal
    for _ in range(_MOST_TERMS):
        step = (two_sided_p(value, degrees_of_freedom) - (1 - confidence)) / (
            2 * _density(value, degrees_of_freedom)
        )
        value += step
        if abs(step) <= _PRECISE_ENOUGH * value:
            break
    return value


def _expanded(z: float, degrees_of_freedom: float) -> float:
    """Student's quantile from the normal distribution's (Abramowitz & Stegun 26.7.5)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees_of_freedom**power for power, term in enumerate(terms, start=1))


def _density(t: float, degrees_of_freedom: float) -> float:
    """Student's."""
    half = (degrees_of_freedom + 1) / 2
    scale = math.lgamma(half) - math.lgamma(degrees_of_freedom / 2)
    return math.exp(scale - half * math.log1p(t * t / degrees_of_freedom)) / math.sqrt(
        degrees_of_freedom * math.pi
    )


def binomial_tail(successes: int, trials: int) -> float:
    """The probability of at most so many heads in ``trials`` tosses of a fair coin."""
    if successes >= trials:
        return 1.0
    return incomplete_beta(0.5, trials - successes, successes + 1)
