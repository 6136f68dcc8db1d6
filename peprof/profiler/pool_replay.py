"""The caching allocator's history, replayed: how large each block was, and how long it was in use.

The history says what was asked for; what it doesn't say is the size of the block that was given. That follows
from the blocks there were before and the allocator's rules (c10/cuda/CUDACachingAllocator.cpp): an allocation
takes the lower part of a free block, the rest is split off where it is worth it, and freed neighbours merge.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peprof.gpus.blocks import SMALL_SEGMENT_BYTES, is_split_off, rounded_bytes


@dataclass(kw_only=True)
class Lifetime:
    """A block from when it was handed out until it could be handed out again.

    Moments are positions in the history: the block is there from the entry ``born`` on.

    Args:
        address: where it begins.
        requested_bytes: what was asked for.
        block_bytes: what was given.
        born: the entry that handed it out; -1 where it was in use before the history.
        ordinal: how many blocks the history had handed out before it; -1 where it was in use before.
        freed: the entry from which on it doesn't count as allocated.
        completed: the entry from which on it doesn't count as requested, as no stream uses it any more.
    """

    address: int
    requested_bytes: int
    block_bytes: int
    born: int
    ordinal: int
    freed: int
    completed: int


@dataclass(kw_only=True)
class _Segment:
    small: bool
    expandable: bool
    end: int
    """The address after its last byte."""


def lifetimes(segments: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> list[Lifetime]:
    """Replays a history.

    A block that can't be found by the rules (of an allocator that goes by others) counts by the size of its
    request, rounded; what that misses is seen where sums are held against the allocator's counters.

    Args:
        segments, entries: as in ``Recording``.

    Returns:
        All blocks: those in use before in no order, then in the order in which they were handed out.
    """
    return _Replay(segments, len(entries)).run(entries)


class _Replay:
    def __init__(self, segments: Sequence[Mapping[str, Any]], length: int) -> None:
        self._length = length
        self._segments: dict[int, _Segment] = {}
        self._starts: list[int] = []
        self._free: dict[int, int] = {}
        """Sizes of free blocks by address."""
        self._free_ends: dict[int, int] = {}
        """Addresses of free blocks by where they end."""
        self._in_use: dict[int, Lifetime] = {}
        self._found: list[Lifetime] = []
        for segment in segments:
            expandable = bool(segment.get("is_expandable", False))
            small = segment["segment_type"] == "small"
            self._add_segment(segment["address"], segment["total_size"], small=small, expandable=expandable)
            for block in segment["blocks"]:
                self._there_before(block)

    def _there_before(self, block: Mapping[str, Any]) -> None:
        if block["state"] == "inactive":
            self._add_free(block["address"], block["size"])
            return
        lifetime = self._hand_out(block["address"], block["requested_size"], block["size"], -1, -1)
        if block["state"] != "active_allocated":
            lifetime.freed = -1  # a stream still uses it

    def _add_segment(self, address: int, size: int, *, small: bool, expandable: bool) -> None:
        self._segments[address] = _Segment(small=small, expandable=expandable, end=address + size)
        insort(self._starts, address)

    def _hand_out(self, address: int, requested: int, size: int, born: int, ordinal: int) -> Lifetime:
        lifetime = Lifetime(
            address=address,
            requested_bytes=requested,
            block_bytes=size,
            born=born,
            ordinal=ordinal,
            freed=self._length,
            completed=self._length,
        )
        self._in_use[address] = lifetime
        self._found.append(lifetime)
        return lifetime

    def run(self, entries: Sequence[Mapping[str, Any]]) -> list[Lifetime]:
        ordinal = 0
        for position, entry in enumerate(entries):
            action, address, size = entry["action"], entry.get("addr", 0), entry["size"]
            if action == "alloc":
                self._hand_out(address, size, self._take(address, size), position, ordinal)
                ordinal += 1
            elif action == "free_requested" and address in self._in_use:
                self._in_use[address].freed = position
            elif action == "free_completed" and address in self._in_use:
                lifetime = self._in_use.pop(address)
                lifetime.completed = position
                self._give_back(address, lifetime.block_bytes)
            elif action == "segment_alloc":
                self._add_segment(address, size, small=size == SMALL_SEGMENT_BYTES, expandable=False)
                self._add_free(address, size)
            elif action == "segment_free" and address in self._segments:
                del self._segments[address]
                self._starts.remove(address)
                self._remove_free(address)
        return self._found

    # -- blocks -------------------------------------------------------------------------------------

    def _take(self, address: int, requested: int) -> int:
        """The size of the block that a request gets at an address; the rest stays free."""
        size = rounded_bytes(requested)
        segment = self._segment_of(address)
        if segment is None or segment.expandable or self._free.get(address, 0) < size:
            return size  # expandable segments split off whatever is left
        there = self._remove_free(address)
        rest = there - size
        if is_split_off(rest, small=segment.small):
            self._add_free(address + size, rest)
            return size
        return there

    def _give_back(self, address: int, size: int) -> None:
        """A block is free again, and one with its free neighbours in the segment."""
        segment = self._segment_of(address)
        if segment is None or segment.expandable:
            return
        if address + size in self._free and address + size < segment.end:
            size += self._remove_free(address + size)
        before = self._free_ends.get(address)
        if before is not None and address not in self._segments:
            size += self._remove_free(before)
            address = before
        self._add_free(address, size)

    def _segment_of(self, address: int) -> _Segment | None:
        index = bisect_right(self._starts, address) - 1
        segment = self._segments[self._starts[index]] if index >= 0 else None
        return segment if segment is not None and address < segment.end else None

    def _add_free(self, address: int, size: int) -> None:
        self._free[address] = size
        self._free_ends[address + size] = address

    def _remove_free(self, address: int) -> int:
        size = self._free.pop(address, 0)
        self._free_ends.pop(address + size, None)
        return size
