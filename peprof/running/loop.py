"""Keeps each slot busy; what a dead, late or silent child becomes."""

from __future__ import annotations

import signal
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from peprof.errors import StoreError
from peprof.events import Progress
from peprof.results.record import Failure, RunRecord, Status, utc_now
from peprof.results.store import ADAPTER_DIRECTORY, CHECKPOINT_DIRECTORY, ResultStore
from peprof.running.executors.local import Child, Exit, LocalExecutor
from peprof.running.observing import Observer
from peprof.running.rounds import KeptRound, keep_round, kept_rounds, missing_round, rounds_of
from peprof.running.tasks import Prepared, Provisional, Raised, Result, RunResult, RunTask, Slot
from peprof.suite.loading import LoadedSuite
from peprof.suite.planning import RunSpec

POLL_S = 0.25

RETRIED: frozenset[Status] = frozenset({"failed", "timeout"})
"""What is tried again by the next call; running out of memory and diverging are results."""

MEMORY_HINT = "The system may have run out of memory (see the kernel's log): lower train.batch_size."


@dataclass(kw_only=True)
class Active:
    """A run that is going on.

    Args:
        spec, attempt, started_at: of the run.
        claim: holds its lock.
        round_number: which round of the run it is; ``None`` for the run itself.
        phase: what it said last that it does.
        provisional: what it has found, should it die before it says more.
    """

    spec: RunSpec
    attempt: int
    claim: ExitStack
    started_at: str
    round_number: int | None = None
    phase: str = "start"
    provisional: RunResult | None = None


@dataclass(kw_only=True)
class State:
    """What is to do, going on and done.

    Args:
        queue: runs to take up, in order; one that has rounds stands in it once for each, and once more.
        attempts: by run id, which try it will be.
        after_failure: ids of runs whose last attempt failed by itself.
        rounds_timed: by run id, how many of its rounds this runner has timed.
        done: records by run id.
        problems: records from before that can't be read.
        active: runs that are going on.
        noticed: what the user was told already.
    """

    queue: deque[RunSpec] = field(default_factory=deque)
    attempts: dict[str, int] = field(default_factory=dict)
    after_failure: set[str] = field(default_factory=set)
    rounds_timed: dict[str, int] = field(default_factory=dict)
    done: dict[str, RunRecord] = field(default_factory=dict)
    problems: list[StoreError] = field(default_factory=list)
    active: dict[Child, Active] = field(default_factory=dict)
    noticed: set[str] = field(default_factory=set)


class Loop:
    """Keeps each slot busy until every planned run has a record."""

    def __init__(
        self,
        store: ResultStore,
        prepared: Prepared,
        loaded: LoadedSuite,
        observer: Observer,
        executor: LocalExecutor,
        state: State,
        trackers: tuple[str, ...] = (),
    ) -> None:
        self._store, self._prepared, self._loaded = store, prepared, loaded
        self._observer, self._executor, self._state = observer, executor, state
        self._trackers = trackers
        self._index = {spec.run_id: index for index, spec in enumerate(prepared.specs, start=1)}

    def run(self) -> None:
        """Returns when every planned run has a record; ends all children however it is left."""
        state = self._state
        try:
            while state.queue or state.active:
                started = self._fill_slots()
                if state.active:
                    for child, message in self._executor.receive(POLL_S):
                        self._hear(child, message)
                    self._stop_late_runs()
                elif state.queue and not started:
                    time.sleep(POLL_S)  # the rest is being done elsewhere, or the device is busy
        finally:
            self._executor.close()
            for active in state.active.values():
                active.claim.close()

    def _fill_slots(self) -> bool:
        started = False
        for slot in self._prepared.slots:
            if slot not in self._executor.busy_slots() and self._start_next(slot):
                started = True
        return started

    def _start_next(self, slot: Slot) -> bool:
        """Starts the first run in the queue that nobody else is doing."""
        for _ in range(len(self._state.queue)):
            spec = self._state.queue.popleft()
            if spec.run_id in self._state.done:
                continue  # one of its rounds failed, or another runner has done some of them
            if any(active.spec.run_id == spec.run_id for active in self._state.active.values()):
                self._state.queue.append(spec)  # a round of it is going on elsewhere
                continue
            claim = ExitStack()
            if not claim.enter_context(self._store.claim(spec.run_id)):
                self._state.queue.append(spec)  # somebody else is at it: look again later
                self._notice_once("another peprof is working on this suite too: the work is shared")
                continue
            record = self._store.read(spec.run_id)
            if record is not None and record.attempt >= self._state.attempts[spec.run_id]:
                claim.close()  # another runner finished it since we looked
                self._finish(record)
                continue
            if self._start(spec, slot, claim):
                return True
            claim.close()
            self._state.queue.appendleft(spec)
            self._notice_once(
                f"another peprof is measuring on {slot.device}: waiting, since timings must not overlap"
            )
            return False
        return False

    def _start(self, spec: RunSpec, slot: Slot, claim: ExitStack) -> bool:
        """Starts the run, or the first of its rounds that is still to be timed."""
        directory = self._store.run_directory(spec.run_id)
        rounds = kept_rounds(directory / CHECKPOINT_DIRECTORY, spec, self._prepared.environment)
        number = missing_round(rounds, spec)
        if self._state.rounds_timed.get(spec.run_id, 0) >= rounds_of(spec):
            number = None  # on another kind of device, maybe: more of them would be of no use either
        task = self._task(spec, slot, rounds, number)
        child = self._executor.start(task, slot=slot, log_path=directory / "log.txt")
        if child is None:
            return False
        self._state.active[child] = Active(
            spec=spec, attempt=task.attempt, claim=claim, started_at=utc_now(), round_number=number
        )
        place = (self._index[spec.run_id], len(self._index))
        if number is None:
            self._observer.run_started(spec, *place)
        else:
            self._observer.round_started(spec, *place, number)
        return True

    def _task(
        self, spec: RunSpec, slot: Slot, rounds: tuple[KeptRound, ...], round_number: int | None
    ) -> RunTask:
        directory = self._store.run_directory(spec.run_id).absolute()
        return RunTask(
            spec=spec,
            device=slot.device,
            source=self._loaded.source,
            attempt=self._state.attempts[spec.run_id],
            adapter_directory=directory / ADAPTER_DIRECTORY,
            checkpoint_directory=directory / CHECKPOINT_DIRECTORY,
            after_failure=spec.run_id in self._state.after_failure,
            run_directory=directory,
            trackers=self._trackers,
            timing_only=round_number is not None,
            rounds=rounds if round_number is None else (),
        )

    def _hear(self, child: Child, message: object) -> None:
        active = self._state.active[child]
        if isinstance(message, Progress):
            active.phase = message.phase
            self._observer.progress(replace(message, run_id=active.spec.run_id))
            if message.note is not None:
                self._observer.notice(f"{active.spec.run_id}: {message.note}")
        elif isinstance(message, Provisional):
            active.provisional = message.value
        elif isinstance(message, Result):
            self._executor.finish(child)
            assert isinstance(message.value, RunResult)
            if active.round_number is not None and message.value.record.status == "ok":
                self._keep_round(child, message.value, active.round_number)
            else:
                self._record(child, message.value)
        elif isinstance(message, Raised):
            self._executor.finish(child)
            failure = Failure(
                phase=active.phase,
                kind=type(message.error).__name__,
                message=message.error.message,
                hint=message.error.hint,
            )
            self._record(child, self._made(child, "failed", failure))
        elif isinstance(message, Exit):
            failure = Failure(
                phase=active.phase,
                kind="Signal" if message.code < 0 else "Exit",
                message=f"the process ended without an answer: {exit_words(message.code)}",
                hint=_death_hint(message.code, child),
                exit_code=message.code,
                traceback=child.log_tail() or None,
            )
            self._record(child, self._made(child, "failed", failure))

    def _stop_late_runs(self) -> None:
        for child, active in list(self._state.active.items()):
            limit = active.spec.limits.run_seconds
            if limit is None or child.running_s() < limit:
                continue
            self._executor.kill(child)
            failure = Failure(
                phase=active.phase,
                kind="TimeLimit",
                message=f"stopped after {limit:g} s (limits.run_seconds)",
                hint="Raise limits.run_seconds, or shorten the run with train.max_steps.",
            )
            self._record(child, self._made(child, "timeout", failure))

    def _made(self, child: Child, status: Status, failure: Failure) -> RunResult:
        """The record of a run whose child can't give one: what it had said before, or else how it ended."""
        active = self._state.active[child]
        if active.provisional is not None:
            return active.provisional
        record = RunRecord(
            run_id=active.spec.run_id,
            spec=active.spec,
            status=status,
            failure=failure,
            started_at=active.started_at,
            finished_at=utc_now(),
            total_time_s=child.running_s(),
            attempt=active.attempt,
        )
        return RunResult(record=record, history=None)

    def _keep_round(self, child: Child, result: RunResult, number: int) -> None:
        """Puts a round aside until its run has all of them; the queue has the run's next turn already."""
        active = self._state.active.pop(child)
        record = result.record
        assert record.environment is not None and record.short is not None
        assert result.method_source is not None  # all of them are known when steps have been timed
        with active.claim:
            keep_round(
                self._store.run_directory(record.run_id) / CHECKPOINT_DIRECTORY,
                KeptRound(
                    run_id=record.run_id,
                    number=number,
                    started_at=record.started_at,
                    total_time_s=record.total_time_s,
                    environment=record.environment,
                    method_source=result.method_source,
                    short=record.short,
                ),
            )
        self._state.rounds_timed[record.run_id] = self._state.rounds_timed.get(record.run_id, 0) + 1
        if active.spec not in self._state.queue:
            self._state.queue.append(active.spec)  # what lay there of its rounds was of no use
        self._observer.round_finished(active.spec)

    def _record(self, child: Child, result: RunResult) -> None:
        active = self._state.active.pop(child)
        with active.claim:
            self._store.write(
                result.record,
                history=result.history,
                memory=result.memory,
                predictions=result.predictions,
                suite_toml=self._loaded.text,
            )
            if result.record.status not in RETRIED:
                self._store.remove_checkpoint(result.record.run_id)
        self._finish(result.record)

    def _finish(self, record: RunRecord) -> None:
        self._state.done[record.run_id] = record
        self._observer.run_finished(record)

    def _notice_once(self, text: str) -> None:
        if text not in self._state.noticed:
            self._state.noticed.add(text)
            self._observer.notice(text)


def failed_by_itself(record: RunRecord) -> bool:
    """Whether a run failed for a reason that lies in it: nobody stopped it, and nobody killed its process."""
    failure = record.failure
    from_outside = failure is not None and failure.exit_code in (-9, -15)  # SIGKILL, SIGTERM
    return record.status == "failed" and not from_outside


def exit_words(code: int) -> str:
    """How a process ended, from its exit code; negative is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _death_hint(code: int, child: Child) -> str:
    if code == -9:
        return MEMORY_HINT
    return f"Its output is in {child.log_path}."
