"""In which order examples are read, and which share a batch."""

from __future__ import annotations

import random
from collections.abc import Sequence

POOL_BATCHES = 50
"""Batches whose examples are sorted together: enough for little padding, few enough to stay random."""


def shuffled(rows: int, batch_size: int, *, seed: int) -> list[list[int]]:
    """Every row once, in an order that the seed decides; the last batch may be smaller."""
    order = list(range(rows))
    random.Random(seed).shuffle(order)
    return _cut(order, batch_size)


def grouped_by_length(lengths: Sequence[int], batch_size: int, *, seed: int) -> list[list[int]]:
    """Every row once, in batches of like lengths, so that little is padded.

    The shuffled rows are dealt into pools of ``POOL_BATCHES`` batches, each pool is sorted by length and cut
    into batches, and these are shuffled. A batch's lengths are alike; which rows meet, and when, is random.

    Args:
        lengths: tokens of each row.
        batch_size: rows a batch; one batch may be smaller, anywhere in the epoch.
        seed: decides the order.
    """
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    for pool in _cut(order, POOL_BATCHES * batch_size):
        batches += _cut(sorted(pool, key=lengths.__getitem__), batch_size)
    draw.shuffle(batches)
    return batches


def longest_first(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every row once, from the longest to the shortest: what doesn't fit into memory fails at once."""
    return _cut(sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True), batch_size)


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
