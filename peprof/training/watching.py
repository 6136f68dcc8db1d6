"""Who looks on while a training goes on: trackers, and whoever else wants to know."""

from __future__ import annotations

from typing import Protocol

from peprof.results.record import Evaluation, TrainingHistory


class TrainingWatcher(Protocol):
    """Told between steps, when the device has been waited for anyway; must be quick."""

    def steps(self, first: int, history: TrainingHistory) -> None:
        """Some steps were looked at.

        Args:
            first: the number of the first of them, from 1.
            history: of these steps alone.
        """

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation has been finished."""
