"""The search for the largest size that fits: against counting up, and few tries."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peprof.running.border import BorderSearch

CAP = 2_000


def tries_of(search: BorderSearch, needs: dict[int, int], limit: int, known: str) -> list[int]:
    """The sizes that are tried, and what is told of each: what it needs always, where it fits, or never."""
    tried: list[int] = []
    while (size := search.next_size()) is not None:
        assert size in needs and size not in tried
        tried.append(size)
        fits = needs[size] <= limit
        told = known == "always" or (known == "where it fits" and fits)
        search.tell(size, fits=fits, need_bytes=needs[size] if told else None)
    return tried


@given(
    steps=st.lists(st.integers(0, 40), min_size=1, max_size=200),
    begin=st.integers(0, 500),
    limit=st.integers(0, 4_000),
    unit=st.sampled_from([1, 3]),
    start=st.integers(1, 900),
    growth=st.sampled_from([None, 0.5, 20.0, 1e9]),
    known=st.sampled_from(["always", "where it fits", "never"]),
)
def test_it_agrees_with_counting_up(
    steps: list[int], begin: int, limit: int, unit: int, start: int, growth: float | None, known: str
) -> None:
    needs = dict(zip(itertools.count(unit, unit), itertools.accumulate(steps, initial=begin), strict=False))
    search = BorderSearch(
        start=start, smallest=unit, cap=max(needs), unit=unit, limit_bytes=limit, growth_bytes=growth
    )
    tried = tries_of(search, needs, limit, known)
    assert search.largest == max((size for size, need in needs.items() if need <= limit), default=None)
    assert search.is_found and len(tried) <= 26
    if search.largest is not None and search.largest < max(needs):
        assert {search.largest, search.largest + unit} <= set(tried), "both sides are tried"


@pytest.mark.parametrize(("off", "most"), [(1.0, 2), (0.95, 4), (1.05, 4), (0.5, 4), (2.0, 5)])
def test_an_even_growth_takes_few_tries_wherever_it_begins(off: float, most: int) -> None:
    needs = {size: 50_000 + 731 * size for size in range(1, CAP + 1)}
    for border in (100, 777, 1_000):
        limit = needs[border] + 400
        search = BorderSearch(
            start=round(border * off), smallest=1, cap=CAP, limit_bytes=limit, growth_bytes=700.0
        )
        assert len(tries_of(search, needs, limit, "always")) <= most and search.largest == border


@pytest.mark.parametrize(("off", "most"), [(1.0, 2), (0.95, 6), (1.05, 9)])
def test_also_where_running_out_says_nothing_of_what_was_needed(off: float, most: int) -> None:
    needs = {size: 50_000 + 731 * size for size in range(1, CAP + 1)}
    for border in (100, 777, 1_000):
        limit = needs[border] + 400
        search = BorderSearch(
            start=round(border * off), smallest=1, cap=CAP, limit_bytes=limit, growth_bytes=700.0
        )
        assert len(tries_of(search, needs, limit, "where it fits")) <= most and search.largest == border


def test_everything_or_nothing_fits() -> None:
    everything = BorderSearch(start=7, smallest=1, cap=7, limit_bytes=10)
    assert tries_of(everything, {7: 0}, 10, "always") == [7] and everything.largest == 7
    nothing = BorderSearch(start=1, smallest=1, cap=7, limit_bytes=10)
    assert tries_of(nothing, {1: 11}, 10, "always") == [1] and nothing.largest is None
