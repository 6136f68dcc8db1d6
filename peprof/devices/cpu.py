"""The CPU: host clock, and memory from the torch profiler's allocation events."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function
from typing_extensions import override

from peprof.devices.base import Device, DeviceFacts, PhaseBytes, PhaseClock, StepBytes, StepTime, group_edges
from peprof.devices.resident import ResidentPeakMeter, available_bytes
from peprof.meters import rapl
from peprof.meters.sampler import Sampler, rapl_sampler

RANGE_PREFIX = "peprof::phase::"


class HostClock(PhaseClock):
    """``time.perf_counter_ns`` at each edge.

    On a CPU the three clocks are one: the host does the work itself, so that its time is the device's and
    wall time, and nothing is queued. It is kept once; the others have no samples of their own.
    """

    name = "perf_counter"

    def __init__(self) -> None:
        self._edges: list[tuple[str | None, int]] = []

    @override
    def mark(self, phase: str | None) -> None:
        self._edges.append((phase, time.perf_counter_ns()))

    @override
    def drain(self) -> list[StepTime]:
        steps, self._edges = group_edges(self._edges, lambda begin, end: (end - begin) / 1e9)
        return steps


class AllocationEventMeter:
    """Live bytes from the torch profiler's events: each allocation and each free of the CPU allocator.

    The profiler knows nothing of memory that was allocated before it started, so that is summed up from
    ``resident`` and must neither be freed nor replaced in the step (clear the gradients before it).
    Includes scratch memory inside operators. Exact to the byte, not to a sampling interval.
    """

    def __init__(self, resident: Iterable[torch.Tensor]) -> None:
        self._start_bytes = storage_bytes(resident)
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self._range: record_function | None = None
        self._stack = ExitStack()

    def __enter__(self) -> AllocationEventMeter:
        self._stack.enter_context(self._profile)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_range()
        self._stack.close()

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step."""
        self._end_range()
        if phase is not None:
            self._range = record_function(RANGE_PREFIX + phase)
            self._range.__enter__()  # type: ignore[no-untyped-call]

    def _end_range(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def result(self) -> StepBytes:
        """What was counted; to be called after leaving the context."""
        # The high-level event list drops the order of allocations, so the raw one is read.
        results: Any = self._profile.profiler.kineto_results  # type: ignore[union-attr]
        changes: list[tuple[int, int]] = []
        ranges: list[tuple[int, int, str]] = []
        for event in results.events():
            if event.name() == "[memory]":
                if event.device_type() == DeviceType.CPU:
                    changes.append((event.start_ns(), event.nbytes()))
            elif event.name().startswith(RANGE_PREFIX):
                phase = event.name().removeprefix(RANGE_PREFIX)
                ranges.append((event.start_ns(), event.start_ns() + event.duration_ns(), phase))
        changes.sort(key=lambda change: change[0])
        ranges.sort()
        return _replay(self._start_bytes, changes, ranges)


def _replay(
    start_bytes: int, changes: list[tuple[int, int]], ranges: list[tuple[int, int, str]]
) -> StepBytes:
    """Adds the changes up and reads the level within each phase. Times in ns, all on one clock."""
    peaks: dict[str, int] = {}
    ends: dict[str, int] = {}
    live = peak = start_bytes
    position = 0
    for begin_ns, end_ns, phase in ranges:
        while position < len(changes) and changes[position][0] < begin_ns:
            live += changes[position][1]
            peak = max(peak, live)
            position += 1
        peaks[phase] = max(peaks.get(phase, 0), live)
        while position < len(changes) and changes[position][0] <= end_ns:
            live += changes[position][1]
            peaks[phase] = max(peaks[phase], live)
            position += 1
        ends[phase] = live
    peak = max([peak, *peaks.values()])
    return StepBytes(
        source="torch.profiler",
        start_bytes=start_bytes,
        peak_bytes=peak,
        peak_reserved_bytes=None,
        phases=tuple(PhaseBytes(phase=p, peak_bytes=peaks[p], end_bytes=ends[p]) for p in peaks),
    )


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each storage once however many tensors view it."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


class CpuDevice(Device):
    """The host's processors."""

    kind = "cpu"

    def __init__(self, *, powercap: Path = rapl.ROOT) -> None:
        self.torch_device = torch.device("cpu")
        self._powercap = powercap
        self._joules: rapl.RaplCounter | None = None
        self._why_no_energy: str | None = None

    @override
    def facts(self) -> DeviceFacts:
        return DeviceFacts(kind="cpu", name=_processor_name(), uuid=None, driver=None, cuda=None)

    @override
    def synchronize(self) -> None:
        return None

    @override
    def release_cached_memory(self) -> None:
        return None

    @override
    def clock(self) -> PhaseClock:
        return HostClock()

    @override
    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AllocationEventMeter:
        return AllocationEventMeter(resident)

    @override
    def peak_meter(self) -> ResidentPeakMeter:
        return ResidentPeakMeter()

    @override
    def memory_bytes(self) -> int:
        return available_bytes()

    @override
    def energy_j(self) -> float | None:
        self._why_no_energy = None
        try:
            if self._joules is None:
                self._joules = rapl.RaplCounter(self._powercap)
                self._joules.keep_looking()
            joules = self._joules.look()
        except rapl.RaplUnavailableError as error:
            self._why_no_energy = str(error)
            return None
        if self._joules.life:
            # For good: differences across that moment would mean nothing, and nobody knows who forms one.
            self._why_no_energy = "the processor's counter of joules was set back, as by a suspended machine"
            return None
        return joules

    @override
    def why_no_energy(self) -> str | None:
        return rapl.why_unreadable(self._powercap) if self._why_no_energy is None else self._why_no_energy

    @override
    def sampler(self) -> Sampler | None:
        return rapl_sampler(self._powercap) if rapl.why_unreadable(self._powercap) is None else None


def _processor_name() -> str:
    """The processor's name; Python's own answer is often only the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
