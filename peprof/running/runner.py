"""Runs a suite: what is left to do, in order, each run in a fresh process; what a dead child becomes.

The parent never imports torch. It alone writes records, so that a run is recorded once, whole or not at all.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from peprof.errors import RunFailedError
from peprof.events import Progress
from peprof.results.record import Failure, RunRecord, Status
from peprof.results.store import ResultStore
from peprof.running.executors.local import Child, Exit, LocalExecutor
from peprof.running.tasks import Prepared, PrepareTask, Raised, Result, RunResult, RunTask, Task
from peprof.suite.loading import LoadedSuite
from peprof.suite.planning import RunSpec, plan

RETRIED: frozenset[Status] = frozenset({"failed", "timeout"})
"""What is tried again by the next call; running out of memory and diverging are results."""

POLL_S = 0.25

_MEMORY_HINT = "The system may have run out of memory (see the kernel's log): lower train.batch_size."


class Observer(Protocol):
    """Whoever shows what goes on; ``reports.progress`` does."""

    def plan(self, total_runs: int, finished_already: int) -> None:
        """Runs of the suite, and how many of them have a record from before."""

    def notice(self, text: str) -> None:
        """Something that the user should know."""

    def run_started(self, spec: RunSpec, index: int, total: int) -> None:
        """A run starts; ``index`` counts from 1."""

    def progress(self, event: Progress) -> None:
        """A sign of life of a run, or of what comes before the first."""

    def run_finished(self, record: RunRecord) -> None:
        """A run has its record."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What ``run_suite`` leaves.

    Args:
        store: where the records lie.
        records: of all planned runs, in the plan's order.
        offline_reason: why the ``[offline]`` overlay was applied, or ``None``.
    """

    store: ResultStore
    records: tuple[RunRecord, ...]
    offline_reason: str | None


@dataclass(kw_only=True)
class _Active:
    """A run that is going on; ``claim`` holds its lock."""

    spec: RunSpec
    attempt: int
    claim: ExitStack
    started_at: str
    phase: str = "start"


@dataclass(kw_only=True)
class _State:
    queue: deque[RunSpec]
    done: dict[str, RunRecord] = field(default_factory=dict)
    active: dict[Child, _Active] = field(default_factory=dict)
    noticed: set[str] = field(default_factory=set)


def prepare_suite(
    loaded: LoadedSuite, *, device: str, observer: Observer, warm_caches: bool = True
) -> tuple[Prepared, tuple[RunSpec, ...]]:
    """Checks device, sources, data and options in a child, and plans the runs.

    Args:
        loaded: the suite.
        device: as the user named it.
        observer: told of progress, and of the offline overlay.
        warm_caches: also do what the first run would otherwise wait for (pre-training the embedded model).

    Raises:
        PeprofError: all that is wrong, together.
    """
    task = PrepareTask(loaded=loaded, device=device, warm_caches=warm_caches)
    with _executor() as executor, tempfile.TemporaryDirectory(prefix="peprof-") as directory:
        prepared = _prepared(executor, task, observer, Path(directory) / "prepare.log")
    suite = loaded.suite
    if prepared.offline_reason is not None:
        assert loaded.offline is not None  # else preparing had raised
        suite = loaded.offline
        observer.notice(
            f"OFFLINE: {prepared.offline_reason}. The suite's [offline] table applies: "
            f"model {suite.model.name} with {suite.model.weights} weights, data "
            f"{suite.data.path or suite.data.name}, phases {', '.join(suite.phases)}."
        )
    kind = prepared.device.partition(":")[0]
    return prepared, plan(suite, device=kind, offline_reason=prepared.offline_reason)


def run_suite(
    loaded: LoadedSuite,
    *,
    results: Path,
    device: str = "auto",
    observer: Observer,
    retry: bool = True,
) -> Outcome:
    """Runs all of a suite that has no record yet.

    Args:
        loaded: the suite.
        results: the directory of all results; this suite's lie in ``results / suite.name``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        observer: told what goes on.
        retry: try runs again that failed or ran out of time before.

    Raises:
        PeprofError: nothing could be run; failures of single runs are rows, not errors.
        KeyboardInterrupt: passed on, after the children have been ended. Finished records are kept.
    """
    store = ResultStore(results / loaded.suite.name)
    prepared, specs = prepare_suite(loaded, device=device, observer=observer)
    state = _State(queue=deque())
    for spec in specs:
        record = store.read(spec.run_id)
        if record is None or (retry and record.status in RETRIED):
            state.queue.append(spec)
        else:
            state.done[spec.run_id] = record
    observer.plan(len(specs), len(state.done))
    attempts = {spec.run_id: _attempt(store, spec) for spec in state.queue}
    with _executor() as executor:
        _Loop(store, prepared, loaded, observer, executor, state, specs, attempts).run()
    records = tuple(state.done[spec.run_id] for spec in specs)
    return Outcome(store=store, records=records, offline_reason=prepared.offline_reason)


def _attempt(store: ResultStore, spec: RunSpec) -> int:
    before = store.read(spec.run_id)
    return 1 if before is None else before.attempt + 1


@contextmanager
def _executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor()
    try:
        yield executor
    finally:
        executor.close()


def _prepared(executor: LocalExecutor, task: Task, observer: Observer, log_path: Path) -> Prepared:
    observer.progress(Progress(phase="setup: importing torch"))
    child = executor.start(task, slot="prepare", log_path=log_path)
    while child is None:
        time.sleep(POLL_S)  # another runner prepares: it may be making the very caches that are needed here
        child = executor.start(task, slot="prepare", log_path=log_path)
    while True:
        for _, message in executor.receive(POLL_S):
            if isinstance(message, Progress):
                observer.progress(message)
            elif isinstance(message, Result):
                executor.finish(child)
                assert isinstance(message.value, Prepared)
                return message.value
            elif isinstance(message, Raised):
                executor.finish(child)
                raise message.error
            else:
                tail = child.log_tail()
                raise RunFailedError(
                    f"preparing the suite ended without an answer ({_exit_words(message.code)})"
                    + (f"; its last words:\n{tail}" if tail else ""),
                    hint=_MEMORY_HINT if message.code == -9 else "Please report this, with the suite.",
                )


class _Loop:
    """Keeps each slot busy until every planned run has a record."""

    def __init__(
        self,
        store: ResultStore,
        prepared: Prepared,
        loaded: LoadedSuite,
        observer: Observer,
        executor: LocalExecutor,
        state: _State,
        specs: Sequence[RunSpec],
        attempts: dict[str, int],
    ) -> None:
        self._store, self._prepared, self._loaded = store, prepared, loaded
        self._observer, self._executor, self._state = observer, executor, state
        self._total = len(specs)
        self._index = {spec.run_id: index for index, spec in enumerate(specs, start=1)}
        self._attempts = attempts

    def run(self) -> None:
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

    def _start_next(self, slot: str) -> bool:
        """Starts the first run in the queue that nobody else is doing."""
        for _ in range(len(self._state.queue)):
            spec = self._state.queue.popleft()
            claim = ExitStack()
            if not claim.enter_context(self._store.claim(spec.run_id)):
                self._state.queue.append(spec)  # somebody else is at it: look again later
                self._notice_once("another peprof is working on this suite too: the work is shared")
                continue
            record = self._store.read(spec.run_id)
            if record is not None and record.attempt >= self._attempts[spec.run_id]:
                claim.close()  # another runner finished it since we looked
                self._finish(record)
                continue
            if self._start(spec, slot, claim):
                return True
            claim.close()
            self._state.queue.appendleft(spec)
            self._notice_once(
                f"another peprof is measuring on {slot}: waiting, since timings must not overlap"
            )
            return False
        return False

    def _start(self, spec: RunSpec, slot: str, claim: ExitStack) -> bool:
        attempt = self._attempts[spec.run_id]
        task = RunTask(spec=spec, device=slot, source=self._loaded.source, attempt=attempt)
        log_path = self._store.run_directory(spec.run_id) / "log.txt"
        child = self._executor.start(task, slot=slot, log_path=log_path)
        if child is None:
            return False
        self._state.active[child] = _Active(spec=spec, attempt=attempt, claim=claim, started_at=_now())
        self._observer.run_started(spec, self._index[spec.run_id], self._total)
        return True

    def _hear(self, child: Child, message: object) -> None:
        active = self._state.active[child]
        if isinstance(message, Progress):
            active.phase = message.phase
            self._observer.progress(replace(message, run_id=active.spec.run_id))
        elif isinstance(message, Result):
            self._executor.finish(child)
            assert isinstance(message.value, RunResult)
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
                message=f"the process ended without an answer: {_exit_words(message.code)}",
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
        """The record of a run whose child can't give one."""
        active = self._state.active[child]
        record = RunRecord(
            run_id=active.spec.run_id,
            spec=active.spec,
            status=status,
            failure=failure,
            started_at=active.started_at,
            finished_at=_now(),
            total_time_s=child.running_s(),
            attempt=active.attempt,
        )
        return RunResult(record=record, history=None)

    def _record(self, child: Child, result: RunResult) -> None:
        active = self._state.active.pop(child)
        with active.claim:
            self._store.write(result.record, history=result.history, suite_toml=self._loaded.text)
        self._finish(result.record)

    def _finish(self, record: RunRecord) -> None:
        self._state.done[record.run_id] = record
        self._observer.run_finished(record)

    def _notice_once(self, text: str) -> None:
        if text not in self._state.noticed:
            self._state.noticed.add(text)
            self._observer.notice(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _exit_words(code: int) -> str:
    import signal

    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _death_hint(code: int, child: Child) -> str:
    if code == -9:
        return _MEMORY_HINT
    return f"Its output is in {child.log_path}."
