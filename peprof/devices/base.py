"""What a device must offer to be measured, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, TypeVar

import torch

Mark = Callable[[str | None], None]
"""Called by a step at the start of each phase with the phase's name, and with ``None`` at the step's end."""


def no_mark(phase: str | None) -> None:
    """The mark of a step that nobody measures."""


ClockName = Literal["perf_counter", "cuda_events"]
MemorySource = Literal["torch.profiler", "cuda_allocator"]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step.

    Args:
        total_s: from the step's first edge to its last.
        phases_s: by phase; a phase that a step enters twice is summed, one it never enters is missing.
    """

    total_s: float
    phases_s: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PhaseBytes:
    """Live bytes within one phase of a step: the highest value, and the value at its end."""

    phase: str
    peak_bytes: int
    end_bytes: int


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Live bytes of one step.

    Args:
        source: what counted them.
        start_bytes: before the step.
        peak_bytes: the highest value in the step.
        peak_reserved_bytes: the highest value held from the device; ``None`` where there is no pool.
        phases: in the order in which they were first entered.
    """

    source: MemorySource
    start_bytes: int
    peak_bytes: int
    peak_reserved_bytes: int | None
    phases: tuple[PhaseBytes, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What a device is. ``None`` where it has no such thing."""

    kind: Literal["cpu", "cuda"]
    name: str
    uuid: str | None
    driver: str | None
    cuda: str | None


class PhaseClock(ABC):
    """Times phases. A mark costs as little as the device allows and never waits for it."""

    name: ClockName

    @abstractmethod
    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step."""

    @abstractmethod
    def drain(self) -> list[StepTime]:
        """The finished steps since the last call. Waits for the device; call it outside what is timed."""


class MemoryMeter(Protocol):
    """Counts live bytes over exactly one step, entered around it."""

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step."""

    def result(self) -> StepBytes:
        """What was counted; to be called after leaving the context."""


class Device(ABC):
    """A place where training steps run."""

    kind: Literal["cpu", "cuda"]
    torch_device: torch.device

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """What this device is."""

    @abstractmethod
    def synchronize(self) -> None:
        """Waits until all queued work is done."""

    @abstractmethod
    def release_cached_memory(self) -> None:
        """Gives back what a pool holds but no tensor uses; nothing where there is no pool."""

    @abstractmethod
    def clock(self) -> PhaseClock:
        """A new clock for one pass."""

    @abstractmethod
    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AbstractContextManager[MemoryMeter]:
        """A meter for one step.

        Args:
            resident: all tensors that live before the step and through it (parameters, buffers, optimizer
                state, the batch). Only needed where the device keeps no count of its own.
        """


Edge = TypeVar("Edge")


def group_edges(
    edges: list[tuple[str | None, Edge]], seconds: Callable[[Edge, Edge], float]
) -> tuple[list[StepTime], list[tuple[str | None, Edge]]]:
    """Edges of phases -> times of whole steps, and the edges of a step that hasn't ended.

    Args:
        edges: (phase that starts here or ``None`` for a step's end, when), in order.
        seconds: the time from one edge to a later one.
    """
    steps: list[StepTime] = []
    open_step: list[tuple[str | None, Edge]] = []
    for edge in edges:
        if edge[0] is not None:
            open_step.append(edge)
        elif open_step:
            phases: dict[str, float] = {}
            for (phase, begin), (_, end) in pairwise([*open_step, edge]):
                assert phase is not None  # an open step holds no end
                phases[phase] = phases.get(phase, 0.0) + seconds(begin, end)
            steps.append(StepTime(total_s=seconds(open_step[0][1], edge[1]), phases_s=phases))
            open_step = []
    return steps, open_step
