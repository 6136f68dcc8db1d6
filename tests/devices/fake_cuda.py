"""A stand-in for ``torch.cuda``: a clock that the test moves, and a caching allocator.

It has several devices and the work is on one of them. Of the memory that their properties tell, the driver
may keep some: ``hidden_bytes``. As with the real one, what names no device means the
current one, device 0 at first; whoever then measures another device than the work's is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tests.devices.fake_allocator import FakeAllocator


@dataclass
class FakeCuda:
    work_index: int = 0
    current_index: int = 0
    now_ms: float = 0.0
    allocator: FakeAllocator = field(default_factory=FakeAllocator)
    synchronisations: int = 0
    events_made: int = 0
    hidden_bytes: int = 0
    backend: str = "native"
    queued: list[Any] = field(default_factory=list)

    def _index(self, device: Any = None) -> int:
        if device is None:
            return self.current_index
        index = device if isinstance(device, int) else device.index
        assert isinstance(index, int), f"{device} means whatever device is the current one"
        return index

    def _check(self, device: Any = None) -> None:
        index = self._index(device)
        assert index == self.work_index, f"asked of device {index}; the work is on {self.work_index}"

    def set_device(self, device: Any) -> None:
        self.current_index = self._index(device)

    def current_stream(self, device: Any = None) -> FakeStream:
        return FakeStream(self._index(device))

    def Event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        self.events_made += 1
        return FakeEvent(self)

    def synchronize(self, device: Any = None) -> None:
        self._check(device)
        self.synchronisations += 1
        self.queued.clear()

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        self._check(device)
        return self.allocator.stats()

    def memory_stats_as_nested_dict(self, device: Any = None) -> dict[str, Any]:
        self._check(device)
        nested: dict[str, Any] = {}
        for key, value in self.allocator.stats().items():
            *path, last = key.split(".")
            inner = nested
            for name in path:
                inner = inner.setdefault(name, {})
            inner[last] = value
        return nested

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._check(device)
        self.allocator.reset_peaks()

    def empty_cache(self) -> None:
        self.allocator.empty_cache()

    @property
    def memory(self) -> FakeMemory:
        return FakeMemory(self.allocator, self.backend)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        self._check(device)
        return self.allocator.free_on_device(), self.allocator.capacity

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None:
        """As in c10/cuda: the properties' total times the fraction, cut off; 1 is no limit."""
        self._check(device)
        assert isinstance(fraction, float) and 0 <= fraction <= 1
        total_bytes = self.get_device_properties(device).total_memory
        self.allocator.allowed = int(fraction * total_bytes) if fraction < 1 else None

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        self._check(device)
        total_bytes = self.allocator.capacity + self.hidden_bytes
        return SimpleNamespace(name="NVIDIA Fake 100", uuid="1234", total_memory=total_bytes)


@dataclass(frozen=True)
class FakeMemory:
    """A stand-in for ``torch.cuda.memory``."""

    allocator: FakeAllocator
    backend: str = "native"

    def get_allocator_backend(self) -> str:
        return self.backend

    def _record_memory_history(
        self, enabled: str | None = "all", context: str | None = "all", stacks: str = "all"
    ) -> None:
        assert enabled in (None, "all") and context in (None, "all") and stacks == "python"
        self.allocator.recording = enabled is not None
        if enabled is None:
            self.allocator.trace.clear()

    def _snapshot(self) -> dict[str, Any]:
        return self.allocator.snapshot()


@dataclass(frozen=True)
class FakeStream:
    index: int


@dataclass(eq=False)
class FakeEvent:
    cuda: FakeCuda
    at_ms: float | None = None

    def record(self, stream: FakeStream | None = None) -> None:
        index = self.cuda.current_index if stream is None else stream.index
        assert index == self.cuda.work_index, f"recorded on device {index}; the work is elsewhere"
        self.at_ms = self.cuda.now_ms
        self.cuda.queued.append(self)

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self not in self.cuda.queued, "read before the device was waited for"
        assert self.at_ms is not None and end.at_ms is not None
        return end.at_ms - self.at_ms
