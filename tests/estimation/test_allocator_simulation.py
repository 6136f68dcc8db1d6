"""A step's log put through the allocator: phases, repeated steps, retries, running out, the ledger."""

from __future__ import annotations

import pytest
import torch

from peprof.estimation.allocator_settings import parse_allocator_settings
from peprof.estimation.allocator_simulation import (
    BEFORE_STEP,
    AllocationEvent,
    PoolLevels,
    Resident,
    events_of_log,
    residents_of_log,
    simulate,
)
from peprof.profiler.events import EventLog, spans_of
from peprof.profiler.ledger import Ledger
from tests.profiler.steps import MlpStep

KIB, MIB = 2**10, 2**20


def log(*steps: tuple[str, int, int]) -> list[AllocationEvent]:
    return [AllocationEvent(number, change, phase) for phase, number, change in steps]


STEP = log(
    ("forward", 1, 12 * MIB),
    ("forward", 2, 3 * MIB),
    ("backward", 3, 5 * MIB),
    ("backward", 1, -12 * MIB),
    ("backward", 2, -3 * MIB),
    ("optimizer", 4, 1),
    ("optimizer", 4, -1),
    ("optimizer", 3, -5 * MIB),
)


def test_peaks_by_phase_are_those_worked_out_by_hand() -> None:
    found = simulate(STEP, resident=[Resident(0, 100)])
    assert list(found.phases) == ["forward", "backward", "optimizer"]
    forward, backward, optimizer = found.phases.values()
    assert forward == PoolLevels(
        allocated_bytes=15 * MIB + 512,
        requested_bytes=15 * MIB + 100,
        reserved_bytes=2 * MIB + 12 * MIB + 20 * MIB,
        # the 17 MiB beside the smaller one, and what is left of the small segment
        inactive_split_bytes=17 * MIB + 2 * MIB - 512,
    )
    assert backward.allocated_bytes == 20 * MIB + 512
    assert optimizer.requested_bytes == 5 * MIB + 101
    assert optimizer.allocated_bytes == 5 * MIB + 1024
    assert found.peak == forward.highest(backward).highest(optimizer)
    assert found.end == PoolLevels(
        allocated_bytes=512,
        requested_bytes=100,
        reserved_bytes=34 * MIB,
        inactive_split_bytes=2 * MIB - 512,
    )
    assert found.peak.active_bytes == found.peak.allocated_bytes
    assert (found.steps, found.retries, found.all_retries, found.out_of_memory) == (2, 0, 0, None)
    assert found.settled


def test_a_phase_that_comes_twice_has_its_highest_values_and_the_level_at_its_beginning_counts() -> None:
    found = simulate(
        log(("a", 1, 512), ("b", 2, 1024), ("a", 3, 512), ("a", 3, -512), ("b", 2, -1024), ("c", 1, -512))
    )
    assert {phase: levels.allocated_bytes for phase, levels in found.phases.items()} == {
        "a": 2048, "b": 1536, "c": 512,
    }  # fmt: skip


def test_the_first_step_asks_for_what_later_ones_have() -> None:
    """In the first, the large block doesn't find room beside the small one; later it lies where it lay."""
    step = log(("f", 1, 12 * MIB), ("f", 1, -12 * MIB), ("b", 2, 30 * MIB), ("b", 2, -30 * MIB))
    first = simulate(step, repeat=1)
    assert first.phases["f"].reserved_bytes == 12 * MIB
    assert (first.steps, first.settled) == (1, False)
    later = simulate(step, repeat=9)
    assert (later.steps, later.settled) == (2, True)
    assert later.phases["f"].reserved_bytes == later.peak.reserved_bytes == 42 * MIB
    assert later.first_step_peak == first.peak


def test_gradients_of_the_last_step_go_where_new_ones_come() -> None:
    """0 is the gradient from before, freed when gradients are set to none; 1 is the new one, which stays."""
    step = log(("forward", 0, -4 * MIB), ("backward", 1, 4 * MIB))
    found = simulate(step, resident=[Resident(0, 4 * MIB)], repeat=5)
    assert found.end.allocated_bytes == found.peak.allocated_bytes == 4 * MIB
    assert found.peak.reserved_bytes == 20 * MIB


def test_an_optimizers_state_is_made_once_and_a_batch_anew_for_each_step() -> None:
    step = log(("forward", 0, -2048), ("optimizer", 7, 3 * MIB))
    found = simulate(step, resident=[Resident(0, 2048)], repeat=4)
    assert found.first_step_peak.allocated_bytes == 3 * MIB
    assert found.phases["forward"].allocated_bytes == 3 * MIB + 2048
    assert found.end.allocated_bytes == 3 * MIB


def test_what_needs_no_memory_is_no_block() -> None:
    found = simulate(log(("f", 1, 0), ("f", 2, 5)), resident=[Resident(0, 0)])
    assert found.peak.allocated_bytes == 512


def test_retries_of_the_last_step_and_of_all() -> None:
    """In 40 MiB: the first step has no room until the cached 30 MiB are given back; 36 hold both later."""
    step = log(("a", 1, 30 * MIB), ("a", 1, -30 * MIB), ("b", 2, 36 * MIB), ("b", 2, -36 * MIB))
    found = simulate(step, capacity_bytes=40 * MIB, repeat=3)
    assert (found.retries, found.all_retries) == (0, 1)
    assert found.peak.reserved_bytes == 36 * MIB


def test_a_step_that_needs_a_retry_each_time_never_comes_to_rest() -> None:
    """24 MiB may not come from the cached 50, nor 50 from the 24, and there is room for one of them only."""
    step = log(("a", 1, 24 * MIB), ("a", 1, -24 * MIB), ("b", 2, 50 * MIB), ("b", 2, -50 * MIB))
    found = simulate(
        step, config=parse_allocator_settings("max_split_size_mb:20"), capacity_bytes=60 * MIB, repeat=3
    )
    assert (found.retries, found.all_retries, found.steps, found.settled) == (1, 3, 3, False)


def test_blocks_that_are_kept_whole_make_each_step_ask_for_more() -> None:
    """The least max_split_size_mb that torch takes is a segment's: 1 MiB + 1 B never gets one again."""
    step = log(("a", 1, MIB + 1), ("a", 1, -MIB - 1))
    config = parse_allocator_settings("max_split_size_mb:20")
    found = simulate(step, config=config, repeat=6)
    assert (found.peak.reserved_bytes, found.settled) == (6 * 20 * MIB, False)
    assert simulate(step, config=parse_allocator_settings("max_split_size_mb:21")).steps == 2


def test_running_out_says_where_and_of_what() -> None:
    found = simulate(STEP, resident=[Resident(0, 100)], capacity_bytes=30 * MIB, repeat=3)
    ran_out = found.out_of_memory
    assert ran_out is not None
    assert (ran_out.step, ran_out.phase, ran_out.event, ran_out.allocation) == (1, "forward", 1, 2)
    assert (ran_out.requested_bytes, ran_out.segment_bytes) == (3 * MIB, 20 * MIB)
    assert ran_out.levels.reserved_bytes == 14 * MIB
    assert (found.steps, found.retries) == (1, 1)
    assert list(found.phases) == ["forward"]
    assert found.peak.allocated_bytes == 12 * MIB + 512


def test_running_out_before_the_step() -> None:
    found = simulate(STEP, resident=[Resident(0, 100 * MIB)], capacity_bytes=30 * MIB)
    assert found.out_of_memory is not None
    assert (found.out_of_memory.phase, found.out_of_memory.requested_bytes) == (BEFORE_STEP, 100 * MIB)
    assert found.peak.reserved_bytes == 0


def test_settings_reach_the_allocator() -> None:
    found = simulate(STEP, config=parse_allocator_settings("expandable_segments:True"))
    assert found.peak.reserved_bytes == 20 * MIB + 2 * MIB
    assert found.peak.inactive_split_bytes == 0


def test_logs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="1 is born twice"):
        simulate(log(("f", 1, 5), ("f", 1, 5)))
    with pytest.raises(ValueError, match="0 is born twice"):
        simulate(log(("f", 0, 5)), resident=[Resident(0, 5)])
    with pytest.raises(ValueError, match="9 dies without having been there"):
        simulate(log(("f", 9, -5)))
    with pytest.raises(ValueError, match="expected 1 or more"):
        simulate([], repeat=0)


def test_without_events_there_is_what_there_was() -> None:
    found = simulate([], resident=[Resident(0, 5 * MIB)])
    assert found.peak.reserved_bytes == 20 * MIB
    assert found.phases == {}


def test_the_ledgers_log_is_read_with_its_phases() -> None:
    book = EventLog(sizes=[100, 0, 3 * MIB, 512], resident=[0, 1], events=[2, ~0, 3, ~2])
    spans = spans_of([(1, "forward"), (3, "backward")], 4, before="other")
    assert residents_of_log(book) == [Resident(0, 100)]
    assert events_of_log(book, spans) == [
        AllocationEvent(2, 3 * MIB, "other"),
        AllocationEvent(0, -100, "forward"),
        AllocationEvent(3, 512, "forward"),
        AllocationEvent(2, -3 * MIB, "backward"),
    ]
    found = simulate(events_of_log(book, spans), resident=residents_of_log(book), repeat=1)
    assert found.peak.requested_bytes == max(book.levels())


@pytest.mark.parametrize("adam", [False, True])
def test_a_ledgers_step_asks_for_what_the_ledger_counted(adam: bool) -> None:
    """And the weights of 64 x 300 and 300 x 10, with their states, are blocks of multiples of 512."""
    step = MlpStep(64, 300, 10, adam=adam)
    batch = torch.randn(32, 64)
    step(batch)
    with Ledger(step.model, optimizers=[step.optimizer], inputs=batch) as ledger:
        step(batch, ledger.mark)
    book = ledger.book.log
    events = events_of_log(book, spans_of(ledger.phases.marked_edges, len(book.events), before="other"))
    found = simulate(events, resident=residents_of_log(book), repeat=1)
    assert found.peak.requested_bytes == max(book.levels())
    assert [phase for phase in found.phases if phase != "other"] == ["forward", "backward", "optimizer"]
    assert found.end.requested_bytes == book.levels()[-1] == book.start_bytes
    weights = [76_800, 1_536, 12_288, 512]  # of 76,800, 1,200, 12,000 and 40 bytes
    steps = 4 * 512 if adam else 0  # a counter for each
    assert found.end.allocated_bytes == sum(weights) * (3 if adam else 1) + steps + 32 * 64 * 4
    settled = simulate(events, resident=residents_of_log(book))
    assert settled.settled
    assert settled.peak.requested_bytes == found.peak.requested_bytes
