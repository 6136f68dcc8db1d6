"""A stand-in for ``torch.cuda``: a clock that the test moves, and an allocator that counts.

It has several devices and the work is on one of them. As with the real one, what names no device means the
current one, device 0 at first; whoever then measures another device than the work's is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeCuda:
    work_index: int = 0
    current_index: int = 0
    now_ms: float = 0.0
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    synchronisations: int = 0
    events_made: int = 0
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

    def memory_allocated(self, device: Any = None) -> int:
        self._check(device)
        return self.allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        self._check(device)
        return self.peak_allocated

    def max_memory_reserved(self, device: Any = None) -> int:
        self._check(device)
        return self.peak_reserved

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        self._check(device)
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def allocate(self, size: int) -> None:
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def empty_cache(self) -> None:
        self.reserved = self.allocated

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        self._check(device)
        return SimpleNamespace(name="NVIDIA Fake 100", uuid="1234")


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
