"""The allocator's history replayed, against an allocator that counts for itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from peprof.devices.cuda_history import Recording
from peprof.profiler.history import join
from peprof.profiler.pool_replay import lifetimes
from tests.devices.fake_allocator import KIB, MIB, FakeAllocator

SIZES = (1, 512, 513, 3000, 100 * KIB, MIB - 7, MIB, MIB + 1, 3 * MIB, 9 * MIB + 5, 11 * MIB, 33 * MIB + 1)


def act(pool: FakeAllocator, chance: random.Random, live: list[int], waiting: list[int], count: int) -> None:
    """Asks and frees at random, also blocks that another stream still uses; at times empties the cache."""
    for _ in range(count):
        what = chance.random()
        if what < 0.5 or not live:
            live.append(pool.malloc(chance.choice(SIZES)))
        elif what < 0.85:
            pool.free(live.pop(chance.randrange(len(live))))
        elif what < 0.93:
            waiting.append(live.pop(chance.randrange(len(live))))
            pool.free(waiting[-1], awaiting=True)
        elif what < 0.98 and waiting:
            pool.complete(waiting.pop(0))
        else:
            pool.empty_cache()


def recorded(
    seed: int, before: int = 60, after: int = 200
) -> tuple[FakeAllocator, Recording, dict[str, Any]]:
    pool, chance = FakeAllocator(), random.Random(seed)
    live: list[int] = []
    waiting: list[int] = []
    act(pool, chance, live, waiting, before)
    pool.recording = True
    start = pool.snapshot()
    pool.reset_peaks()
    act(pool, chance, live, waiting, after)
    end = pool.snapshot()
    recording = Recording(
        segments=start["segments"],
        entries=end["device_traces"][0],
        peak_requested_bytes=pool.peak["requested_bytes"],
        peak_allocated_bytes=pool.peak["allocated_bytes"],
    )
    return pool, recording, end


@pytest.mark.parametrize("seed", range(12))
def test_blocks_have_the_sizes_that_the_allocator_gave_them(seed: int) -> None:
    _, recording, end = recorded(seed)
    blocks = lifetimes(recording.segments, recording.entries)
    length = len(recording.entries)
    found = {b.address: (b.requested_bytes, b.block_bytes) for b in blocks if b.completed == length}
    assert found == {
        b["address"]: (b["requested_size"], b["size"])
        for segment in end["segments"]
        for b in segment["blocks"]
        if b["state"] != "inactive"
    }
    assert {b.address for b in blocks if b.completed == length and b.freed < length} == {
        b["address"]
        for segment in end["segments"]
        for b in segment["blocks"]
        if b["state"] == "active_awaiting_free"
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_peaks_are_the_allocators_own_to_the_byte(seed: int) -> None:
    pool, recording, _ = recorded(seed)
    found = join(recording, [], [])
    for moment, counter in ((found.requested, "requested_bytes"), (found.allocated, "allocated_bytes")):
        assert moment.residual_bytes == 0
        assert moment.total_bytes == pool.peak[counter] == sum(moment.categories.values())
        assert set(moment.categories) <= {"held_before", "workspace:(between operators)", "rounding"}
    assert found.allocated.categories["rounding"] > 0
    assert "rounding" not in found.requested.categories


def segment(address: int, size: int, kind: str, blocks: list[tuple[int, int, int, str]], **more: Any) -> Any:
    return {
        "address": address,
        "total_size": size,
        "segment_type": kind,
        "is_expandable": False,
        "blocks": [
            {"address": a, "size": s, "requested_size": r, "state": state} for a, s, r, state in blocks
        ],
    } | more


def test_a_large_block_keeps_a_rest_of_a_mebibyte_and_a_small_one_none() -> None:
    """By hand: 20 MiB at 0, of which 1 MiB + 1 B less than all are asked for; 2 MiB at 2**30."""
    segments = [
        segment(0, 20 * MIB, "large", [(0, 20 * MIB, 0, "inactive")]),
        segment(2**30, 2 * MIB, "small", [(2**30, 2 * MIB, 0, "inactive")]),
    ]
    entries = [
        {"action": "alloc", "addr": 0, "size": 19 * MIB},  # the rest isn't more than 1 MiB
        {"action": "free_requested", "addr": 0, "size": 19 * MIB},
        {"action": "free_completed", "addr": 0, "size": 19 * MIB},
        {"action": "alloc", "addr": 0, "size": 19 * MIB - 512},
        {"action": "alloc", "addr": 2**30, "size": 1},
        {"action": "alloc", "addr": 2**30 + 512, "size": 2 * MIB - 513},
        {"action": "oom", "size": 2**50, "device_free": 0},
    ]
    assert [b.block_bytes for b in lifetimes(segments, entries)] == [
        20 * MIB, 19 * MIB - 512, 512, 2 * MIB - 512,
    ]  # fmt: skip


def test_expandable_segments_split_off_whatever_is_left() -> None:
    segments = [segment(0, 20 * MIB, "large", [(0, 20 * MIB, 0, "inactive")], is_expandable=True)]
    entries = [
        {"action": "alloc", "addr": 0, "size": 20 * MIB - 1000},
        {"action": "segment_map", "addr": 20 * MIB, "size": 20 * MIB},
        {"action": "alloc", "addr": 20 * MIB, "size": 30},
    ]
    assert [b.block_bytes for b in lifetimes(segments, entries)] == [20 * MIB - 512, 512]


def test_what_the_history_does_not_explain_is_not_hidden() -> None:
    """A counter that says more, or less, than the history: the difference has a line."""
    entries = [{"action": "alloc", "addr": 0, "size": 1000}]
    for counted, residual in ((1500, 500), (900, -100)):
        recording = Recording(
            segments=[], entries=entries, peak_requested_bytes=counted, peak_allocated_bytes=1024
        )
        found = join(recording, [], [])
        assert found.requested.total_bytes == counted
        assert found.requested.residual_bytes == found.requested.categories["unattributed"] == residual
        assert found.allocated.residual_bytes == 0
        assert found.allocated.categories == {"workspace:(between operators)": 1000, "rounding": 24}
