"""What a device must offer to be measured, whatever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, TypeVar

import torch

from peprof.gpus.room import GpuRoom
from peprof.meters.sampler import Sampler

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
        host: how long the host took to queue the same work, by its own clock; ``None`` where the host does
            the work itself, so that both are one.
    """

    total_s: float
    phases_s: dict[str, float]
    host: StepTime | None = None


@dataclass(frozen=True, kw_only=True)
class PoolBytes:
    """Peaks of a pool's own counters over one phase, each at its own highest moment.

    Args:
        requested_bytes: what tensors and libraries asked for.
        allocated_bytes: in blocks that are in use; more than what was asked for by rounding.
        active_bytes: as allocated, and blocks that a stream may still be using.
        reserved_bytes: held from the device.
        inactive_split_bytes: free parts of blocks that are partly in use: they can't be given back.
    """

    requested_bytes: int
    allocated_bytes: int
    active_bytes: int
    reserved_bytes: int
    inactive_split_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceBytes:
    """Used memory of a device as its management library tells.

    Args:
        used_bytes: the pool's, and what else there is: contexts, libraries, kernels.
        of: by this process alone, or by all that use the device, where they can't be told apart.
    """

    used_bytes: int
    of: Literal["process", "device"]


@dataclass(frozen=True, kw_only=True)
class PhaseBytes:
    """Live bytes within one phase of a step: the highest value, and the value at its end.

    Args:
        phase: its name.
        peak_bytes, end_bytes: in use.
        pool: all of the pool's peaks; ``None`` where there is no pool.
    """

    phase: str
    peak_bytes: int
    end_bytes: int
    pool: PoolBytes | None = None


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Live bytes of one step.

    Args:
        source: what counted them.
        start_bytes: before the step.
        peak_bytes: the highest value in the step.
        peak_reserved_bytes: the highest value held from the device; ``None`` where there is no pool.
        phases: in the order in which they were first entered.
        alloc_retries: times that the pool was emptied to find room; ``None`` where there is no pool.
        ooms: times that memory ran out and somebody caught it; ``None`` where there is no pool.
        end_reserved_bytes: held from the device after the step; ``None`` where there is no pool.
        device: used on the device after the step; ``None`` where that can't be known.
    """

    source: MemorySource
    start_bytes: int
    peak_bytes: int
    peak_reserved_bytes: int | None
    phases: tuple[PhaseBytes, ...]
    alloc_retries: int | None = None
    ooms: int | None = None
    end_reserved_bytes: int | None = None
    device: DeviceBytes | None = None

    @property
    def unowned_bytes(self) -> int | None:
        """Used on the device after the step, less what the pool holds; ``None`` where it can't be known."""
        if self.device is None or self.end_reserved_bytes is None:
            return None
        return self.device.used_bytes - self.end_reserved_bytes


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """What a device is. ``None`` where it has no such thing."""

    kind: Literal["cpu", "cuda"]
    name: str
    uuid: str | None
    driver: str | None
    cuda: str | None


PeakSource = Literal["cuda_allocator", "process_rss"]


@dataclass(frozen=True, kw_only=True)
class PeakBytes:
    """The highest memory over a long time, such as a whole training.

    Args:
        source: what counted: the caching allocator, or the system for the whole process.
        start_bytes: allocated, or resident, when counting began.
        peak_bytes: the highest value since.
        peak_reserved_bytes: the highest value held from the device; ``None`` where there is no pool.
    """

    source: PeakSource
    start_bytes: int
    peak_bytes: int
    peak_reserved_bytes: int | None = None


class PeakMeter(Protocol):
    """Follows memory over a long time at no cost to steps; begins when it is made."""

    def look(self) -> None:
        """Notes the present value, for devices that keep no count of their own; quick."""

    def result(self) -> PeakBytes:
        """The highest value until now."""


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

    def room(self) -> GpuRoom | None:
        """What there is of the device's memory; ``None`` where it has none of its own."""
        return None

    def limit_memory(self, nbytes: int) -> None:
        """Lets memory run out when this process's pool is to hold more; nothing where there is no pool."""
        return

    @abstractmethod
    def clock(self) -> PhaseClock:
        """A new clock for one pass."""

    def waiting_clock(self) -> PhaseClock | None:
        """A new clock whose marks wait for the device, for a pass of its own: see ``WaitingClock``.

        ``None`` where the host does the work itself: there every clock is of that kind.
        """
        return None

    @abstractmethod
    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AbstractContextManager[MemoryMeter]:
        """A meter for one step.

        Args:
            resident: all tensors that live before the step and through it (parameters, buffers, optimizer
                state, the batch). Only needed where the device keeps no count of its own.
        """

    @abstractmethod
    def peak_meter(self) -> PeakMeter:
        """A meter that begins now. Where the device counts itself its count starts anew: one at a time."""

    def memory_bytes(self) -> int | None:
        """Of memory on the device in all, or that this process may have; ``None`` where nobody tells."""
        return None

    def bytes_for_tensors(self) -> int | None:
        """What this process's tensors may take in all, as things are now; ``None`` where nobody tells.

        On a device with a pool: what the pool holds and what is free, so neither what others use nor this
        process's context. On a host it is all that the process may have.
        """
        return self.memory_bytes()

    def get_ready(self) -> None:
        """Settles what a process decides once, at its first work. To be called before any."""
        return

    def deterministic(self) -> AbstractContextManager[None]:
        """In it the same work with the same random numbers gives the same values, where there is a way.

        Attention on a GPU has one only where ``repeatable`` is entered too.
        """
        return nullcontext()

    def repeatable(self) -> AbstractContextManager[None]:
        """In it the same work gives the same values, or an operator that has no way to do so raises.

        Within ``deterministic``. The error is a ``RuntimeError`` that says "deterministic".
        """
        return nullcontext()

    def energy_j(self) -> float | None:
        """Joules that the device has taken since some moment before: only differences mean something.

        All that uses the device counts. Not exact for less than about a tenth of a second. ``None`` where it
        can't be known, see ``why_no_energy``.
        """
        return None

    def why_no_energy(self) -> str | None:
        """Why ``energy_j`` is ``None``; ``None`` where it isn't."""
        return "there is no counter of joules that is known for this device"

    def sampler(self) -> Sampler | None:
        """Follows energy, power and what slows the device down, in a process of its own, while it is entered.

        ``None`` where there is nothing to follow.
        """
        return None


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
