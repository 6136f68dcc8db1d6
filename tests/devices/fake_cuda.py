"""A stand-in for ``torch.cuda``: a clock that the test moves, and an allocator that counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeCuda:
    now_ms: float = 0.0
    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    synchronisations: int = 0
    events_made: int = 0
    queued: list[Any] = field(default_factory=list)

    def Event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        self.events_made += 1
        return FakeEvent(self)

    def synchronize(self, device: object = None) -> None:
        self.synchronisations += 1
        self.queued.clear()

    def memory_allocated(self, device: object) -> int:
        return self.allocated

    def max_memory_allocated(self, device: object) -> int:
        return self.peak_allocated

    def max_memory_reserved(self, device: object) -> int:
        return self.peak_reserved

    def reset_peak_memory_stats(self, device: object) -> None:
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def allocate(self, size: int) -> None:
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self.peak_reserved = max(self.peak_reserved, self.reserved)

    def get_device_properties(self, device: object) -> SimpleNamespace:
        return SimpleNamespace(name="NVIDIA Fake 100", uuid="1234")


@dataclass(eq=False)
class FakeEvent:
    cuda: FakeCuda
    at_ms: float | None = None

    def record(self) -> None:
        self.at_ms = self.cuda.now_ms
        self.cuda.queued.append(self)

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self not in self.cuda.queued, "read before the device was waited for"
        assert self.at_ms is not None and end.at_ms is not None
        return end.at_ms - self.at_ms
