"""What a run's step was computed to need, for its record: asked for when nothing is left to be measured.

What computes it builds its step with this room's own functions and therefore stands above it. It is loaded by
its name, in the run's process and only where a suite asks for it.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import Literal, Protocol

from peprof.results.record import DataFacts, EstimatedMemory
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit

ESTIMATOR = "peprof.estimation.own_run:estimate_own_run"
UNFINISHED = "the process ended while it was computed"
_LONGEST_PROBLEM = 300


@dataclass(frozen=True, kw_only=True)
class OwnRun:
    """A run as far as it knows itself.

    Args:
        spec: what was asked for.
        source: the suite's file, for messages.
        kind: of its device.
        device_name: as its vendor names it; ``None`` where the run didn't get as far as that.
        memory_bytes: that there was for its tensors; ``None`` where nobody tells.
        facts: of its data; ``None`` likewise.
        train: its rows, from which a step's batches are made; ``None`` likewise.
    """

    spec: RunSpec
    source: str
    kind: Literal["cpu", "cuda"]
    device_name: str | None = None
    memory_bytes: int | None = None
    facts: DataFacts | None = None
    train: EncodedSplit | None = None

    def without(self, problem: str) -> EstimatedMemory:
        """What the record says where there is no estimate."""
        return EstimatedMemory(kind=self.kind, there_bytes=self.memory_bytes, problem=problem)


class Estimator(Protocol):
    """Computes what a run's step needs."""

    def __call__(self, run: OwnRun) -> EstimatedMemory:
        """The memory of the short phase's step."""


def run_estimate_pass(run: OwnRun) -> EstimatedMemory:
    """The estimate of a run, or why there is none: whatever goes wrong costs the run nothing."""
    try:
        estimator: Estimator = pkgutil.resolve_name(ESTIMATOR)
        return estimator(run)
    except Exception as error:  # noqa: BLE001 -- the run has its results; an estimate is no reason to lose them
        line = " ".join(str(error).split())[:_LONGEST_PROBLEM]
        return run.without(f"{type(error).__name__}: {line}" if line else type(error).__name__)
