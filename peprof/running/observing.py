"""Who follows a suite's runs: nobody, or a terminal."""

from __future__ import annotations

from typing import Protocol

from peprof.events import Progress
from peprof.results.record import RunRecord
from peprof.suite.planning import RunSpec


class Observer(Protocol):
    """Whoever shows what goes on; ``reports.progress`` does."""

    def plan(self, total_runs: int, finished_already: int) -> None:
        """Runs of the suite, and how many of them have a record from before."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""

    def run_started(self, spec: RunSpec, index: int, total: int) -> None:
        """A run starts; ``index`` counts from 1."""

    def round_started(self, spec: RunSpec, index: int, total: int, number: int) -> None:
        """A round of a run starts; ``index`` and ``number``, which is the round's, count from 1."""

    def round_finished(self, spec: RunSpec) -> None:
        """A round of a run is timed; the run itself comes later."""

    def progress(self, event: Progress) -> None:
        """A sign of life of a run, or of what comes before the first."""

    def run_finished(self, record: RunRecord) -> None:
        """A run has its record."""


class Silence:
    """An observer that shows nothing."""

    def plan(self, total_runs: int, finished_already: int) -> None:
        """Shows nothing."""

    def notice(self, text: str) -> None:
        """Shows nothing."""

    def run_started(self, spec: RunSpec, index: int, total: int) -> None:
        """Shows nothing."""

    def round_started(self, spec: RunSpec, index: int, total: int, number: int) -> None:
        """Shows nothing."""

    def round_finished(self, spec: RunSpec) -> None:
        """Shows nothing."""

    def progress(self, event: Progress) -> None:
        """Shows nothing."""

    def run_finished(self, record: RunRecord) -> None:
        """Shows nothing."""
