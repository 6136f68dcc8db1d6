"""Which rows of a table were shown to differ by the deciding metric, and which only look as if they did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peprof.results.crossed import SeedNoise
from peprof.results.paired import (
    FEWEST_SEEDS,
    TestName,
    compare_answers,
    compare_seeds,
    holm,
    p_of_answers,
)
from peprof.results.rows import AgainstReference, Row
from peprof.results.scores import Score, noise_of_seeds

#: What is called a difference is one by chance in at most so many tables.
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """How it was found out which rows of a table differ.

    Args:
        pairs: of rows, tested by their answers to the same examples, with Holm's correction over all of them.
        tests: by which these were, in no order.
        by_intervals: some pairs could only be told apart by whether their intervals overlap.
        unknown: names of rows without an interval: nothing tells whether they differ.
    """

    pairs: int
    tests: frozenset[TestName]
    by_intervals: bool
    unknown: tuple[str, ...]


def alike(rows: Sequence[Row]) -> tuple[frozenset[tuple[int, int]], Doubts]:
    """The pairs of rows that weren't shown to differ, and how that was found out.

    Pairs with known answers are tested, and Holm's correction goes over all of these: so it also holds for
    the comparison with the best row, which was chosen by what it had reached. For the others it is asked
    whether their 95 % intervals overlap, which finds fewer differences than there are.

    Args:
        rows: of one table.

    Returns:
        pairs of places in ``rows``, the lower one first; rows without a value are in none.
    """
    noise = noise_of_answers(rows)
    known = [(place, row.score) for place, row in enumerate(rows) if row.score]
    tested: dict[tuple[int, int], tuple[TestName, float]] = {}
    overlapping: set[tuple[int, int]] = set()
    others = 0
    for (first, score), (second, other) in itertools.combinations(known, 2):
        answers = _answers(score, other)
        if answers is not None:
            tested[first, second] = p_of_answers(*answers, score.total, noise)
            continue
        others += 1
        if score.interval is None or other.interval is None or score.interval.overlaps(other.interval):
            overlapping.add((first, second))
    adjusted = holm([p_value for _, p_value in tested.values()])
    undecided = {pair for pair, p_value in zip(tested, adjusted, strict=True) if p_value >= LEVEL}
    return frozenset(undecided | overlapping), Doubts(
        pairs=len(tested),
        tests=frozenset(test for test, _ in tested.values()),
        by_intervals=others > 0,
        unknown=tuple(rows[place].name for place, score in known if score.interval is None),
    )


def against(rows: Sequence[Row], reference: Row | None) -> list[AgainstReference | None]:
    """Each row's difference to the reference, with Holm's correction over all rows that could be tested."""
    noise = noise_of_answers(rows)
    found = [_against(row, reference, noise) for row in rows]
    p_values = [one.tested.p_value for one in found if one is not None and one.tested is not None]
    adjusted = iter(holm(p_values))
    return [
        one
        if one is None or one.tested is None
        else AgainstReference(value=one.value, seeds=one.seeds, tested=one.tested, adjusted_p=next(adjusted))
        for one in found
    ]


def noise_of_answers(rows: Sequence[Row]) -> SeedNoise | None:
    """What seeds add to a share of right answers, from all rows together."""
    return noise_of_seeds(row.accuracy for row in rows if row.accuracy)


def _against(row: Row, reference: Row | None, noise: SeedNoise | None) -> AgainstReference | None:
    if reference is None or row is reference or row.score is None or reference.score is None:
        return None
    seeds = _common(row.score.by_seed, reference.score.by_seed)
    if not seeds:
        value = row.score.value - reference.score.value
        return AgainstReference(value=value, seeds=0, untested_because="no seed in common")
    own = [row.score.by_seed[seed] for seed in seeds]
    theirs = [reference.score.by_seed[seed] for seed in seeds]
    answers = _answers(row.score, reference.score)
    tested = compare_answers(*answers, row.score.total, noise) if answers else compare_seeds(own, theirs)
    reason = None
    if tested is None:
        words = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
        reason = f"not enough seeds: {words} in common, at least {FEWEST_SEEDS} are needed"
    value = (sum(own) - sum(theirs)) / len(seeds)
    return AgainstReference(value=value, seeds=len(seeds), tested=tested, untested_because=reason)


def _answers(first: Score, second: Score) -> tuple[list[int], list[int]] | None:
    """Of the seeds whose answers are known of both; ``None`` where there are none."""
    seeds = _common(first.answers, second.answers)
    if not seeds or first.total != second.total or first.total < 2:
        return None
    return [first.answers[seed] for seed in seeds], [second.answers[seed] for seed in seeds]


def _common(first: Mapping[int, object], second: Mapping[int, object]) -> list[int]:
    return sorted(first.keys() & second.keys())
