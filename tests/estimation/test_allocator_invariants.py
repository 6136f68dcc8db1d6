"""What holds after any history: blocks fill their segments, none lies over another, counters are sums."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("hypothesis", reason="of the extra dev")
from hypothesis import given, settings
from hypothesis import strategies as st

from peprof.estimation.allocator import CachingAllocator, NoRoomError
from peprof.estimation.allocator_pools import Block
from peprof.estimation.allocator_settings import AllocatorSettings
from peprof.estimation.allocator_simulation import AllocationEvent, simulate

MIB = 2**20
sizes = st.one_of(st.integers(1, 5000), st.integers(1, 2 * MIB), st.integers(MIB, 60 * MIB))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), sizes, st.integers(0, 1)), st.tuples(st.just("free"), st.integers(0))
    ),
    max_size=60,
)
configs = st.builds(
    AllocatorSettings,
    max_split_size_bytes=st.sampled_from([None, 20 * MIB, 32 * MIB]),
    garbage_collection_threshold=st.sampled_from([None, 0.3, 0.8]),
    roundup_power2_divisions=st.sampled_from([(0,) * 16, (4,) * 16, (1, 2, 4, 8) * 4]),
    expandable_segments=st.booleans(),
    large_segment_bytes=st.sampled_from([20 * MIB, 14 * MIB]),
    per_process_memory_fraction=st.sampled_from([1.0, 0.5]),
)


def blocks_of(pool: CachingAllocator) -> Iterator[Block]:
    for head in pool.segments():
        assert head.previous is None
        block: Block | None = head
        while block is not None:
            yield block
            if block.next is not None:
                assert block.next.previous is block
                assert block.next.address == block.address + block.size  # no gap, and none over another
                both_free = block.free and block.next.free
                assert not (both_free and block.mapped is block.next.mapped)  # or they would have merged
            block = block.next


def check(pool: CachingAllocator, live: list[Block], capacity: int) -> None:
    counters, blocks = pool.counters, list(blocks_of(pool))
    used = [block for block in blocks if not block.free]
    assert sorted(map(id, used)) == sorted(map(id, live))
    assert sum(block.size for block in blocks if block.mapped) == counters.reserved_bytes <= capacity
    assert sum(block.size for block in used) == counters.allocated_bytes <= counters.reserved_bytes
    assert sum(block.requested for block in used) == counters.requested_bytes <= counters.allocated_bytes
    split = [b for b in blocks if b.free and not b.expandable and (b.previous or b.next)]
    assert sum(block.size for block in split) == counters.inactive_split_bytes
    assert all(block.size % 512 == 0 and block.size >= block.requested for block in used)
    assert all(block.mapped for block in used)


@settings(max_examples=150, deadline=None)
@given(steps=steps, config=configs, capacity=st.sampled_from([70 * MIB, 200 * MIB + 3]))
def test_blocks_and_counters_after_any_history(
    steps: list[tuple[str, int, int]], config: AllocatorSettings, capacity: int
) -> None:
    pool = CachingAllocator(config, capacity_bytes=capacity)
    if config.per_process_memory_fraction < 1:  # of which pages may reach beyond
        page = config.large_segment_bytes if config.expandable_segments else 0
        capacity = min(capacity, int(capacity * config.per_process_memory_fraction) + page)
    live: list[Block] = []
    for step in steps:
        if step[0] == "ask":
            try:
                live.append(pool.allocate(step[1], step[2]))
            except NoRoomError:
                check(pool, live, capacity)
        elif live:
            pool.free(live.pop(step[1] % len(live)))
        check(pool, live, capacity)
    for block in live:
        pool.free(block)
    pool.empty_cache()
    check(pool, [], capacity)
    assert pool.counters.reserved_bytes == 0


@settings(max_examples=100, deadline=None)
@given(asked=st.lists(sizes, max_size=30), config=configs.filter(lambda c: c.max_split_size_bytes is None))
def test_steps_that_free_all_they_ask_for_come_to_rest(asked: list[int], config: AllocatorSettings) -> None:
    """They do where all blocks may be split; otherwise freed ones may be no use to smaller requests."""
    births = [AllocationEvent(number, size, "forward") for number, size in enumerate(asked)]
    deaths = [AllocationEvent(number, -size, "backward") for number, size in enumerate(asked)]
    found = simulate([*births, *deaths], config=config, repeat=12)
    assert found.settled
    assert found.peak.requested_bytes == found.first_step_peak.requested_bytes == sum(asked)
    assert found.peak.reserved_bytes >= found.first_step_peak.reserved_bytes
    assert found.end.allocated_bytes == 0
