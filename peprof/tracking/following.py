"""Follows one run with any number of trackers, none of which can cost it more than a warning."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from peprof.results.record import Evaluation, RunRecord, ShortResult, TrainingHistory
from peprof.results.store import TENSORBOARD_DIRECTORY
from peprof.suite.planning import RunSpec
from peprof.tracking import scalars
from peprof.tracking.base import TrackedRun, Tracker
from peprof.tracking.registry import load_tracker

_LONGEST_MESSAGE = 300  # characters of a tracker's own words in a warning


class Following:
    """Tells trackers what a run finds. Watches a training, as ``peprof.training.watching`` has it.

    Args:
        spec: the run.
        directory: where its files lie.
        names: of trackers that were checked.
        warn: told, once, of a tracker that fails; it is told nothing more then.
    """

    def __init__(
        self, spec: RunSpec, directory: Path, names: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        self._spec, self._directory, self._names, self._warn = spec, directory, names, warn
        self._trackers: dict[str, Tracker] = {}
        self._is_open = False
        self._last_step = 0
        self._last_evaluation: Evaluation | None = None

    def open(
        self,
        *,
        resumed_step: int = 0,
        short: ShortResult | None = None,
        last_evaluation: Evaluation | None = None,
    ) -> None:
        """Opens the trackers, when it is known whether the run goes on from a checkpoint.

        Args:
            resumed_step: of the checkpoint; 0 for a run that begins, which takes away the log of any before.
            short: what the short phase found; not told again where an attempt before has.
            last_evaluation: before the checkpoint.
        """
        self._is_open = True
        self._last_step, self._last_evaluation = resumed_step, last_evaluation
        if resumed_step == 0:
            shutil.rmtree(self._directory / TENSORBOARD_DIRECTORY, ignore_errors=True)
        run = TrackedRun(
            spec=self._spec,
            hyperparameters=scalars.hyperparameters(self._spec),
            directory=self._directory,
            resumed_step=resumed_step,
        )
        for name in self._names:
            self._guarded(name, partial(self._open, name, run))
        if short is not None and resumed_step == 0:
            self._tell(0, scalars.of_short(short))

    def _open(self, name: str, run: TrackedRun) -> None:
        self._trackers[name] = load_tracker(name)(run)

    def steps(self, first: int, history: TrainingHistory) -> None:
        """Tells of some steps.

        Args:
            first: the number of the first of them, from 1.
            history: of these steps alone.
        """
        for step, values in enumerate(scalars.of_steps(history), start=first):
            self._tell(step, values)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Tells of an evaluation."""
        self._tell(evaluation.step, scalars.of_evaluation(evaluation, self._last_evaluation))
        self._last_evaluation = evaluation

    def finish(self, record: RunRecord) -> None:
        """Tells how the run ended.

        A run that failed before its training isn't told of: it left nothing to look at, and the next attempt
        may go on with the log of the one before.

        Args:
            record: as far as it is known; the warning of a tracker that fails now comes too late for it.
        """
        if not self._is_open:
            if record.status == "failed":
                return
            self.open(short=record.short)
        self._tell(self._last_step, scalars.of_whole_run(record))
        metrics = scalars.compared(record)
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.finish, record.status, metrics))
        self._trackers.clear()

    def _tell(self, step: int, values: dict[str, float]) -> None:
        if not values:
            return
        self._last_step = max(self._last_step, step)
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.scalars, step, values))

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 -- somebody else's code: its fault mustn't cost a run
            self._trackers.pop(name, None)
            words = " ".join(str(error).split())[:_LONGEST_MESSAGE]
            self._warn(
                f"the tracker '{name}' failed and was told nothing more: {type(error).__name__}"
                + (f": {words}" if words else "")
            )
