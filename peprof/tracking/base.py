"""What a tracker is: two calls, so that one for any service is a few lines.

Example:
    >>> class Printed:
    ...     def __init__(self, run: TrackedRun) -> None:
    ...         print("begins", run.hyperparameters["method"])
    ...
    ...     def scalars(self, step: int, values: Mapping[str, float]) -> None:
    ...         print(step, dict(values))
    ...
    ...     def finish(self, status: str, metrics: Mapping[str, float]) -> None:
    ...         print(status, dict(metrics))
    >>> open_printed: OpenTracker = Printed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peprof.suite.planning import RunSpec

Hyperparameter = str | float | int | bool


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The run that a tracker follows.

    Args:
        spec: all that was asked for; ``spec.run_id`` is its name, the same whenever it is tried again.
        hyperparameters: the same, flat; what has no value is left out.
        directory: of the run, beside its record; a tracker's files go into a folder of its own there.
        resumed_step: what came up to this step was told by an attempt before, and training goes on after it;
            0 for a run that begins, whose earlier attempts count for nothing.
    """

    spec: RunSpec
    hyperparameters: Mapping[str, Hyperparameter]
    directory: Path
    resumed_step: int = 0


class Tracker(Protocol):
    """Is told what is found, in the run's process, between steps and never within one.

    Whatever it raises costs the run nothing but a warning; then it is told nothing more.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes figures of a training step; names and units are those of ``peprof.tracking.scalars``.

        Args:
            step: from 1, or 0 for what was found before training; never lower than the last one.
            values: by name, ``GROUP/NAME_UNIT``. What isn't known is left out.
        """

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        """The run is over; nothing comes after this.

        Args:
            status: of its record: ``ok``, ``oom``, ``failed`` or ``diverged``. Nobody is left to tell of a
                process that was killed.
            metrics: by which runs are compared.
        """


class OpenTracker(Protocol):
    """Opens a tracker: a class or a function, announced in the entry-point group ``peprof.trackers``."""

    def __call__(self, run: TrackedRun, /) -> Tracker:
        """Begins to follow a run, or goes on with it."""
