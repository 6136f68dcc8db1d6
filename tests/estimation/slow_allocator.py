"""The caching allocator's rules once more, slowly: what is free is worked out anew from what is in use.

It keeps ranges of addresses, which of their pages have memory, and what is in use; no blocks, no neighbours,
no counters. Everything that the simulation keeps up to date is here a sum over those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from peprof.estimation.allocator_settings import AllocatorSettings

MIB = 2**20


@dataclass(eq=False)
class Range:
    """Addresses of one segment, or of an expandable one; ``page`` is a fixed segment's whole length."""

    base: int
    length: int
    page: int
    small: bool
    stream: int
    mapped: set[int] = field(default_factory=set)
    since: int = 0

    @property
    def expandable(self) -> bool:
        return self.page != self.length


Extent = tuple[int, int, Range]
"""Bytes, address, range: in the order in which extents are taken."""


@dataclass
class SlowAllocator:
    settings: AllocatorSettings = field(default_factory=AllocatorSettings)
    capacity: int = 2**50
    limit: int | None = None
    used: dict[int, tuple[int, int, Range]] = field(default_factory=dict)
    ranges: list[Range] = field(default_factory=list)
    searches: int = 0
    retries: int = 0
    next_address: int = 1 << 40

    # -- sums ---------------------------------------------------------------------------------------

    @property
    def reserved(self) -> int:
        return sum(len(r.mapped) * r.page for r in self.ranges)

    @property
    def allocated(self) -> int:
        return sum(size for size, _, _ in self.used.values())

    @property
    def requested(self) -> int:
        return sum(requested for _, requested, _ in self.used.values())

    @property
    def inactive_split(self) -> int:
        return sum(
            size for r in self.ranges if not r.expandable for size, _, _ in self.extents(r) if size < r.length
        )

    def extents(self, r: Range, mapped: bool = True) -> list[Extent]:
        """The longest stretches that aren't in use and have memory (or have none), by address."""
        edges = {r.base, r.base + r.length}
        inside = [(a, a + size) for a, (size, _, of) in self.used.items() if of is r]
        edges |= {edge for pair in inside for edge in pair}
        pages = sorted(r.mapped)
        edges |= {r.base + p * r.page for p in pages} | {r.base + (p + 1) * r.page for p in pages}
        points = sorted(edges)
        found: list[tuple[int, int]] = []
        for start, end in pairwise(points):
            if any(a <= start < b for a, b in inside):
                continue
            if ((start - r.base) // r.page in r.mapped) is not mapped:
                continue
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return [(end - start, start, r) for start, end in found]

    # -- asking and freeing -------------------------------------------------------------------------

    def round(self, requested: int) -> int:
        interval = 0
        while interval < 15 and requested >= 2 * MIB << interval:
            interval += 1
        divisions = self.settings.roundup_power2_divisions[interval]
        if divisions > 1 and requested > 512 * divisions:
            power = 1
            while power * 2 <= requested:
                power *= 2
            steps = [power + power * k // divisions for k in range(divisions + 1)]
            return next(step for step in steps if step >= requested)
        size = 512
        while size < requested:
            size += 512 * max(1, (requested - size) // 512)
        return size

    def malloc(self, requested: int, stream: int = 0) -> int:
        size = self.round(requested)
        small = size <= MIB
        self.searches += not small
        found = self.fitting(size, small, stream) or self.from_device(size, small, stream)
        there, address, r = found
        rest, limit = there - size, self.settings.max_split_size_bytes
        if self.settings.expandable_segments or small:
            keeps = rest < 512
        else:
            keeps = rest <= MIB or (limit is not None and size >= limit)
        self.used[address] = (there if keeps else size, requested, r)
        return address

    def free(self, address: int) -> None:
        _, _, r = self.used.pop(address)
        r.since = self.searches

    def of(self, small: bool, stream: int) -> list[Range]:
        return [r for r in self.ranges if r.small is small and r.stream == stream]

    def fitting(self, size: int, small: bool, stream: int) -> Extent | None:
        free = sorted(
            ((e for r in self.of(small, stream) for e in self.extents(r) if e[0] >= size)),
            key=lambda e: e[:2],
        )
        if not free:
            return None
        best = 0
        if self.settings.expandable_segments:
            while best + 1 < len(free) and self.grown(free[best + 1]) < self.grown(free[best]):
                best += 1
        limit = self.settings.max_split_size_bytes
        if limit is not None and size < limit <= free[best][0]:
            return None
        if limit is not None and limit <= size <= free[best][0] - self.settings.max_non_split_rounding_bytes:
            return None
        return free[best]

    def grown(self, extent: Extent) -> int:
        size, address, r = extent
        return size + sum(more for more, a, _ in self.extents(r, mapped=False) if a == address + size)

    # -- the device ---------------------------------------------------------------------------------

    def from_device(self, size: int, small: bool, stream: int) -> Extent:
        large = self.settings.large_segment_bytes
        asked = (
            2 * MIB if small else large if size < 10 * MIB else (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        )
        share = self.settings.garbage_collection_threshold
        if share and self.limit is not None and not self.settings.expandable_segments:
            self.collect(int(share * self.limit))
        for attempt in ("at once", "some", "all"):
            if attempt == "some" and not self.release_some(size, small, stream):
                continue
            if attempt == "all":
                self.empty_cache()
                self.retries += 1
            if self.limit is not None and self.reserved + asked > self.limit:
                continue
            if not self.settings.expandable_segments and self.reserved + asked > self.capacity:
                continue
            if self.settings.expandable_segments:
                found = self.expand(size, small, stream)
                if found:
                    return found
                continue
            r = Range(self.next_address, asked, asked, small, stream, {0})
            self.next_address += asked
            self.ranges.append(r)
            return asked, r.base, r
        raise MemoryError(requested := size, asked, requested)

    def whole(self) -> list[Extent]:
        return [e for r in self.ranges if not r.expandable for e in self.extents(r) if e[0] == r.length]

    def release_some(self, size: int, small: bool, stream: int) -> bool:
        limit = self.settings.max_split_size_bytes
        if limit is None or self.settings.expandable_segments:
            return False
        needed = max(size, limit)
        cached = sorted((e for e in self.whole() if e[2] in self.of(small, stream)), key=lambda e: e[:2])
        enough = [e for e in cached if e[0] >= needed]
        if enough:
            self.ranges.remove(enough[0][2])
            return True
        released = 0
        for e in reversed(cached):
            if released < needed and e[0] >= limit:
                released += e[0]
                self.ranges.remove(e[2])
        return released >= needed

    def collect(self, threshold: int) -> None:
        target = self.reserved - threshold
        reclaimed = 0
        while target > 0 and reclaimed < target:
            cached = [e for e in self.whole() if not e[2].small]
            if not cached:
                return
            middle = sum(self.searches - e[2].since for e in cached) / len(cached)
            for e in cached:
                if self.searches - e[2].since >= middle:
                    reclaimed += e[0]
                    self.ranges.remove(e[2])

    def empty_cache(self) -> None:
        for e in self.whole():
            self.ranges.remove(e[2])
        for r in list(self.ranges):
            if r.expandable and r.mapped:  # one for which there was no memory yet stays
                taken = [(a - r.base, a - r.base + s) for a, (s, _, of) in self.used.items() if of is r]
                r.mapped = {
                    p for p in r.mapped if any(a < (p + 1) * r.page and p * r.page < b for a, b in taken)
                }
                if not r.mapped:
                    self.ranges.remove(r)

    def expand(self, size: int, small: bool, stream: int) -> Extent | None:
        r, address = self.room(size, small, stream)
        for gap, start, _ in self.extents(r, mapped=False):
            if start + gap <= address or start >= address + size:
                continue
            missing = min(gap, address + size - start)
            pages = range((start - r.base) // r.page, (start - r.base + missing - 1) // r.page + 1)
            if self.reserved + len(pages) * r.page > self.capacity:
                return None
            r.mapped |= set(pages)
        return next(e for e in self.extents(r) if e[1] <= address < e[1] + e[0])

    def room(self, size: int, small: bool, stream: int) -> tuple[Range, int]:
        """The lowest gap from which on, or from the free stretch before which on, there is room."""
        for r in sorted(self.of(small, stream), key=lambda r: r.base):
            for _, start, _ in self.extents(r, mapped=False):
                before = [a for s, a, _ in self.extents(r) if a + s == start]
                first = before[0] if before else start
                ends = [a for a, (_, _, of) in self.used.items() if of is r and a >= first]
                if min([*ends, r.base + r.length]) - first >= size:
                    return r, first
        page = 2 * MIB if small else self.settings.large_segment_bytes
        length = max(self.capacity + self.capacity // 8, size)
        length = (length + page - 1) // page * page
        base = (self.next_address + page - 1) // page * page
        self.next_address = base + length
        self.ranges.append(Range(base, length, page, small, stream))
        return self.ranges[-1], base
