"""What is sent to a child process and what comes back. Light: the parent imports it, so no torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peprof.breakdown.values import StepProfile
from peprof.errors import PeprofError
from peprof.events import Progress
from peprof.results.record import Environment, Failure, Predictions, RunRecord, Status, TrainingHistory
from peprof.running.rounds import KeptRound
from peprof.suite.loading import LoadedSuite
from peprof.suite.planning import RunSpec


class Say(Protocol):
    """How a task tells its parent how far it is."""

    def __call__(self, event: Progress) -> None:
        """Sends a sign of life, unless one was sent a moment ago."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one run at a time.

    Args:
        device: ``cpu`` or ``cuda:N``.
        lock: what the device is called among all peprof processes on the machine; a GPU's UUID.
    """

    device: str
    lock: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was found out before the first run.

    Args:
        specs: the runs, in order.
        slots: one for each run that may go on at a time.
        offline_reason: why the suite's ``[offline]`` overlay applies; ``None`` when it doesn't.
        environment: of runs that are done now.
    """

    specs: tuple[RunSpec, ...]
    slots: tuple[Slot, ...]
    offline_reason: str | None
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class PrepareTask:
    """Checks all that can be known before the first run: device, sources, data, options.

    Args:
        loaded: the suite and its offline variant.
        device: as the user named it, ``auto`` included.
        fetch: also download models, and pre-train the embedded one if a run needs it.
    """

    loaded: LoadedSuite
    device: str
    fetch: bool


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run's record and what lies beside it.

    Args:
        record: whatever happened.
        history: of the full phase, if it trained.
        memory: of a step of the short phase, if it got that far.
        predictions: the full phase's answers one by one, if it came to its end.
        method_source: digest of the method's source, if it got as far as that.
    """

    record: RunRecord
    history: TrainingHistory | None
    memory: StepProfile | None = None
    predictions: Predictions | None = None
    method_source: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """One run.

    Args:
        spec: what to do.
        device: the slot's device.
        source: the suite's file, for messages.
        attempt: 1 for the first try.
        adapter_directory: where what was trained is kept, if the run asks for it.
        checkpoint_directory: where it keeps how far it got, and finds how far an earlier attempt got.
        after_failure: whether the attempt before this one failed by itself.
        run_directory: beside whose record trackers keep what they write.
        trackers: names of those that follow the run.
        timing_only: a round of the run and not the run itself: steps are timed, and nothing else is done.
        rounds: of the run, timed before; empty where it times its steps itself.
    """

    spec: RunSpec
    device: str
    source: str
    attempt: int
    adapter_directory: Path
    checkpoint_directory: Path
    after_failure: bool = False
    run_directory: Path
    trackers: tuple[str, ...] = ()
    timing_only: bool = False
    rounds: tuple[KeptRound, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TryTask:
    """A few training steps of a run, to see whether they fit.

    Args:
        spec: the run, with the batch and the length that are tried.
        device: the slot's device.
        source: the suite's file, for messages.
        memory_bytes: that a pool may hold, where the device has one.
    """

    spec: RunSpec
    device: str
    source: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a ``TryTask``.

    Args:
        status: ``ok``, ``oom`` or ``failed``.
        failure: why the steps didn't come to their end; ``None`` where they did.
        peak_bytes: in use at the last step's highest moment; ``None`` with a failure, as all that follows.
        reserved_bytes: held by the pool at most; ``None`` where there is no pool.
        unowned_bytes: on the device beside the pool; ``None`` where that can't be known.
        alloc_retries: times that the pool was emptied to find room; ``None`` where there is no pool.
    """

    status: Status
    failure: Failure | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    unowned_bytes: int | None = None
    alloc_retries: int | None = None


@dataclass(frozen=True, kw_only=True)
class RoomTask:
    """Asks how much of a device's memory there is.

    Args:
        device: the slot's device.
    """

    device: str


Task = PrepareTask | RunTask | TryTask | RoomTask
"""Work for one fresh process: sent there, done by ``child``."""


@dataclass(frozen=True)
class Result:
    """A task's result, on its way to the parent."""

    value: Any


@dataclass(frozen=True)
class Provisional:
    """A run's result that stands if its process dies before it says more, on its way to the parent."""

    value: RunResult


@dataclass(frozen=True)
class Raised:
    """An error that a task raised, on its way to the parent."""

    error: PeprofError


Message = Progress | Provisional | Result | Raised
