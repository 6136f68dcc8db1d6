"""Runs a suite: what is left to do, in order, each run in a fresh process; what a dead child becomes.

The parent never imports torch. It alone writes records, so that a run is recorded once, whole or not at all.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peprof.errors import RunFailedError, StoreError
from peprof.events import Progress
from peprof.results.record import RunRecord
from peprof.results.store import ResultStore
from peprof.running.executors.local import Exit, LocalExecutor
from peprof.running.loop import MEMORY_HINT, POLL_S, RETRIED, Loop, State, exit_words, failed_by_itself
from peprof.running.observing import Observer, Silence
from peprof.running.rounds import in_turns
from peprof.running.tasks import Prepared, PrepareTask, Raised, Result, Task
from peprof.suite.loading import LoadedSuite, load_suite
from peprof.tracking.registry import TENSORBOARD, check_trackers


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
    trackers: Sequence[str] = (TENSORBOARD,),
    retry: bool = True,
) -> Outcome:
    """Runs all of a suite that has no record yet.

    Args:
        suite: loaded, or what ``load_suite`` takes.
        results: the directory of all results; this suite's lie in ``results / suite.name``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        observer: told what goes on; nobody unless given.
        trackers: names of those that follow each run; TensorBoard unless given, nobody where empty.
        retry: try runs again that failed or ran out of time before.

    Raises:
        PeprofError: there is no such tracker; nothing could be run. Failures of single runs are rows.
        KeyboardInterrupt: passed on, after the children have been ended. Finished records are kept.

    Example:
        >>> outcome = run_suite("quickstart")  # doctest: +SKIP
        >>> [record.status for record in outcome.records]  # doctest: +SKIP
    """
    names = check_trackers(trackers)
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
        Loop(store, prepared, loaded, observer, executor, state, names).run()
    return Outcome(
        store=store,
        records=tuple(state.done[spec.run_id] for spec in prepared.specs if spec.run_id in state.done),
        problems=tuple(state.problems),
        offline_reason=prepared.offline_reason,
    )


def _looked_up(store: ResultStore, prepared: Prepared, *, retry: bool) -> State:
    """What is done already, and what is to do."""
    state = State()
    for spec in prepared.specs:
        try:
            record = store.read(spec.run_id)
        except StoreError as problem:
            state.problems.append(problem)  # it may be a newer peprof's: never overwritten
            continue
        if record is None or (retry and record.status in RETRIED):
            state.queue.append(spec)
            state.attempts[spec.run_id] = 1 if record is None else record.attempt + 1
            if record is not None and failed_by_itself(record):
                state.after_failure.add(spec.run_id)
        else:
            state.done[spec.run_id] = record
            if record.status not in RETRIED:
                store.remove_checkpoint(spec.run_id)  # a runner that was killed may have left it
    state.queue = deque(in_turns(state.queue))
    return state


def _old_conditions(state: State, prepared: Prepared) -> Iterator[str]:
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
            elif isinstance(message, Exit):
                tail = child.log_tail()
                raise RunFailedError(
                    f"preparing the suite ended without an answer ({exit_words(message.code)})"
                    + (f"; its last words:\n{tail}" if tail else ""),
                    hint=MEMORY_HINT if message.code == -9 else "Please report this, with the suite.",
                )
