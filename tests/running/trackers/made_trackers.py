"""Trackers of another distribution: one for a service, and one that goes wrong."""

from __future__ import annotations

from collections.abc import Mapping

import service

from peprof.tracking.base import TrackedRun


class Service:
    def __init__(self, run: TrackedRun) -> None:
        self._run = service.init(
            project=run.spec.suite,
            id=run.spec.run_id,
            config=dict(run.hyperparameters),
            dir=run.directory / "service",
            resume=run.resumed_step > 0,
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        self._run.summary.update(metrics)
        self._run.finish(exit_code=0 if status == "ok" else 1)


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
