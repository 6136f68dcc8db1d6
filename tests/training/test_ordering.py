"""Every example once an epoch, whatever the order; like lengths together where asked for."""

from __future__ import annotations

import random

from peprof.training.ordering import grouped_by_length, longest_first, shuffled

LENGTHS = random.Random(0).choices(range(3, 61), k=1_003)


def padded_tokens(batches: list[list[int]]) -> int:
    return sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)


def test_each_row_comes_once() -> None:
    for batches in (
        shuffled(len(LENGTHS), 8, seed=1),
        grouped_by_length(LENGTHS, 8, seed=1),
        longest_first(LENGTHS, 8),
    ):
        assert sorted(row for batch in batches for row in batch) == list(range(1_003))
        assert sorted(map(len, batches)) == [3] + [8] * 125


def test_grouping_pads_little_and_stays_random() -> None:
    grouped = grouped_by_length(LENGTHS, 8, seed=1)
    assert padded_tokens(grouped) < 1.1 * sum(LENGTHS)
    assert padded_tokens(shuffled(len(LENGTHS), 8, seed=1)) > 1.5 * sum(LENGTHS)
    assert grouped != grouped_by_length(LENGTHS, 8, seed=2)
    assert grouped == grouped_by_length(LENGTHS, 8, seed=1)
    means = [sum(LENGTHS[row] for row in batch) / len(batch) for batch in grouped]
    assert means != sorted(means), "the batches themselves are in no order of length"


def test_the_longest_come_first() -> None:
    lengths = [LENGTHS[row] for batch in longest_first(LENGTHS, 8) for row in batch]
    assert lengths == sorted(LENGTHS, reverse=True)
