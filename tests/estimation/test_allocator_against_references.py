"""The simulated allocator against two others on random histories: one written for the history's tests, and
one that keeps nothing but what is in use."""

from __future__ import annotations

import random

import pytest
import torch

from peprof.estimation.allocator import CachingAllocator, NoRoomError
from peprof.estimation.allocator_pools import Block
from peprof.estimation.allocator_settings import parse_allocator_settings
from tests.devices.fake_allocator import FakeAllocator
from tests.estimation.slow_allocator import SlowAllocator

KIB, MIB = 2**10, 2**20
SIZES = (1, 512, 513, 3000, 100 * KIB, MIB - 7, MIB, MIB + 1, 3 * MIB, 9 * MIB + 5, 11 * MIB, 33 * MIB + 1)
CONFIGS = (
    "",
    "max_split_size_mb:20",
    "max_split_size_mb:32,max_non_split_rounding_mb:24",
    "garbage_collection_threshold:0.4",
    "garbage_collection_threshold:0.6,max_split_size_mb:24",
    "roundup_power2_divisions:8",
    "roundup_power2_divisions:[1:2,4:0,>:4]",
    "large_segment_size_mb:12",
    "expandable_segments:True",
    "expandable_segments:True,max_split_size_mb:24",
    "expandable_segments:True,roundup_power2_divisions:4,large_segment_size_mb:14",
)


def test_counters_are_those_of_the_allocator_that_stands_in_for_torchs() -> None:
    """Also where memory runs out, and what it had to ask for twice."""
    for seed in range(12):
        capacity = 120 * MIB
        chance, fake = random.Random(seed), FakeAllocator(capacity=capacity)
        pool = CachingAllocator(capacity_bytes=capacity)
        live: list[tuple[int, Block]] = []
        ooms = 0
        for _ in range(300):
            what = chance.random()
            if what < 0.52 or not live:
                size = chance.choice(SIZES)
                try:
                    address = fake.malloc(size)
                except torch.OutOfMemoryError:
                    with pytest.raises(NoRoomError):
                        pool.allocate(size)
                    ooms += 1
                else:
                    live.append((address, pool.allocate(size)))
            elif what < 0.98:
                address, block = live.pop(chance.randrange(len(live)))
                fake.free(address)
                pool.free(block)
            else:
                fake.empty_cache()
                pool.empty_cache()
            counters = pool.counters
            assert fake.current["allocated_bytes"] == counters.allocated_bytes
            assert fake.current["requested_bytes"] == counters.requested_bytes
            assert fake.current["reserved_bytes"] == counters.reserved_bytes
            assert fake.current["inactive_split_bytes"] == counters.inactive_split_bytes
            assert fake.retries == counters.retries
        assert ooms == fake.ooms > 0


def follow(slow: SlowAllocator, fast: CachingAllocator, chance: random.Random, count: int) -> None:
    """Asks both for the same at random, and frees the same."""
    live: list[tuple[int, Block]] = []
    for _ in range(count):
        if chance.random() < 0.54 or not live:
            size, stream = chance.choice(SIZES), chance.choice((0, 0, 0, 7))
            try:
                address = slow.malloc(size, stream)
            except MemoryError:
                with pytest.raises(NoRoomError):
                    fast.allocate(size, stream)
            else:
                live.append((address, fast.allocate(size, stream)))
                assert live[-1][1].address == address
        else:
            address, block = live.pop(chance.randrange(len(live)))
            slow.free(address)
            fast.free(block)
        counters = fast.counters
        assert counters.reserved_bytes == slow.reserved <= slow.capacity
        assert counters.allocated_bytes == slow.allocated
        assert counters.requested_bytes == slow.requested
        assert counters.inactive_split_bytes == slow.inactive_split
        assert counters.retries == slow.retries


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_each_block_lies_where_the_slow_allocator_puts_it(config: str, limited: bool) -> None:
    """Where the device is full, and where the process may hold no more of a larger one: what is asked for
    must lie within the limit, but expandable segments take whole pages for it.
    """
    settings = parse_allocator_settings(config)
    page = settings.large_segment_bytes if limited and settings.expandable_segments else 0
    retries = 0
    for seed in range(24):
        room = (90 * MIB, 130 * MIB + 1, 220 * MIB)[seed % 3]
        capacity, limit = (room + 50 * MIB, room) if limited else (room, None)
        slow = SlowAllocator(settings, capacity, limit)
        fast = CachingAllocator(settings, capacity_bytes=capacity, limit_bytes=limit)
        follow(slow, fast, random.Random(seed), 200)
        assert slow.reserved <= room + page
        retries += slow.retries
    assert retries > 0
