"""What the CPU's allocator did in a step, told apart: what operators return, and what they hold inside.

A second opinion on the ledger that shares nothing with it: allocations come from the torch profiler's tree of
events, in which each lies in the operator that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from peprof.devices import Mark
from peprof.profiler.latency import garbage_collection_off

RANGE = "phase: "


@dataclass
class Phase:
    """Bytes in one phase, beyond those that lived before the step.

    Args:
        peak_bytes: all that the allocator gave.
        end_bytes: as much at the end.
        seen_peak_bytes: only what operators returned.
        seen_end_bytes: as much at the end.
    """

    peak_bytes: int = 0
    end_bytes: int = 0
    seen_peak_bytes: int = 0
    seen_end_bytes: int = 0


@dataclass
class Allocations:
    """What was found.

    Args:
        phases: by name.
        scratch: operator -> the most that one call of it held inside beyond what it found and left.
        unseen: event outside of all operators -> the most that lived at one time of what was made there.
    """

    phases: dict[str, Phase] = field(default_factory=dict)
    scratch: dict[str, int] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)


class _Names(TorchDispatchMode):
    """Notes the operators that are called below autograd: those that make tensors which somebody gets."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


class _Walk:
    """Replays the events in their order."""

    def __init__(self, operators: set[str]) -> None:
        self.found = Allocations()
        self._operators = operators
        self._phase: Phase | None = None
        self._level = self._seen = 0
        self._made_by: dict[int, str] = {}  # address -> "" for what an operator returned, else who made it
        self._unseen: dict[str, int] = {}

    def all(self, events: Any) -> None:
        for event in sorted(events, key=lambda event: event.start_time_ns):
            self._one(event, "(no event)")

    def _one(self, event: Any, inside: str) -> None:
        if event.tag.name == "Allocation":
            self._outside_of_operators(event.extra_fields.ptr, event.extra_fields.alloc_size, inside)
        elif event.name in self._operators:
            self._operator(event)
        elif event.name.startswith(RANGE):
            name = event.name.removeprefix(RANGE)
            self._phase = self.found.phases.setdefault(
                name, Phase(self._level, self._level, self._seen, self._seen)
            )
            self._children(event)
            self._phase.end_bytes, self._phase.seen_end_bytes = self._level, self._seen
            self._phase = None
        else:
            self._children(event)

    def _children(self, event: Any) -> None:
        for child in sorted(event.children, key=lambda child: child.start_time_ns):
            self._one(child, event.name)

    def _outside_of_operators(self, address: int, size: int, inside: str) -> None:
        if size > 0:
            self._made_by[address] = inside
            self._unseen[inside] = self._unseen.get(inside, 0) + size
            self.found.unseen[inside] = max(self.found.unseen.get(inside, 0), self._unseen[inside])
        else:
            self._free(address, size)
        self._move(size)

    def _free(self, address: int, size: int) -> None:
        maker = self._made_by.pop(address, "")
        if maker:
            self._unseen[maker] += size
        else:
            self._seen += size

    def _operator(self, event: Any) -> None:
        before = top = self._level
        alive: dict[int, int] = {}
        for address, size in _inside(event):
            if size > 0:
                alive[address] = size
            elif alive.pop(address, None) is None:
                self._free(address, size)
            self._move(size)
            top = max(top, self._level)
        self._made_by |= dict.fromkeys(alive, "")
        self._seen += sum(alive.values())
        self._move(0)  # the phase's peak of what is seen may be here
        scratch = top - max(before, self._level)
        if scratch:
            self.found.scratch[event.name] = max(self.found.scratch.get(event.name, 0), scratch)

    def _move(self, size: int) -> None:
        self._level += size
        if self._phase is not None:
            self._phase.peak_bytes = max(self._phase.peak_bytes, self._level)
            self._phase.seen_peak_bytes = max(self._phase.seen_peak_bytes, self._seen)


def _inside(event: Any) -> Iterator[tuple[int, int]]:
    for child in sorted(event.children, key=lambda child: child.start_time_ns):
        if child.tag.name == "Allocation":
            yield child.extra_fields.ptr, child.extra_fields.alloc_size
        else:
            yield from _inside(child)


def allocations(step: Callable[[Mark], object]) -> Allocations:
    """Runs a step twice, the second time under the torch profiler. Warm up before."""
    with _Names() as operators:
        step(lambda phase: None)
    ranges: list[record_function] = []

    def mark(phase: str | None) -> None:
        if ranges:
            ranges.pop().__exit__(None, None, None)
        if phase is not None:
            ranges.append(record_function(RANGE + phase))
            ranges[-1].__enter__()

    with garbage_collection_off(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step(mark)
    walk = _Walk(operators.names)
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    walk.all(watched.profiler.kineto_results.experimental_event_tree())
    return walk.found
