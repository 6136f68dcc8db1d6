import math

import pytest
from scipy import special, stats

from peprof.results.student import binomial_tail, incomplete_beta, two_sided_p, two_sided_quantile


@pytest.mark.parametrize("a", [0.3, 1, 2.5, 40, 4000])
@pytest.mark.parametrize("b", [0.5, 1, 7, 900])
@pytest.mark.parametrize("x", [0, 1e-6, 0.02, 0.5, 0.9, 0.999, 1])
def test_the_incomplete_beta_is_scipys(a, b, x):
    assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("freedom", [0.7, 1, 2, 3.4, 10, 871, 1e5, 1e9, math.inf])
def test_t_is_scipys(freedom):
    for t in (0, 0.1, -1.3, 2.2, 6, 40):
        assert two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-6, abs=1e-300)
    for confidence in (0.5, 0.95, 0.99):
        wanted = stats.t.ppf(0.5 + confidence / 2, freedom)
        assert two_sided_quantile(confidence, freedom) == pytest.approx(wanted, rel=1e-6)


def test_t_of_a_printed_table():
    # Fisher & Yates, Table III: 5 % points.
    for freedom, point in [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (30, 2.042)]:
        assert round(two_sided_quantile(0.95, freedom), 3) == point
    assert two_sided_p(math.inf, 3) == 0


@pytest.mark.parametrize(
    ("heads", "tosses"), [(0, 0), (0, 1), (1, 1), (6, 22), (59, 180), (0, 300), (4900, 9815)]
)
def test_the_binomial_tail_is_scipys(heads, tosses):
    assert binomial_tail(heads, tosses) == pytest.approx(stats.binom.cdf(heads, tosses, 0.5), rel=1e-8)
