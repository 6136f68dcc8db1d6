"""A CUDA GPU: device events, and the caching allocator's own counters.

``torch.cuda`` comes in as an argument so that this file is tested without a GPU.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from types import ModuleType, TracebackType
from typing import Any

import torch
from typing_extensions import override

from peprof.devices import cuda_determinism, nvml
from peprof.devices.base import (
    Device,
    DeviceBytes,
    DeviceFacts,
    PeakBytes,
    PhaseBytes,
    PhaseClock,
    PoolBytes,
    StepBytes,
    StepTime,
    group_edges,
)
from peprof.devices.waiting import WaitingClock
from peprof.gpus.room import GpuRoom
from peprof.meters.sampler import Sampler, nvml_sampler

_POOL_COUNTERS = tuple(field.name for field in fields(PoolBytes))
"""They are named as the allocator names them."""


class EventClock(PhaseClock):
    """CUDA events on the stream of the work; they are waited for once, when drained.

    Events are reused, so that a long training doesn't pile them up. The device is named each time: an event
    recorded on another one than the work's would time nothing. The host's clock is read too, at the same
    marks and without waiting.

    Args:
        cuda: ``torch.cuda``, or what stands in for it in a test.
        device: on whose current stream the work is.
        now_ns: the host's clock.
    """

    name = "cuda_events"

    def __init__(
        self,
        cuda: ModuleType | Any,
        device: torch.device,
        *,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._cuda = cuda
        self._device = device
        self._now_ns = now_ns
        self._spare: list[Any] = []
        self._edges: list[tuple[str | None, tuple[Any, int]]] = []

    @override
    def mark(self, phase: str | None) -> None:
        event = self._spare.pop() if self._spare else self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        self._edges.append((phase, (event, self._now_ns())))

    @override
    def drain(self) -> list[StepTime]:
        self._cuda.synchronize(self._device)
        before = self._edges
        steps, self._edges = group_edges(
            before, lambda begin, end: float(begin[0].elapsed_time(end[0])) / 1e3
        )
        hosts, _ = group_edges(before, lambda begin, end: (end[1] - begin[1]) / 1e9)
        self._spare.extend(event for _, (event, _) in before[: len(before) - len(self._edges)])
        return [replace(step, host=host) for step, host in zip(steps, hosts, strict=True)]


class AllocatorMeter:
    """The caching allocator's peak counters, reset at the start of each phase.

    Args:
        cuda: ``torch.cuda``, or what stands in for it in a test.
        device: whose allocator it is.
        device_bytes: asks the management library, after the step; given the bytes that the pool holds.
    """

    def __init__(
        self,
        cuda: ModuleType | Any,
        device: torch.device,
        device_bytes: Callable[[int], DeviceBytes | None] = lambda reserved_bytes: None,
    ) -> None:
        self._cuda = cuda
        self._device = device
        self._device_bytes = device_bytes
        self._phase: str | None = None
        self._phases: dict[str, PhaseBytes] = {}
        self._reserved_bytes: list[int] = []
        # cudaMallocAsync's pool leaves all counters but allocated and reserved bytes at 0.
        self._is_native = cuda.memory.get_allocator_backend() == "native"
        self._before: Mapping[str, int] = {}
        self._after: Mapping[str, int] = {}
        self._used: DeviceBytes | None = None

    def __enter__(self) -> AllocatorMeter:
        self._cuda.synchronize(self._device)
        self._before = self._cuda.memory_stats(self._device)
        self._cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phase()
        if kind is None:
            self._cuda.synchronize(self._device)
            self._after = self._cuda.memory_stats(self._device)
            self._used = self._device_bytes(self._after["reserved_bytes.all.current"])

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step."""
        # The allocator counts on the host, when memory is asked for: no need to wait for the device.
        self._end_phase()
        self._phase = phase
        self._cuda.reset_peak_memory_stats(self._device)

    def _end_phase(self) -> None:
        if self._phase is None:
            return
        stats = self._cuda.memory_stats(self._device)
        before = self._phases.get(self._phase)
        peak_bytes = stats["allocated_bytes.all.peak"]
        self._reserved_bytes.append(stats["reserved_bytes.all.peak"])
        self._phases[self._phase] = PhaseBytes(
            phase=self._phase,
            peak_bytes=max(peak_bytes, before.peak_bytes) if before is not None else peak_bytes,
            end_bytes=stats["allocated_bytes.all.current"],
            pool=self._pool(stats, before) if self._is_native else None,
        )
        self._phase = None

    def _pool(self, stats: Mapping[str, int], before: PhaseBytes | None) -> PoolBytes:
        """The peaks of a phase, of all its parts if it was entered before."""
        found = {name: stats[f"{name}.all.peak"] for name in _POOL_COUNTERS}
        if before is not None:
            found = {name: max(peak, getattr(before.pool, name)) for name, peak in found.items()}
        return PoolBytes(**found)

    def result(self) -> StepBytes:
        """What was counted; to be called after leaving the context."""
        before, after = self._before, self._after
        phases = tuple(self._phases.values())
        counted = {name: after[name] - before[name] for name in ("num_alloc_retries", "num_ooms")}
        return StepBytes(
            source="cuda_allocator",
            start_bytes=before["allocated_bytes.all.current"],
            peak_bytes=max(phase.peak_bytes for phase in phases),
            peak_reserved_bytes=max(self._reserved_bytes),
            phases=phases,
            alloc_retries=counted["num_alloc_retries"] if self._is_native else None,
            ooms=counted["num_ooms"] if self._is_native else None,
            end_reserved_bytes=after["reserved_bytes.all.current"],
            device=self._used,
        )


class AllocatorPeakMeter:
    """The caching allocator's peak counters since the meter was made; it resets them."""

    def __init__(self, cuda: ModuleType | Any, device: torch.device) -> None:
        self._cuda = cuda
        self._device = device
        cuda.reset_peak_memory_stats(device)
        self._start_bytes: int = cuda.memory_stats(device)["allocated_bytes.all.current"]

    def look(self) -> None:
        """Nothing: the allocator counts itself."""

    def result(self) -> PeakBytes:
        """The highest value until now."""
        stats = self._cuda.memory_stats(self._device)
        return PeakBytes(
            source="cuda_allocator",
            start_bytes=self._start_bytes,
            peak_bytes=stats["allocated_bytes.all.peak"],
            peak_reserved_bytes=stats["reserved_bytes.all.peak"],
        )


def fraction_of(nbytes: int, total_bytes: int) -> float:
    """The share of a device's memory that the allocator turns back into exactly so many bytes.

    It multiplies by the total and cuts off what is behind the point, so that a quotient that was rounded down
    would be a byte short.

    Args:
        nbytes: that its pool may hold; more than there is means all.
        total_bytes: of the device.
    """
    fraction = min(1.0, nbytes / total_bytes)
    while fraction < 1.0 and int(fraction * total_bytes) < nbytes:
        fraction = math.nextafter(fraction, 1.0)
    return fraction


class CudaDevice(Device):
    """One GPU, made the process's current one: kernels and libraries that name no device then use it too.

    Args:
        index: torch's ordinal.
        cuda: ``torch.cuda``, or what stands in for it in a test.
        now_ns: the host's clock, or what stands in for it in a test.
    """

    kind = "cuda"

    def __init__(
        self,
        index: int = 0,
        *,
        cuda: ModuleType | Any = torch.cuda,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._cuda = cuda
        self._now_ns = now_ns
        self.torch_device = torch.device("cuda", index)
        cuda.set_device(self.torch_device)

    @override
    def facts(self) -> DeviceFacts:
        return DeviceFacts(
            kind="cuda",
            name=str(self._cuda.get_device_properties(self.torch_device).name),
            uuid=self._uuid(),
            driver=nvml.driver_version(),
            cuda=torch.version.cuda,
        )

    @override
    def synchronize(self) -> None:
        self._cuda.synchronize(self.torch_device)

    @override
    def release_cached_memory(self) -> None:
        self._cuda.empty_cache()

    @override
    def room(self) -> GpuRoom:
        free, total = self._cuda.mem_get_info(self.torch_device)
        return GpuRoom(free_bytes=int(free), total_bytes=int(total))

    @override
    def limit_memory(self, nbytes: int) -> None:
        # The allocator multiplies the properties' total, from which the driver's may differ.
        fraction = fraction_of(nbytes, self.memory_bytes())
        self._cuda.set_per_process_memory_fraction(fraction, self.torch_device)

    @override
    def clock(self) -> PhaseClock:
        return EventClock(self._cuda, self.torch_device, now_ns=self._now_ns)

    @override
    def waiting_clock(self) -> WaitingClock:
        return WaitingClock(self.synchronize, now_ns=self._now_ns)

    @override
    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AllocatorMeter:
        return AllocatorMeter(self._cuda, self.torch_device, self._device_bytes)

    @override
    def peak_meter(self) -> AllocatorPeakMeter:
        return AllocatorPeakMeter(self._cuda, self.torch_device)

    @override
    def memory_bytes(self) -> int:
        return int(self._cuda.get_device_properties(self.torch_device).total_memory)

    @override
    def bytes_for_tensors(self) -> int:
        held = self._cuda.memory_stats(self.torch_device)["reserved_bytes.all.current"]
        return self.room().free_bytes + int(held)

    @override
    def get_ready(self) -> None:
        cuda_determinism.settle_cublas(self._cuda, self.torch_device)

    @override
    def deterministic(self) -> AbstractContextManager[None]:
        return cuda_determinism.deterministic()

    @override
    def repeatable(self) -> AbstractContextManager[None]:
        return cuda_determinism.repeatable()

    @override
    def energy_j(self) -> float | None:
        uuid = self._uuid()
        return nvml.energy_j(uuid) if uuid is not None else None

    @override
    def why_no_energy(self) -> str | None:
        uuid = self._uuid()
        return nvml.why_no_energy(uuid) if uuid is not None else "torch doesn't tell this device's UUID"

    @override
    def sampler(self) -> Sampler | None:
        uuid = self._uuid()
        return nvml_sampler(uuid, os.getpid()) if uuid is not None else None

    def _uuid(self) -> str | None:
        uuid = getattr(self._cuda.get_device_properties(self.torch_device), "uuid", None)
        return f"GPU-{uuid}" if uuid is not None else None

    def _device_bytes(self, reserved_bytes: int) -> DeviceBytes | None:
        uuid = self._uuid()
        return nvml.device_bytes(uuid, os.getpid(), at_least=reserved_bytes) if uuid is not None else None
