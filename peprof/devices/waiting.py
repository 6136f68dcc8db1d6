"""Wall time by phase, where the host doesn't do the work itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from typing_extensions import override

from peprof.devices.base import PhaseClock, StepTime, group_edges

_Edge = tuple[int, int]
"""When the host came to a mark, and when the device had done all that was queued before it; nanoseconds."""


class WaitingClock(PhaseClock):
    """The host's clock, read at marks that each wait for the device.

    A phase takes from the end of one wait to the end of the next, ``StepTime.host`` from there to the
    beginning of the next: what it takes to queue a phase's work, with the queue empty at its start. In a pass
    that never waits the host runs ahead until the queue is full and then keeps the device's pace, so that its
    own clock no longer tells how fast it could be. Waiting takes from a step whatever host and device do at
    the same time: for a pass of its own, never for the timing pass.

    Args:
        wait: until the device has done all that was queued.
        now_ns: the host's clock.
    """

    name = "perf_counter"

    def __init__(self, wait: Callable[[], None], *, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._wait = wait
        self._now_ns = now_ns
        self._edges: list[tuple[str | None, _Edge]] = []

    @override
    def mark(self, phase: str | None) -> None:
        reached_ns = self._now_ns()
        self._wait()
        self._edges.append((phase, (reached_ns, self._now_ns())))

    @override
    def drain(self) -> list[StepTime]:
        edges = self._edges
        waited, self._edges = group_edges(edges, lambda begin, end: (end[1] - begin[1]) / 1e9)
        queued, _ = group_edges(edges, lambda begin, end: (end[0] - begin[1]) / 1e9)
        return [
            # From a step's first edge to its last there are waits: the sum of its phases has none.
            replace(step, host=replace(host, total_s=sum(host.phases_s.values())))
            for step, host in zip(waited, queued, strict=True)
        ]
