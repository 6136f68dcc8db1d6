"""The allocator's history joined to the ledger: whose each byte of the pool's own peaks is.

The ledger knows storages, the history knows blocks. What connects them is the address, and the number of
blocks that had been handed out when the ledger met the storage. What no storage claims was asked for inside
an operator: its workspace.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from peprof.breakdown.values import PoolMemory, PoolMoment, sum_by
from peprof.devices.cuda_history import Recording
from peprof.profiler.pool_replay import Lifetime, lifetimes

HELD_BEFORE = "held_before"
"""In use before the step by what is no storage of the step's: libraries' workspaces, other models."""
ROUNDING = "rounding"
"""Blocks are larger than what was asked for."""
BETWEEN = "(between operators)"
UNATTRIBUTED = "unattributed"


class Claim(NamedTuple):
    """A storage as the ledger met it.

    Args:
        address: of its first byte; 0 where it has none.
        allocations: how many blocks the history had handed out by then.
        category: what it is.
    """

    address: int
    allocations: int
    category: str


class Call(NamedTuple):
    """An operator that ran while blocks were handed out.

    Args:
        first: how many the history had handed out before it.
        last: how many after it.
        operator: its name.
        phase: of the step.
    """

    first: int
    last: int
    operator: str
    phase: str


def join(recording: Recording, claims: Iterable[Claim], calls: Sequence[Call]) -> PoolMemory:
    """Says whose the pool's memory is where most is requested, and where most is allocated.

    Args:
        recording: what the allocator did in the step.
        claims: the storages, in the order in which the ledger met them.
        calls: in the order in which they ran; none within another.
    """
    blocks = lifetimes(recording.segments, recording.entries)
    categories, unmatched = _claimed(blocks, claims)
    ends = [call.last for call in calls]
    length = len(recording.entries)

    def call_of(block: Lifetime) -> Call | None:
        index = bisect_right(ends, block.ordinal)
        return calls[index] if index < len(calls) and calls[index].first <= block.ordinal else None

    def category_of(block: Lifetime) -> str:
        known = categories.get(id(block))
        if known is not None:
            return known
        if block.born < 0:
            return HELD_BEFORE
        call = call_of(block)
        return f"workspace:{call.operator if call is not None else BETWEEN}"

    def moment(
        counted_bytes: int, size: Callable[[Lifetime], int], end: Callable[[Lifetime], int]
    ) -> PoolMoment:
        position, replayed_bytes = _highest(blocks, length, size, end)
        live = [block for block in blocks if block.born <= position < end(block)]
        parts = [(category_of(block), block.requested_bytes) for block in live]
        parts.append((ROUNDING, sum(size(block) - block.requested_bytes for block in live)))
        residual_bytes = counted_bytes - replayed_bytes
        parts.append((UNATTRIBUTED, residual_bytes))
        last = max(live, key=lambda block: block.born, default=None)
        call = call_of(last) if last is not None and last.born >= 0 else None
        return PoolMoment(
            total_bytes=counted_bytes,
            phase=call.phase if call is not None else None,
            operator=call.operator if call is not None else None,
            categories={name: total for name, total in sum_by(iter(parts)).items() if total},
            residual_bytes=residual_bytes,
        )

    return PoolMemory(
        requested=moment(
            recording.peak_requested_bytes, lambda block: block.requested_bytes, lambda b: b.completed
        ),
        allocated=moment(recording.peak_allocated_bytes, lambda block: block.block_bytes, lambda b: b.freed),
        unmatched_storages=unmatched,
    )


def _claimed(blocks: list[Lifetime], claims: Iterable[Claim]) -> tuple[dict[int, str], int]:
    """Categories by the identity of the block, and the number of storages that have none."""
    by_address: dict[int, list[Lifetime]] = {}
    births = [block.born for block in blocks if block.born >= 0]
    for block in blocks:
        by_address.setdefault(block.address, []).append(block)
    categories: dict[int, str] = {}
    unmatched = 0
    for claim in claims:
        if claim.address == 0:
            continue
        before = [b for b in by_address.get(claim.address, ()) if b.ordinal < claim.allocations]
        # When the ledger looked, the last block had been handed out, so what was free by then is another's.
        # A history that somebody has switched off in the step is shorter than what was counted.
        last = min(claim.allocations, len(births))
        looked = births[last - 1] if last else -1
        if before and before[-1].freed > looked:
            categories.setdefault(id(before[-1]), claim.category)
        else:
            unmatched += 1
    return categories, unmatched


def _highest(
    blocks: Iterable[Lifetime], length: int, size: Callable[[Lifetime], int], end: Callable[[Lifetime], int]
) -> tuple[int, int]:
    """The first entry after which most bytes are in use, and how many; -1 is before the first."""
    changes = [0] * (length + 2)
    for block in blocks:
        if end(block) > block.born:
            changes[block.born + 1] += size(block)
            changes[end(block) + 1] -= size(block)
    levels = list(accumulate(changes[: length + 1]))
    top = max(range(length + 1), key=lambda index: (levels[index], -index))
    return top - 1, levels[top]
