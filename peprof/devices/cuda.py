"""A CUDA GPU: device events, and the caching allocator's own counters.

``torch.cuda`` comes in as an argument so that this file is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType, TracebackType
from typing import Any

import torch
from typing_extensions import override

from peprof.devices.base import Device, DeviceFacts, PhaseBytes, PhaseClock, StepBytes, StepTime, group_edges


class EventClock(PhaseClock):
    """CUDA events on the stream of the work; they are waited for once, when drained.

    Events are reused, so that a long training doesn't pile them up. The device is named each time: an event
    recorded on another one than the work's would time nothing.
    """

    name = "cuda_events"

    def __init__(self, cuda: ModuleType | Any, device: torch.device) -> None:
        self._cuda = cuda
        self._device = device
        self._spare: list[Any] = []
        self._edges: list[tuple[str | None, Any]] = []

    @override
    def mark(self, phase: str | None) -> None:
        event = self._spare.pop() if self._spare else self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        self._edges.append((phase, event))

    @override
    def drain(self) -> list[StepTime]:
        self._cuda.synchronize(self._device)
        before = self._edges
        steps, self._edges = group_edges(before, lambda begin, end: float(begin.elapsed_time(end)) / 1e3)
        self._spare.extend(event for _, event in before[: len(before) - len(self._edges)])
        return steps


class AllocatorMeter:
    """The caching allocator's peak counters, reset at the start of each phase."""

    def __init__(self, cuda: ModuleType | Any, device: torch.device) -> None:
        self._cuda = cuda
        self._device = device
        self._phase: str | None = None
        self._start_bytes = 0
        self._peak_reserved_bytes = 0
        self._phases: dict[str, PhaseBytes] = {}

    def __enter__(self) -> AllocatorMeter:
        self._cuda.synchronize(self._device)
        self._start_bytes = self._cuda.memory_allocated(self._device)
        self._cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phase()

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step."""
        # The allocator counts on the host, when memory is asked for: no need to wait for the device.
        self._end_phase()
        self._phase = phase
        self._cuda.reset_peak_memory_stats(self._device)

    def _end_phase(self) -> None:
        if self._phase is None:
            return
        before = self._phases.get(self._phase)
        peak = self._cuda.max_memory_allocated(self._device)
        self._phases[self._phase] = PhaseBytes(
            phase=self._phase,
            peak_bytes=max(peak, before.peak_bytes) if before else peak,
            end_bytes=self._cuda.memory_allocated(self._device),
        )
        self._peak_reserved_bytes = max(
            self._peak_reserved_bytes, self._cuda.max_memory_reserved(self._device)
        )
        self._phase = None

    def result(self) -> StepBytes:
        """What was counted; to be called after leaving the context."""
        return StepBytes(
            source="cuda_allocator",
            start_bytes=self._start_bytes,
            peak_bytes=max(phase.peak_bytes for phase in self._phases.values()),
            peak_reserved_bytes=self._peak_reserved_bytes,
            phases=tuple(self._phases.values()),
        )


class CudaDevice(Device):
    """One GPU, made the process's current one: kernels and libraries that name no device then use it too.

    Args:
        index: torch's ordinal.
        cuda: ``torch.cuda``, or what stands in for it in a test.
    """

    kind = "cuda"

    def __init__(self, index: int = 0, *, cuda: ModuleType | Any = torch.cuda) -> None:
        self._cuda = cuda
        self.torch_device = torch.device("cuda", index)
        cuda.set_device(self.torch_device)

    @override
    def facts(self) -> DeviceFacts:
        properties = self._cuda.get_device_properties(self.torch_device)
        uuid = getattr(properties, "uuid", None)
        return DeviceFacts(
            kind="cuda",
            name=str(properties.name),
            uuid=f"GPU-{uuid}" if uuid is not None else None,
            driver=_driver_version(),
            cuda=torch.version.cuda,
        )

    @override
    def synchronize(self) -> None:
        self._cuda.synchronize(self.torch_device)

    @override
    def release_cached_memory(self) -> None:
        self._cuda.empty_cache()

    @override
    def clock(self) -> PhaseClock:
        return EventClock(self._cuda, self.torch_device)

    @override
    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AllocatorMeter:
        return AllocatorMeter(self._cuda, self.torch_device)


def _driver_version() -> str | None:
    """The NVIDIA driver's version; ``None`` where its management library doesn't answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)
