"""The documented rules as short histories, each with figures worked out by hand."""

from __future__ import annotations

import pytest

from peprof.estimation.allocator import CachingAllocator, NoRoomError
from peprof.estimation.allocator_settings import parse_allocator_settings

KIB, MIB = 2**10, 2**20


def pool_of(config: str = "", capacity: int | None = None, limit: int | None = None) -> CachingAllocator:
    return CachingAllocator(parse_allocator_settings(config), capacity_bytes=capacity, limit_bytes=limit)


def levels(pool: CachingAllocator) -> tuple[int, int, int]:
    """Allocated, reserved and inactive split bytes."""
    counters = pool.counters
    return counters.allocated_bytes, counters.reserved_bytes, counters.inactive_split_bytes


def test_small_blocks_share_a_segment_of_two_mebibytes() -> None:
    pool = pool_of()
    first, second = pool.allocate(1), pool.allocate(MIB)
    assert second.address == first.address + 512
    assert levels(pool) == (MIB + 512, 2 * MIB, MIB - 512)
    pool.allocate(MIB - 512)
    assert levels(pool) == (2 * MIB, 2 * MIB, 0)
    pool.allocate(1)
    assert pool.counters.reserved_bytes == 4 * MIB


def test_blocks_between_one_and_ten_mebibytes_share_segments_of_twenty() -> None:
    pool = pool_of()
    pool.allocate(MIB + 1)
    pool.allocate(9 * MIB)
    assert levels(pool) == (10 * MIB + 512, 20 * MIB, 10 * MIB - 512)
    pool.allocate(10 * MIB - 512)  # fits the rest, and would have had a segment of ten otherwise
    assert levels(pool) == (20 * MIB, 20 * MIB, 0)


def test_blocks_of_ten_mebibytes_and_more_have_segments_of_their_own() -> None:
    pool = pool_of()
    pool.allocate(10 * MIB)
    assert levels(pool) == (10 * MIB, 10 * MIB, 0)
    pool.allocate(11 * MIB - 100)  # a rest of one mebibyte stays in the block
    assert levels(pool) == (22 * MIB, 22 * MIB, 0)
    pool.allocate(11 * MIB - 512)  # a larger one is split off
    assert levels(pool) == (33 * MIB - 512, 34 * MIB, MIB + 512)
    assert pool.counters.requested_bytes == 10 * MIB + 11 * MIB - 100 + 11 * MIB - 512


def test_the_smallest_block_that_fits_is_taken_and_of_two_the_lower() -> None:
    pool = pool_of()
    blocks = [pool.allocate(size) for size in (14 * MIB, 12 * MIB, 16 * MIB, 12 * MIB)]
    for block in blocks:
        pool.free(block)
    assert pool.allocate(12 * MIB).address == blocks[1].address
    assert pool.allocate(12 * MIB).address == blocks[3].address
    assert pool.allocate(12 * MIB).address == blocks[0].address
    assert pool.counters.reserved_bytes == 54 * MIB


def test_neighbours_merge_when_freed_in_any_order() -> None:
    pool = pool_of()
    first, second, third = (pool.allocate(4 * MIB) for _ in range(3))
    pool.free(first)
    pool.free(third)
    assert levels(pool) == (4 * MIB, 20 * MIB, 16 * MIB)
    pool.free(second)
    assert levels(pool) == (0, 20 * MIB, 0)  # whole again, so it could go back
    assert pool.allocate(20 * MIB).address == first.address
    assert pool.counters.reserved_bytes == 20 * MIB


def test_streams_do_not_share_blocks() -> None:
    pool = pool_of()
    pool.free(pool.allocate(3 * MIB, stream=0))
    pool.allocate(3 * MIB, stream=1)
    assert pool.counters.reserved_bytes == 40 * MIB
    pool.allocate(3 * MIB, stream=0)
    assert pool.counters.reserved_bytes == 40 * MIB


def test_cached_segments_go_back_when_the_device_is_full_and_it_is_asked_once_more() -> None:
    pool = pool_of(capacity=40 * MIB)
    pool.free(pool.allocate(30 * MIB))
    kept = pool.allocate(1)
    pool.allocate(36 * MIB)
    assert levels(pool) == (36 * MIB + 512, 38 * MIB, 2 * MIB - 512)
    assert pool.counters.retries == 1
    with pytest.raises(NoRoomError) as caught:
        pool.allocate(3 * MIB)
    assert (caught.value.block_bytes, caught.value.segment_bytes) == (3 * MIB, 20 * MIB)
    assert pool.counters.retries == 2
    pool.free(kept)
    pool.empty_cache()
    assert levels(pool) == (36 * MIB, 36 * MIB, 0)


def test_a_segment_that_is_in_use_in_part_does_not_go_back() -> None:
    pool = pool_of(capacity=40 * MIB)
    first = pool.allocate(9 * MIB)
    pool.allocate(2 * MIB)
    pool.free(first)
    with pytest.raises(NoRoomError):
        pool.allocate(21 * MIB)
    assert levels(pool) == (2 * MIB, 20 * MIB, 18 * MIB)


def test_oversize_blocks_are_not_split_and_not_taken_for_less() -> None:
    pool = pool_of("max_split_size_mb:20")
    large = pool.allocate(30 * MIB)
    pool.free(large)
    pool.allocate(15 * MIB)  # has 16 with a rest of 1; doesn't take the free block of 30
    assert pool.counters.reserved_bytes == 46 * MIB
    assert pool.allocate(25 * MIB).size == 30 * MIB  # takes all of it
    assert levels(pool) == (46 * MIB, 46 * MIB, 0)


def test_a_request_takes_an_oversize_block_only_where_it_is_less_than_so_much_larger() -> None:
    pool = pool_of("max_split_size_mb:20,max_non_split_rounding_mb:20")
    pool.free(pool.allocate(50 * MIB))
    pool.allocate(30 * MIB)  # 50 is larger by 20
    assert pool.counters.reserved_bytes == 80 * MIB
    pool.allocate(30 * MIB + 512)
    assert pool.counters.reserved_bytes == 80 * MIB


def test_oversize_blocks_go_back_before_all_others_and_without_a_retry() -> None:
    pool = pool_of("max_split_size_mb:20", capacity=100 * MIB)
    for block in [pool.allocate(size * MIB) for size in (10, 24, 26)]:
        pool.free(block)
    pool.allocate(60 * MIB)  # no single block is enough: 26, then 24 (50 < 60), so at last all of them
    assert (pool.counters.reserved_bytes, pool.counters.retries) == (60 * MIB, 1)
    pool = pool_of("max_split_size_mb:20", capacity=100 * MIB)
    for block in [pool.allocate(size * MIB) for size in (10, 24, 60)]:
        pool.free(block)
    pool.allocate(39 * MIB)  # the block of 60 is larger by 21: given back, which is enough
    assert (pool.counters.reserved_bytes, pool.counters.retries) == (74 * MIB, 0)


def test_cached_segments_go_back_oldest_first_above_the_threshold() -> None:
    """Ages, in searches since they were freed: 3, 2 and 1, of which the mean is 2."""
    pool = pool_of("garbage_collection_threshold:0.5", limit=200 * MIB)
    blocks = [pool.allocate(40 * MIB), pool.allocate(42 * MIB), pool.allocate(44 * MIB)]
    pool.free(blocks[0])
    pool.free(pool.allocate(42 * MIB - 2 * MIB))  # takes the first again
    for block in blocks[1:]:
        pool.free(block)
    assert pool.counters.reserved_bytes == 126 * MIB
    pool.allocate(50 * MIB)  # 126 is above half of 200; all were freed at one search, so all go
    assert (pool.counters.reserved_bytes, pool.counters.retries) == (50 * MIB, 0)


def test_below_the_threshold_nothing_goes_back() -> None:
    pool = pool_of("garbage_collection_threshold:0.5", limit=200 * MIB)
    pool.free(pool.allocate(40 * MIB))
    pool.allocate(60 * MIB)
    assert pool.counters.reserved_bytes == 100 * MIB
    pool.allocate(12 * MIB)
    assert pool.counters.reserved_bytes == 100 * MIB  # taken from the cached 40


def test_of_cached_segments_the_recently_used_stay() -> None:
    pool = pool_of("garbage_collection_threshold:0.25", limit=200 * MIB)
    old, new = pool.allocate(40 * MIB), pool.allocate(30 * MIB)
    pool.free(old)  # at search 2
    held = pool.allocate(1)  # of the small pool, which isn't counted
    pool.free(new)
    new = pool.allocate(30 * MIB)  # search 3
    pool.free(new)
    pool.allocate(50 * MIB)  # search 4: ages 2 and 1, the mean is 1.5; 20 + 2 are to go, and 40 do
    assert held.size == 512
    assert pool.counters.reserved_bytes == 30 * MIB + 2 * MIB + 50 * MIB


def test_without_a_limit_nothing_goes_back_for_a_threshold() -> None:
    """CUDACachingAllocator.cpp of 2.11 and 2.13: garbage is collected where ``allowed_memory_maximum`` has a
    value, which only a memory fraction below 1 gives it; the threshold is a share of that.
    """
    for pool in (
        pool_of("garbage_collection_threshold:0.1"),
        pool_of("garbage_collection_threshold:0.1", capacity=200 * MIB),
        pool_of("garbage_collection_threshold:0.1,per_process_memory_fraction:1.0", capacity=200 * MIB),
    ):
        pool.free(pool.allocate(40 * MIB))
        pool.allocate(60 * MIB)
        assert (pool.counters.reserved_bytes, pool.counters.retries) == (100 * MIB, 0)


def test_a_fraction_of_the_device_is_a_limit_and_what_the_threshold_is_a_share_of() -> None:
    """Half of 240 MiB: 120, of which three quarters are 90, and half of the free 200 would have been 100."""
    config = "per_process_memory_fraction:0.5,garbage_collection_threshold:0.75"
    pool = CachingAllocator(
        parse_allocator_settings(config), capacity_bytes=200 * MIB, device_bytes=240 * MIB
    )
    pool.free(pool.allocate(40 * MIB))
    pool.allocate(50 * MIB)
    pool.allocate(12 * MIB)  # from the cached 40
    pool.allocate(28 * MIB)  # from what is left of it
    assert pool.counters.reserved_bytes == 90 * MIB
    pool.allocate(30 * MIB)
    assert (pool.counters.reserved_bytes, pool.counters.retries) == (120 * MIB, 0)
    with pytest.raises(NoRoomError):
        pool.allocate(10 * MIB)
    assert pool.counters.reserved_bytes == 120 * MIB


def test_a_pool_may_not_hold_more_than_its_limit_though_the_device_has_it() -> None:
    for config in ("", "expandable_segments:True"):
        pool = pool_of(config, capacity=200 * MIB, limit=100 * MIB)
        pool.free(pool.allocate(80 * MIB))
        pool.allocate(90 * MIB)
        assert pool.counters.reserved_bytes <= 100 * MIB
        with pytest.raises(NoRoomError):
            pool.allocate(20 * MIB)


def test_what_is_asked_for_must_lie_within_the_limit_but_pages_may_reach_beyond() -> None:
    """``alloc_block`` compares the rounded request with what is allowed, then maps pages of 20 MiB."""
    pool = pool_of("expandable_segments:True", limit=50 * MIB)
    pool.allocate(50 * MIB)
    assert pool.counters.reserved_bytes == 60 * MIB
    pool.allocate(10 * MIB)  # is there
    with pytest.raises(NoRoomError):
        pool.allocate(1)


def test_expandable_segments_grow_by_pages_of_two_and_of_twenty_mebibytes() -> None:
    pool = pool_of("expandable_segments:True", capacity=500 * MIB)
    pool.allocate(1)
    assert levels(pool) == (512, 2 * MIB, 0)
    pool.allocate(2 * MIB)
    assert levels(pool) == (2 * MIB + 512, 22 * MIB, 0)
    pool.allocate(30 * MIB)  # 18 are left of the page; 12 more need one more
    assert levels(pool) == (32 * MIB + 512, 42 * MIB, 0)
    pool.allocate(8 * MIB - 512)  # also of large blocks every rest is split off
    assert pool.allocate(512 * 2 * KIB + 512).size == MIB + 512
    assert pool.counters.reserved_bytes == 62 * MIB


def test_of_expandable_segments_whole_free_pages_go_back() -> None:
    pool = pool_of("expandable_segments:True", capacity=100 * MIB)
    first, second = pool.allocate(50 * MIB), pool.allocate(25 * MIB)
    assert pool.counters.reserved_bytes == 80 * MIB
    pool.free(first)
    pool.empty_cache()  # pages 0 and 1; the third is in use from 50 MiB on
    assert levels(pool) == (25 * MIB, 40 * MIB, 0)
    again = pool.allocate(45 * MIB)  # fills the gap, up to the free 10 MiB before the second
    assert again.address == first.address
    assert levels(pool) == (70 * MIB, 80 * MIB, 0)
    assert pool.counters.retries == 0
    pool.free(second)
    pool.free(again)
    pool.empty_cache()
    assert levels(pool) == (0, 0, 0)
    assert list(pool.segments()) == []


def test_fragments_that_break_fixed_segments_do_not_break_expandable_ones() -> None:
    """What expandable segments are for: pieces of each size are cached, and none is enough."""

    def ask(pool: CachingAllocator) -> None:
        for size in (30, 32, 34):
            pool.free(pool.allocate(size * MIB))
            pool.allocate(2 * MIB)

    fixed, expandable = pool_of(capacity=100 * MIB), pool_of("expandable_segments:True", capacity=100 * MIB)
    for pool in (fixed, expandable):
        ask(pool)
    with pytest.raises(NoRoomError):
        fixed.allocate(80 * MIB)
    expandable.allocate(80 * MIB)
    assert expandable.counters.reserved_bytes == 100 * MIB
