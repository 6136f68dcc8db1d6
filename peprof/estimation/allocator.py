"""torch's CUDA caching allocator, simulated: what would be reserved, and whether it would be enough.

After c10/cuda/CUDACachingAllocator.cpp of torch 2.11 to 2.13: two pools for each stream, small blocks (up to
1 MiB) and large ones. A request takes the smallest free block that holds it, the one at the lowest address if
there are several, and what it doesn't need of that is split off where it is worth it. Where no block will do,
the device is asked for a segment; where it has no room, cached segments go back to it and it is asked again.
Freed blocks merge with their free neighbours.

What the simulation can't know is where the device puts segments: it takes them to lie in the order in which
they were asked for. That decides only among free blocks of one size.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from peprof.estimation.allocator_pools import Block, Counters, Pool
from peprof.estimation.allocator_settings import AllocatorSettings
from peprof.gpus.blocks import (
    MINIMUM_BLOCK_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    is_split_off,
    rounded_bytes,
    rounded_to_divisions,
    segment_bytes,
)

_FIRST_ADDRESS = 1 << 40
_UNLIMITED_BYTES = 1 << 50


class NoRoomError(Exception):
    """The device has no room for a segment, also after all cached ones were given back.

    Args:
        block_bytes: the block that was wanted.
        segment_bytes: what the device was asked for.
    """

    def __init__(self, block_bytes: int, segment_bytes: int) -> None:
        super().__init__(f"no room for {segment_bytes} bytes")
        self.block_bytes = block_bytes
        self.segment_bytes = segment_bytes


class CachingAllocator:
    """One device's pool.

    Args:
        settings: as PYTORCH_CUDA_ALLOC_CONF sets them.
        capacity_bytes: what the device has for the pool; ``None`` for as much as it likes.
        limit_bytes: what the pool may hold at most, as ``set_per_process_memory_fraction`` sets it, and what
            ``garbage_collection_threshold`` is a share of; ``None``: as the settings limit the process, if
            they do and the device's memory is given.
        device_bytes: the device's whole memory; ``capacity_bytes`` unless given.

    Example:
        >>> pool = CachingAllocator()
        >>> block = pool.allocate(3_000_000)
        >>> block.size, pool.counters.reserved_bytes
        (3000320, 20971520)
    """

    def __init__(
        self,
        settings: AllocatorSettings | None = None,
        *,
        capacity_bytes: int | None = None,
        limit_bytes: int | None = None,
        device_bytes: int | None = None,
    ) -> None:
        self.settings = settings or AllocatorSettings()
        self.counters = Counters()
        known_bytes = capacity_bytes if device_bytes is None else device_bytes
        if limit_bytes is None and known_bytes is not None:
            limit_bytes = self.settings.limit_bytes(known_bytes)
        self._capacity_bytes = _UNLIMITED_BYTES if capacity_bytes is None else capacity_bytes
        self._limit_bytes = limit_bytes
        self._device_bytes = _UNLIMITED_BYTES if known_bytes is None else known_bytes
        self._pools: dict[tuple[int, bool], Pool] = {}
        self._next_address = _FIRST_ADDRESS
        self._max_split_bytes = self.settings.max_split_size_bytes
        self._large_searches = 0
        self._rounds_up = any(count > 1 for count in self.settings.roundup_power2_divisions)

    # -- asking and freeing -------------------------------------------------------------------------

    def allocate(self, requested_bytes: int, stream: int = 0) -> Block:
        """Hands out a block.

        Args:
            requested_bytes: more than 0; torch asks for no block where there are no bytes.
            stream: whose it is; blocks of one aren't used for another.

        Raises:
            NoRoomError: there is no room; what was cached has been given back.
        """
        size = self._rounded(requested_bytes)
        small = size <= SMALL_BYTES
        pool = self._pools.get((stream, small)) or self._new_pool(stream, small)
        block = self._fitting(pool, size) or self._from_device(pool, size)
        rest = block.size - size
        if rest and self._splits(rest, size, small):
            self._split(block, size)
        elif not block.expandable and (block.previous is not None or block.next is not None):
            self.counters.inactive_split_bytes -= block.size
        block.free = False
        block.requested = requested_bytes
        counters = self.counters
        counters.allocated_bytes += block.size
        counters.requested_bytes += requested_bytes
        return block

    def free(self, block: Block) -> None:
        """Takes a block back; it merges with free neighbours."""
        counters = self.counters
        counters.allocated_bytes -= block.size
        counters.requested_bytes -= block.requested
        block.free = True
        merged = self._merge(block, block.previous) + self._merge(block, block.next)
        if not block.expandable:
            counters.inactive_split_bytes -= merged
            if block.previous is not None or block.next is not None:
                counters.inactive_split_bytes += block.size
        block.since = self._large_searches
        insort(block.pool.blocks, (block.size, block.address, block))

    def empty_cache(self) -> None:
        """Gives back to the device all that isn't in use: whole segments, or whole pages."""
        for pool in self._pools.values():
            for _, _, block in list(pool.blocks):
                if block.expandable:
                    self._unmap(block)
                elif block.previous is None and block.next is None:
                    self._release(block)

    def segments(self) -> Iterator[Block]:
        """The first block of each segment; the others follow by ``next``."""
        for pool in self._pools.values():
            yield from pool.heads

    # -- blocks -------------------------------------------------------------------------------------

    def _rounded(self, requested_bytes: int) -> int:
        if self._rounds_up:
            return rounded_to_divisions(requested_bytes, self.settings.divisions_of(requested_bytes))
        return rounded_bytes(requested_bytes)

    def _new_pool(self, stream: int, small: bool) -> Pool:
        page = SMALL_SEGMENT_BYTES if small else self.settings.large_segment_bytes
        self._pools[stream, small] = pool = Pool(stream=stream, small=small, page_bytes=page)
        return pool

    def _fitting(self, pool: Pool, size: int) -> Block | None:
        """The best free block, which is free no more."""
        if not pool.small:
            self._large_searches += 1
        blocks = pool.blocks
        index = bisect_left(blocks, (size,))
        if index == len(blocks):
            return None
        if self.settings.expandable_segments:
            index = _least_expandable(blocks, index)
        limit = self._max_split_bytes
        if limit is not None:
            found = blocks[index][0]
            too_large = size + self.settings.max_non_split_rounding_bytes
            if found >= limit if size < limit else found >= too_large:
                return None
        return blocks.pop(index)[2]

    def _splits(self, rest: int, size: int, small: bool) -> bool:
        if self.settings.expandable_segments:
            return rest >= MINIMUM_BLOCK_BYTES
        limit = self._max_split_bytes
        return is_split_off(rest, small=small) and (small or limit is None or size < limit)

    def _split(self, block: Block, size: int) -> None:
        """The upper part of a block becomes a free one."""
        rest = block.cut(size)
        rest.since = self._large_searches
        insort(block.pool.blocks, (rest.size, rest.address, rest))
        if not block.expandable:
            was_split = block.previous is not None or rest.next is not None
            self.counters.inactive_split_bytes += -size if was_split else rest.size

    def _merge(self, block: Block, other: Block | None) -> int:
        """Takes up a neighbour that is free as well; returns its bytes."""
        if other is None or not other.free or other.mapped is not block.mapped:
            return 0
        other.pool.remove(other)
        block.absorb(other)
        return other.size

    # -- the device ---------------------------------------------------------------------------------

    def _from_device(self, pool: Pool, size: int) -> Block:
        """A block that the device was asked for, at last by giving back what is cached."""
        asked = segment_bytes(size, large_segment_bytes=self.settings.large_segment_bytes)
        if self._limit_bytes is not None and self.settings.garbage_collection_threshold is not None:
            self._collect_garbage(int(self.settings.garbage_collection_threshold * self._limit_bytes))
        block = self._grown(pool, size, asked)
        if block is None and self._release_some(pool, size):
            block = self._grown(pool, size, asked)
        if block is None:
            self.empty_cache()
            self.counters.retries += 1
            block = self._grown(pool, size, asked)
        if block is None:
            raise NoRoomError(size, asked)
        return block

    def _grown(self, pool: Pool, size: int, asked: int) -> Block | None:
        if self._limit_bytes is not None and self.counters.reserved_bytes + asked > self._limit_bytes:
            return None  # also of expandable segments, which may need less
        if self.settings.expandable_segments:
            return self._expanded(pool, size)
        if self.counters.reserved_bytes + asked > self._capacity_bytes:
            return None
        block = Block(pool, self._next_address, asked)
        self._next_address += asked
        pool.heads[block] = None
        self.counters.reserve(asked)
        return block

    def _release(self, block: Block) -> None:
        """Gives a cached segment back."""
        block.pool.remove(block)
        del block.pool.heads[block]
        self.counters.reserved_bytes -= block.size

    def _release_some(self, pool: Pool, size: int) -> bool:
        """Gives back segments that aren't split, as many as are needed; or says that that isn't enough."""
        limit = self._max_split_bytes
        if limit is None or self.settings.expandable_segments:
            return False
        needed = max(size, limit)
        index = bisect_left(pool.blocks, (needed,))
        if index < len(pool.blocks):
            self._release(pool.blocks[index][2])
            return True
        released = 0
        while pool.blocks and released < needed and pool.blocks[-1][0] >= limit:
            released += pool.blocks[-1][0]
            self._release(pool.blocks[-1][2])
        return released >= needed

    def _collect_garbage(self, enough_bytes: int) -> None:
        """Gives back cached large segments, those first that weren't used for longest."""
        target = self.counters.reserved_bytes - enough_bytes
        if target <= 0 or self.settings.expandable_segments:
            return
        cached = [
            block
            for pool in self._pools.values()
            if not pool.small
            for _, _, block in pool.blocks
            if block.previous is None and block.next is None
        ]
        reclaimed = 0
        while cached and reclaimed < target:
            ages = {block: self._large_searches - block.since for block in cached}
            middle = sum(ages.values()) / len(ages)
            for block in [block for block in cached if ages[block] >= middle]:
                reclaimed += block.size
                self._release(block)
            cached = [block for block in cached if ages[block] < middle]

    # -- expandable segments ------------------------------------------------------------------------

    def _expanded(self, pool: Pool, size: int) -> Block | None:
        """A block at the lowest address that has room for it once pages are added."""
        block = self._expandable(pool, size)
        if not block.mapped and not self._map(block, min(block.size, size)):
            return None
        while block.size < size:
            following = block.next
            assert following is not None  # there is room, of which this is the part without pages
            if not self._map(following, min(size - block.size, following.size)):
                return None
            block = following
        pool.remove(block)
        return block

    def _expandable(self, pool: Pool, size: int) -> Block:
        """Where to add pages: a range without pages, or the free block before one."""
        for _, unmapped in pool.unmapped:
            before = unmapped.previous
            first = before if before is not None and before.free else unmapped
            room, block = 0, first
            while block is not None and block.free and room < size:
                room += block.size
                block = block.next  # type: ignore[assignment]
            if room >= size:
                return first
        whole = self._device_bytes + self._device_bytes // 8
        return self._new_range(pool, -(-max(whole, size) // pool.page_bytes) * pool.page_bytes)

    def _new_range(self, pool: Pool, size: int) -> Block:
        address = -(-self._next_address // pool.page_bytes) * pool.page_bytes
        self._next_address = address + size
        block = Block(pool, address, size, expandable=True, mapped=False)
        pool.heads[block] = None
        pool.add_unmapped(block)
        return block

    def _map(self, block: Block, size: int) -> bool:
        """Adds pages at the beginning of a range that has none, which becomes a free block."""
        mapped = -(-size // block.pool.page_bytes) * block.pool.page_bytes
        if self.counters.reserved_bytes + mapped > self._capacity_bytes:
            return False
        block.pool.remove(block)
        if mapped < block.size:
            block.pool.add_unmapped(block.cut(mapped))
        block.mapped = True
        self._merge(block, block.previous)
        self._merge(block, block.next)
        block.since = self._large_searches
        insort(block.pool.blocks, (block.size, block.address, block))
        self.counters.reserve(mapped)
        return True

    def _unmap(self, block: Block) -> None:
        """Gives back the pages that lie wholly in a free block."""
        page = block.pool.page_bytes
        first = -(-block.address // page) * page
        last = (block.address + block.size) // page * page
        if first >= last:
            return
        block.pool.remove(block)
        if first > block.address:
            before, block = block, block.cut(first - block.address)
            insort(before.pool.blocks, (before.size, before.address, before))
        if last < block.address + block.size:
            after = block.cut(last - block.address)
            insort(after.pool.blocks, (after.size, after.address, after))
        self.counters.reserved_bytes -= block.size
        block.mapped = False
        self._merge(block, block.previous)
        self._merge(block, block.next)
        block.pool.add_unmapped(block)
        if block.previous is None and block.next is None:
            block.pool.remove(block)
            del block.pool.heads[block]


def _least_expandable(blocks: list[tuple[int, int, Block]], index: int) -> int:
    """Of free blocks from an index on, the first that can't become larger than the next can."""
    while index + 1 < len(blocks) and blocks[index + 1][2].can_be() < blocks[index][2].can_be():
        index += 1
    return index
