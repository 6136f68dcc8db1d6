"""A GPU behind a queue of work: the host runs ahead until the queue is full, and a wait empties it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.devices.fake_cuda import FakeCuda, FakeStream


@dataclass
class QueuedCuda(FakeCuda):
    """Host and device each with a clock of their own; ``now_ms`` is when the device will have done all.

    Args:
        depth: pieces of work that the queue holds.
        host_ms: the host's clock.
    """

    depth: int = 6
    host_ms: float = 0.0
    ends_ms: deque[float] = field(default_factory=deque)

    def work(self, *, queue_ms: float, device_ms: float) -> None:
        """Queues a piece of work: the host needs the one time for it, the device the other."""
        while len(self.ends_ms) >= self.depth:
            self.host_ms = max(self.host_ms, self.ends_ms.popleft())
        self.host_ms += queue_ms
        self.now_ms = max(self.now_ms, self.host_ms) + device_ms
        self.ends_ms.append(self.now_ms)

    def now_ns(self) -> int:
        """The host's clock."""
        return round(self.host_ms * 1e6)

    def current_stream(self, device: Any = None) -> FakeStream:
        self.now_ms = max(self.now_ms, self.host_ms)  # an event comes no sooner than it is recorded
        return super().current_stream(device)

    def synchronize(self, device: Any = None) -> None:
        self.host_ms = max(self.host_ms, self.now_ms)
        self.ends_ms.clear()
        super().synchronize(device)
