"""A tracker of another distribution that goes wrong when it is told for the third time."""

from __future__ import annotations

from collections.abc import Mapping

from peprof.tracking.base import TrackedRun


class Broken:
    def __init__(self, run: TrackedRun) -> None:
        self.calls = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.calls += 1
        if self.calls == 3:
            raise ConnectionError("the service doesn't answer")
        assert self.calls < 3

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        raise AssertionError("it has failed: it is told nothing more")
