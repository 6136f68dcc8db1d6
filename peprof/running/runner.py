"""Runs a suite: what is left to do, in order, each run in a fresh process; what a dead child becomes.

The parent never imports torch. It alone writes records, so that a run is recorded once, whole or not at all.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from peprof.errors import RunFailedError, StoreError
from peprof.events import Progress
from peprof.results.record import Failure, RunRecord, Status
from peprof.results.store import ResultStore
from peprof.running.executors.local import Child, Exit, LocalExecutor
from peprof.running.tasks import Prepared, PrepareTask, Raised, Result, RunResult, RunTask, Slot, Task
from peprof.suite.loading import LoadedSuite, load_suite
from peprof.suite.planning import RunSpec

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


class Silence:
    """An observer that shows nothing."""

    def plan(self, total_runs: int, finished_already: int) -> None:
        """Shows nothing."""

    def notice(self, text: str) -> None:
        """Shows nothing."""

    def run_started(self, spec: RunSpec, index: int, total: int) -> None:
        """Shows nothing."""

    def progress(self, event: Progress) -> None:
        """Shows nothing."""

    def run_finished(self, record: RunRecord) -> None:
        """Shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What ``run_suite`` leaves.

    Args:
        store: where the records lie.
        records: of the planned runs, in the plan's order.
        problems: one error for each planned run whose record from before can't be read; it was left alone.
        offline_reason: why the ``[offline]`` overlay was applied, or ``None``.
    """

    store: ResultStore
    records: tuple[RunRecord, ...]
    problems: tuple[StoreError, ...]
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
    queue: deque[RunSpec] = field(default_factory=deque)
    attempts: dict[str, int] = field(default_factory=dict)
    done: dict[str, RunRecord] = field(default_factory=dict)
    problems: list[StoreError] = field(default_factory=list)
    active: dict[Child, _Active] = field(default_factory=dict)
    noticed: set[str] = field(default_factory=set)


def prepare_suite(
    loaded: LoadedSuite,
    *,
    device: str = "auto",
    observer: Observer | None = None,
    fetch: bool = True,
    log_path: Path | None = None,
) -> Prepared:
    """Checks device, sources, data, options and methods in a child, and plans the runs.

    Args:
        loaded: the suite.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        observer: told of progress, and of the offline overlay.
        fetch: also do what the first run would otherwise wait for: download, pre-train the embedded model.
        log_path: where the child's output goes; nowhere that lasts unless given.

    Raises:
        PeprofError: all that is wrong, together.
    """
    observer = observer or Silence()
    task = PrepareTask(loaded=loaded, device=device, fetch=fetch)
    with _executor() as executor, tempfile.TemporaryDirectory(prefix="peprof-") as directory:
        prepared = _prepared(executor, task, observer, log_path or Path(directory) / "prepare.log")
    if prepared.offline_reason is not None:
        assert loaded.offline is not None  # else preparing had raised
        suite = loaded.offline
        observer.notice(
            f"OFFLINE: {prepared.offline_reason}. The suite's [offline] table applies: "
            f"model {suite.model.name} with {suite.model.weights} weights, data "
            f"{suite.data.path or suite.data.name}, phases {', '.join(suite.phases)}."
        )
    return prepared


def run_suite(
    suite: LoadedSuite | str | Path,
    *,
    results: Path | str = "results",
    device: str = "auto",
    observer: Observer | None = None,
    retry: bool = True,
) -> Outcome:
    """Runs all of a suite that has no record yet.

    Args:
        suite: loaded, or what ``load_suite`` takes.
        results: the directory of all results; this suite's lie in ``results / suite.name``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        observer: told what goes on; nobody unless given.
        retry: try runs again that failed or ran out of time before.

    Raises:
        PeprofError: nothing could be run; failures of single runs are rows, not errors.
        KeyboardInterrupt: passed on, after the children have been ended. Finished records are kept.

    Example:
        >>> outcome = run_suite("quickstart")  # doctest: +SKIP
        >>> [record.status for record in outcome.records]  # doctest: +SKIP
    """
    loaded = suite if isinstance(suite, LoadedSuite) else load_suite(suite)
    observer = observer or Silence()
    store = ResultStore(Path(results) / loaded.suite.name)
    store.check_writable()
    log_path = store.directory / "prepare.log"
    prepared = prepare_suite(loaded, device=device, observer=observer, log_path=log_path)
    state = _looked_up(store, prepared, retry=retry)
    observer.plan(len(prepared.specs), len(state.done))
    for text in (*(problem.message for problem in state.problems), *_old_conditions(state, prepared)):
        observer.notice(text)
    with _executor() as executor:
        _Loop(store, prepared, loaded, observer, executor, state).run()
    return Outcome(
        store=store,
        records=tuple(state.done[spec.run_id] for spec in prepared.specs if spec.run_id in state.done),
        problems=tuple(state.problems),
        offline_reason=prepared.offline_reason,
    )


def _looked_up(store: ResultStore, prepared: Prepared, *, retry: bool) -> _State:
    """What is done already, and what is to do."""
    state = _State()
    for spec in prepared.specs:
        try:
            record = store.read(spec.run_id)
        except StoreError as problem:
            state.problems.append(problem)  # it may be a newer peprof's: never overwritten
            continue
        if record is None or (retry and record.status in RETRIED):
            state.queue.append(spec)
            state.attempts[spec.run_id] = 1 if record is None else record.attempt + 1
        else:
            state.done[spec.run_id] = record
    return state


def _old_conditions(state: _State, prepared: Prepared) -> Iterator[str]:
    """Says it when finished runs were measured elsewhere, or with other versions, than the rest will be."""
    now = prepared.environment
    for name in ("device_name", "torch", "transformers", "threads"):
        others = {str(getattr(r.environment, name)) for r in state.done.values() if r.environment is not None}
        others.discard(str(getattr(now, name)))
        if others:
            what = f"{name.replace('_', ' ')} {', '.join(sorted(others))}, not {getattr(now, name)}"
            yield (
                f"Some finished runs were measured with {what}: they stand in tables of their own. "
                "Name another --results to repeat them."
            )


@contextmanager
def _executor() -> Iterator[LocalExecutor]:
    executor = LocalExecutor()
    try:
        yield executor
    finally:
        executor.close()


def _prepared(executor: LocalExecutor, task: Task, observer: Observer, log_path: Path) -> Prepared:
    observer.progress(Progress(phase="setup: importing torch"))
    child = executor.start(task, slot=None, log_path=log_path)
    assert child is not None  # only a slot can be taken
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
    ) -> None:
        self._store, self._prepared, self._loaded = store, prepared, loaded
        self._observer, self._executor, self._state = observer, executor, state
        self._index = {spec.run_id: index for index, spec in enumerate(prepared.specs, start=1)}

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

    def _start_next(self, slot: Slot) -> bool:
        """Starts the first run in the queue that nobody else is doing."""
        for _ in range(len(self._state.queue)):
            spec = self._state.queue.popleft()
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
        attempt = self._state.attempts[spec.run_id]
        task = RunTask(spec=spec, device=slot.device, source=self._loaded.source, attempt=attempt)
        log_path = self._store.run_directory(spec.run_id) / "log.txt"
        child = self._executor.start(task, slot=slot, log_path=log_path)
        if child is None:
            return False
        self._state.active[child] = _Active(spec=spec, attempt=attempt, claim=claim, started_at=_now())
        self._observer.run_started(spec, self._index[spec.run_id], len(self._index))
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
