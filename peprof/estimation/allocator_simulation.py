"""A training step's log of allocations put through the simulated allocator, until it is in its steady state.

A first step asks the device for segments, and a second one may again, as blocks come to lie elsewhere; what
is reserved once a step asks for none is what stays. The log of one step is therefore run until it does, and
what is told is the last run.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from peprof.estimation.allocator import CachingAllocator, NoRoomError
from peprof.estimation.allocator_pools import Block
from peprof.estimation.allocator_settings import AllocatorSettings
from peprof.profiler.events import EventLog, Span

BEFORE_STEP = "before the step"
"""The phase of what is there before the first event."""


class AllocationEvent(NamedTuple):
    """An allocation's birth or death.

    Args:
        allocation: its number, which no other has.
        change_bytes: what was asked for; negative at its death, 0 for what needs no memory.
        phase: of the step.
        stream: of the device.
    """

    allocation: int
    change_bytes: int
    phase: str
    stream: int = 0


class Resident(NamedTuple):
    """An allocation that is there before the step: a weight, a workspace, an input.

    Args:
        allocation: its number, which no other has.
        requested_bytes: what was asked for.
        stream: of the device.
    """

    allocation: int
    requested_bytes: int
    stream: int = 0


@dataclass(frozen=True, kw_only=True)
class PoolLevels:
    """The allocator's counters at a moment, or the highest value of each in a time.

    Args:
        allocated_bytes: blocks in use, whole.
        requested_bytes: what was asked for of them.
        reserved_bytes: held from the device.
        inactive_split_bytes: free, in segments that can't go back as others use them.
    """

    allocated_bytes: int = 0
    requested_bytes: int = 0
    reserved_bytes: int = 0
    inactive_split_bytes: int = 0

    @property
    def active_bytes(self) -> int:
        """In use, or used by another stream after their death; a log of births and deaths knows no such."""
        return self.allocated_bytes

    def highest(self, other: PoolLevels) -> PoolLevels:
        """Of each counter the higher value."""
        return PoolLevels(
            allocated_bytes=max(self.allocated_bytes, other.allocated_bytes),
            requested_bytes=max(self.requested_bytes, other.requested_bytes),
            reserved_bytes=max(self.reserved_bytes, other.reserved_bytes),
            inactive_split_bytes=max(self.inactive_split_bytes, other.inactive_split_bytes),
        )


@dataclass(frozen=True, kw_only=True)
class SimulatedOutOfMemory:
    """Where the device had no room left.

    Args:
        step: the how-manieth, from 1.
        phase: of that step.
        event: how many events of that step came before.
        allocation: its number.
        requested_bytes: what was asked for.
        segment_bytes: what the device was asked for.
        levels: when it happened; what was cached had been given back.
    """

    step: int
    phase: str
    event: int
    allocation: int
    requested_bytes: int
    segment_bytes: int
    levels: PoolLevels


@dataclass(frozen=True, kw_only=True)
class SimulatedMemory:
    """What the allocator would count in a step.

    Args:
        peak: the highest values in the last step, or in what there was of it.
        phases: the highest values in each of its phases, in the order in which they were first entered.
        end: after it.
        first_step_peak: the highest values in the first step, in which the pool grew.
        steps: that were run.
        settled: whether the last one asked the device for nothing, so that further ones would be as it was.
        retries: times that the pool was emptied to find room in the last step.
        all_retries: in all steps; a first step may need some that later ones don't.
        out_of_memory: ``None`` where there was room.
    """

    peak: PoolLevels
    phases: Mapping[str, PoolLevels]
    end: PoolLevels
    first_step_peak: PoolLevels
    steps: int
    settled: bool
    retries: int
    all_retries: int
    out_of_memory: SimulatedOutOfMemory | None


def simulate(
    events: Iterable[AllocationEvent],
    *,
    resident: Iterable[Resident] = (),
    config: AllocatorSettings | None = None,
    capacity_bytes: int | None = None,
    limit_bytes: int | None = None,
    device_bytes: int | None = None,
    repeat: int = 8,
) -> SimulatedMemory:
    """Runs the log of a step through the allocator.

    From the second step on, what was born in the one before and survived it takes the place of what dies
    without a birth, by its bytes: last step's gradients, say. What has no such successor, as a batch has
    none, is asked for anew before each step; and what survives without ever dying, as an optimizer's state
    that its first step makes, is made once.

    Args:
        events: of one step, in order.
        resident: what is there before it, in the order in which it was asked for.
        config: the allocator's settings; torch's own unless given.
        capacity_bytes: what the device has for the pool; ``None`` for as much as it likes.
        limit_bytes: what the pool may hold at most, as a memory fraction below 1 sets it, which garbage
            collection goes by; ``None`` for what the settings make of the device's memory, if they limit it.
        device_bytes: the device's whole memory; ``capacity_bytes`` unless given.
        repeat: how many steps to run at most, 1 or more; none follows one that asked the device for nothing.

    Raises:
        ValueError: an allocation is born twice, or dies without having been there.

    Example:
        >>> step = [AllocationEvent(1, 3_000_000, "forward"), AllocationEvent(1, -3_000_000, "backward")]
        >>> simulate(step).peak.reserved_bytes
        20971520
    """
    if repeat < 1:
        raise ValueError(f"repeat: {repeat} steps can't be run; expected 1 or more")
    pool = CachingAllocator(
        config, capacity_bytes=capacity_bytes, limit_bytes=limit_bytes, device_bytes=device_bytes
    )
    return _Simulation(pool, list(events), list(resident)).run(repeat)


def events_of_log(log: EventLog, spans: Iterable[Span]) -> list[AllocationEvent]:
    """The ledger's log of a step as events.

    Args:
        log: births and deaths of storages, which each need one allocation.
        spans: its phases, which cover it.
    """
    sizes = log.sizes
    return [
        AllocationEvent(event, sizes[event], span.phase)
        if event >= 0
        else AllocationEvent(~event, -sizes[~event], span.phase)
        for span in spans
        for event in log.events[span.first : span.last]
    ]


def residents_of_log(log: EventLog) -> list[Resident]:
    """What was there before a step, by the ledger's log: in the order in which the ledger met it."""
    return [Resident(number, log.sizes[number]) for number in log.resident if log.sizes[number]]


@dataclass
class _Turnover:
    """What takes whose place from one step to the next.

    Args:
        successors: of what dies without a birth, by its number, what survives its birth.
        renewed: what dies without a birth and has no successor.
    """

    successors: dict[int, int] = field(default_factory=dict)
    renewed: list[Resident] = field(default_factory=list)


def _turnover(events: Sequence[AllocationEvent], resident: Sequence[Resident]) -> _Turnover:
    there = {item.allocation: item for item in resident}
    born: dict[int, AllocationEvent] = {}
    died: list[Resident] = []
    for event in events:
        if event.change_bytes > 0:
            if event.allocation in born or event.allocation in there:
                raise ValueError(f"allocation {event.allocation} is born twice")
            born[event.allocation] = event
        elif event.change_bytes < 0 and born.pop(event.allocation, None) is None:
            if event.allocation not in there:
                raise ValueError(f"allocation {event.allocation} dies without having been there")
            died.append(there.pop(event.allocation))
    survivors: defaultdict[tuple[int, int], deque[int]] = defaultdict(deque)
    for event in born.values():
        survivors[event.change_bytes, event.stream].append(event.allocation)
    found = _Turnover()
    for item in died:
        candidates = survivors[item.requested_bytes, item.stream]
        if candidates:
            found.successors[item.allocation] = candidates.popleft()
        else:
            found.renewed.append(item)
    return found


class _Simulation:
    def __init__(
        self, pool: CachingAllocator, events: list[AllocationEvent], resident: list[Resident]
    ) -> None:
        self._pool = pool
        self._events = events
        self._resident = resident
        self._turnover = _turnover(events, resident)
        self._live: dict[int, Block] = {}
        self._phases: dict[str, PoolLevels] = {}
        self._ran_out: SimulatedOutOfMemory | None = None

    def run(self, steps: int) -> SimulatedMemory:
        counters = self._pool.counters
        step = retries = asked = 0
        first_peak: PoolLevels | None = None
        while step < steps and self._ran_out is None and (step < 2 or counters.device_requests > asked):
            step, retries, asked = step + 1, counters.retries, counters.device_requests
            self._phases = {}
            if self._place(step):
                self._step(step)
            first_peak = first_peak or self._peak()
        peak = self._peak()
        return SimulatedMemory(
            peak=peak,
            phases=self._phases,
            end=self._now(),
            first_step_peak=first_peak or peak,
            steps=step,
            settled=step > 1 and self._ran_out is None and counters.device_requests == asked,
            retries=counters.retries - retries,
            all_retries=counters.retries,
            out_of_memory=self._ran_out,
        )

    def _place(self, step: int) -> bool:
        """Puts in place what is there before a step; whether there was room."""
        if step > 1:
            for gone, successor in self._turnover.successors.items():
                self._live[gone] = self._live.pop(successor)
        for item in self._resident if step == 1 else self._turnover.renewed:
            if not item.requested_bytes:
                continue
            try:
                block = self._pool.allocate(item.requested_bytes, item.stream)
            except NoRoomError as error:
                self._phases[BEFORE_STEP] = self._now()
                self._note(error, step, 0, AllocationEvent(*item[:2], BEFORE_STEP))
                return False
            self._live[item.allocation] = block
        return True

    def _step(self, step: int) -> None:
        """One run through the events; the phases' highest values are kept as the allocator would."""
        position = 0
        while position < len(self._events) and self._ran_out is None:
            position = self._phase(step, position)

    def _phase(self, step: int, position: int) -> int:
        """Runs the events of one phase, up to the next; returns where that begins."""
        events, live, counters = self._events, self._live, self._pool.counters
        allocate, free = self._pool.allocate, self._pool.free
        phase = events[position].phase
        counters.peak_reserved_bytes = counters.reserved_bytes
        allocated, requested = counters.allocated_bytes, counters.requested_bytes
        inactive = counters.inactive_split_bytes
        for position in range(position, len(events)):  # noqa: B020 - goes on from where it is
            allocation, change, this_phase, stream = events[position]
            if this_phase != phase:
                break
            if change > 0:
                if allocation in live:
                    continue  # made once, by an earlier step
                try:
                    live[allocation] = allocate(change, stream)
                except NoRoomError as error:
                    self._note(error, step, position, events[position])
                    break
                if counters.allocated_bytes > allocated:
                    allocated = counters.allocated_bytes
                if counters.requested_bytes > requested:
                    requested = counters.requested_bytes
            elif change:
                free(live.pop(allocation))
            if counters.inactive_split_bytes > inactive:
                inactive = counters.inactive_split_bytes
        else:
            position = len(events)
        levels = PoolLevels(
            allocated_bytes=allocated,
            requested_bytes=requested,
            reserved_bytes=counters.peak_reserved_bytes,
            inactive_split_bytes=inactive,
        )
        self._phases[phase] = self._phases.get(phase, levels).highest(levels)
        return position

    def _note(self, error: NoRoomError, step: int, position: int, event: AllocationEvent) -> None:
        self._ran_out = SimulatedOutOfMemory(
            step=step,
            phase=event.phase,
            event=position,
            allocation=event.allocation,
            requested_bytes=event.change_bytes,
            segment_bytes=error.segment_bytes,
            levels=self._now(),
        )

    def _now(self) -> PoolLevels:
        counters = self._pool.counters
        return PoolLevels(
            allocated_bytes=counters.allocated_bytes,
            requested_bytes=counters.requested_bytes,
            reserved_bytes=counters.reserved_bytes,
            inactive_split_bytes=counters.inactive_split_bytes,
        )

    def _peak(self) -> PoolLevels:
        """The highest values of the step's phases; without events, what is there."""
        peak = PoolLevels() if self._phases else self._now()
        for levels in self._phases.values():
            peak = peak.highest(levels)
        return peak
