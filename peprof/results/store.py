"""Results on disk: one directory a run, written so that neither a crash nor a second runner can spoil it.

::

    DIRECTORY/runs/RUN_ID/record.json     the result; its presence marks the run as finished
    DIRECTORY/runs/RUN_ID/history.json    the full phase step by step
    DIRECTORY/runs/RUN_ID/predictions.json  the full phase's answers one by one
    DIRECTORY/runs/RUN_ID/memory.json     whose each byte of a step's memory was
    DIRECTORY/runs/RUN_ID/adapter/        what was trained, if asked for; peft/ in peft's format
    DIRECTORY/runs/RUN_ID/checkpoint/     how far an unfinished run got; the next attempt goes on from there
    DIRECTORY/runs/RUN_ID/tensorboard/    what TensorBoard shows of it; beside each other for a whole suite
    DIRECTORY/runs/RUN_ID/suite.toml      the suite the run came from, as it was written
    DIRECTORY/runs/RUN_ID/run.lock        held by the process that is doing the run
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from peprof.breakdown.values import StepProfile
from peprof.errors import StoreError, UsageError
from peprof.results.atomic import TEMPORARY_SUFFIX, remove_temporary_files, replacing
from peprof.results.collecting import without_collecting
from peprof.results.record import FORMAT_VERSION, Predictions, RunRecord, TrainingHistory

RECORD_FILE = "record.json"
HISTORY_FILE = "history.json"
PREDICTIONS_FILE = "predictions.json"
MEMORY_FILE = "memory.json"
ADAPTER_DIRECTORY = "adapter"
TENSORBOARD_DIRECTORY = "tensorboard"
CHECKPOINT_DIRECTORY = "checkpoint"
SUITE_FILE = "suite.toml"
LOCK_FILE = "run.lock"

_RUNS = "runs"
_SEARCH_DEPTH = 2  # below a directory given to a reader: results/SUITE, results/DATE/SUITE

_KindT = TypeVar("_KindT")


@dataclass(frozen=True, kw_only=True)
class StoreContents:
    """What lies in one or more stores.

    Args:
        records: the readable ones, in the order of their directories' names.
        problems: one error for each record that could not be read.
    """

    records: tuple[RunRecord, ...]
    problems: tuple[StoreError, ...]


class ResultStore:
    """The results of one directory. Holds no open file and no state: any number may look at one directory.

    Args:
        directory: made on the first write, with its parents.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run_directory(self, run_id: str) -> Path:
        """Where the files of a run lie."""
        return self.directory / _RUNS / run_id

    def tensorboard_log(self, run_id: str) -> Path | None:
        """Where TensorBoard finds a run; ``None`` where nothing was written for it."""
        directory = self.run_directory(run_id) / TENSORBOARD_DIRECTORY
        return directory if directory.is_dir() else None

    def write(
        self,
        record: RunRecord,
        *,
        history: TrainingHistory | None = None,
        memory: StepProfile | None = None,
        predictions: Predictions | None = None,
        suite_toml: str | None = None,
    ) -> None:
        """Stores a finished run, or replaces what an earlier attempt left, as a whole or not at all.

        The record comes last, because its presence says that the run is finished: whoever sees it finds the
        other files beside it.

        Args:
            record: of the run ``record.run_id``.
            history: of the full phase; that of an earlier attempt is removed when there is none.
            memory: of one step of the short phase; likewise.
            predictions: of the full phase's result; likewise.
            suite_toml: text of the suite's file.

        Raises:
            StoreError: a full disk, no permission; what was stored before is still there.
        """
        directory = self.run_directory(record.run_id)
        with _explained(directory, "write"):
            directory.mkdir(parents=True, exist_ok=True)
            if suite_toml is not None:
                _replace_file(directory / SUITE_FILE, suite_toml.encode())
            beside = {
                HISTORY_FILE: history.model_dump_json().encode() if history is not None else None,
                PREDICTIONS_FILE: predictions.model_dump_json().encode() if predictions is not None else None,
                MEMORY_FILE: TypeAdapter(StepProfile).dump_json(memory) if memory is not None else None,
            }
            for name, content in beside.items():
                if content is not None:
                    _replace_file(directory / name, content + b"\n")
            _replace_file(directory / RECORD_FILE, record.model_dump_json().encode() + b"\n")
            for name, content in beside.items():
                if content is None:
                    (directory / name).unlink(missing_ok=True)

    def remove_checkpoint(self, run_id: str) -> None:
        """Removes what a run could have gone on from; there is none once it has a result."""
        shutil.rmtree(self.run_directory(run_id) / CHECKPOINT_DIRECTORY, ignore_errors=True)

    def check_writable(self) -> None:
        """Makes the directory and writes a file into it, before hours are spent on what can't be kept.

        Raises:
            StoreError: it can't be made or written.
        """
        with _explained(self.directory, "write"):
            (self.directory / _RUNS).mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".probe-{os.getpid()}{TEMPORARY_SUFFIX}"
            try:
                probe.write_bytes(b"x")
            finally:
                probe.unlink(missing_ok=True)

    def read(self, run_id: str) -> RunRecord | None:
        """The record of a run; ``None`` when it isn't finished.

        Raises:
            StoreError: the record is damaged, was written by a newer peprof, or can't be opened.
        """
        path = self.run_directory(run_id) / RECORD_FILE
        record = read_record(path)
        if record is not None and record.run_id != run_id:
            raise StoreError(
                f"{path}: holds the record of another run, '{record.run_id}'",
                hint="The directory was copied or renamed: give it its run_id as name, or move it elsewhere.",
            )
        return record

    def finished(self, run_id: str) -> bool:
        """Whether a run has a record, whatever its status.

        Raises:
            StoreError: there is one that can't be read. It is not taken as unfinished, since the run would
                then overwrite it; it might be a newer peprof's.
        """
        return self.read(run_id) is not None

    def read_history(self, run_id: str) -> TrainingHistory | None:
        """The full phase of a run, step by step; ``None`` when there is none.

        Raises:
            StoreError: the file is damaged or can't be opened.
        """
        return _read(self.run_directory(run_id) / HISTORY_FILE, TrainingHistory)

    def read_predictions(self, run_id: str) -> Predictions | None:
        """What a run's result answered to each example; ``None`` when there is none.

        Raises:
            StoreError: the file is damaged or can't be opened.
        """
        return _read(self.run_directory(run_id) / PREDICTIONS_FILE, Predictions)

    def read_memory(self, run_id: str) -> StepProfile | None:
        """Whose each byte of a step's memory was; ``None`` when the run didn't get that far.

        Raises:
            StoreError: the file is damaged or can't be opened.
        """
        return read_memory(self.run_directory(run_id) / MEMORY_FILE)

    def scan(self) -> StoreContents:
        """Reads all records; one that can't be read costs none of the others.

        Raises:
            StoreError: the directory itself can't be listed.
        """
        records, problems = [], []
        with without_collecting():
            for run_id in self._run_ids():
                record = self._read_sound(run_id)
                if record is None:
                    try:
                        record = self.read(run_id)
                    except StoreError as problem:
                        problems.append(problem)
                        continue
                if record is not None:
                    records.append(record)
        return StoreContents(records=tuple(records), problems=tuple(problems))

    def _read_sound(self, run_id: str) -> RunRecord | None:
        """The record of a run where nothing is wrong with it; ``None``, and no reason, for any other."""
        try:
            with open(f"{self.directory}/{_RUNS}/{run_id}/{RECORD_FILE}", "rb") as file:  # noqa: PTH123 - a Path costs more than the reading
                record = RunRecord.model_validate_json(file.read())
        except (OSError, ValidationError):
            return None
        return record if record.run_id == run_id and record.format_version <= FORMAT_VERSION else None

    def records(self) -> list[RunRecord]:
        """The readable records in the order of their run ids; see ``scan`` for those that aren't."""
        return list(self.scan().records)

    def problems(self) -> list[StoreError]:
        """One error for each record that can't be read."""
        return list(self.scan().problems)

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[bool]:
        """Tries to take a run for this process; yields whether it did, at once.

        The claim is a lock of the kernel's on an open file: it ends with the block, or with the process,
        however that dies, so nothing stale is ever left. Ask ``finished`` again inside, since another runner
        may have finished the run between the look and the claim. A child forked while the lock is held would
        inherit it and keep it beyond the parent's death; one spawned or from a fork server does not.

        Raises:
            StoreError: the lock file can't be made.
        """
        from filelock import FileLock, Timeout  # costs readers of results 50 ms that they have no use for

        directory = self.run_directory(run_id)
        with _explained(directory, "claim a run in"):
            directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(directory / LOCK_FILE, blocking=False)
            try:
                lock.acquire()
            except Timeout:
                taken = False
            else:
                taken = True
        if not taken:
            yield False
            return
        try:
            with _explained(directory, "clean"):
                remove_temporary_files(directory)
            yield True
        finally:
            lock.release()

    def _run_ids(self) -> list[str]:
        runs = self.directory / _RUNS
        with _explained(runs, "read"):
            try:
                with os.scandir(runs) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except FileNotFoundError:
                return []


def find_stores(*directories: Path) -> list[ResultStore]:
    """The stores in the given directories: a directory itself, or those up to two levels below it.

    A store that is reached twice is returned once.

    Raises:
        UsageError: a directory doesn't exist.
        StoreError: a directory can't be listed.
    """
    found: dict[Path, ResultStore] = {}
    for directory in directories:
        if not directory.is_dir():
            what = "is not a directory" if directory.exists() else "does not exist"
            raise UsageError(
                f"the results directory '{directory}' {what}",
                hint="'peprof run SUITE' measures and makes one; or name a directory that holds results.",
            )
        with _explained(directory, "read"):
            for store in _stores_below(directory, _SEARCH_DEPTH):
                found.setdefault(store.resolve(), ResultStore(store))
    return list(found.values())


def _stores_below(directory: Path, depth: int) -> Iterator[Path]:
    if (directory / _RUNS).is_dir():
        yield directory
    if depth == 0:
        return
    for child in sorted(directory.iterdir()):
        if child.is_dir() and child.name != _RUNS and not child.name.startswith("."):
            yield from _stores_below(child, depth - 1)


def load_records(*directories: Path) -> StoreContents:
    """All records of the stores in the given directories, see ``find_stores``."""
    contents = [store.scan() for store in find_stores(*directories)]
    return StoreContents(
        records=tuple(record for part in contents for record in part.records),
        problems=tuple(problem for part in contents for problem in part.problems),
    )


def read_record(path: Path) -> RunRecord | None:
    """The record in a file, wherever that lies; ``None`` when there is no such file.

    Raises:
        StoreError: it is damaged, was written by a newer peprof, or can't be opened.
    """
    record = _read(path, RunRecord)
    if record is not None and record.format_version > FORMAT_VERSION:
        raise _newer(path, record.format_version)
    return record


def read_memory(path: Path) -> StepProfile | None:
    """The profile of a step in a file, wherever that lies; ``None`` when there is no such file.

    Raises:
        StoreError: it is damaged or can't be opened.
    """
    return _read(path, StepProfile)


def _read(path: Path, kind: type[_KindT]) -> _KindT | None:
    with _explained(path, "read"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        raise _damaged(path, data, error) from error


def _damaged(path: Path, data: bytes, error: ValidationError) -> StoreError:
    """Tells a torn file from one of a newer format and from one that somebody has changed."""
    try:
        content: Any = json.loads(data)
    except ValueError:
        found = "is empty" if not data.strip() else f"is not complete JSON ({len(data)} bytes)"
        return StoreError(
            f"{path}: {found}", hint="Delete this file and run the suite again: only this run is repeated."
        )
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        return _newer(path, version)
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole file"
    more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return StoreError(
        f"{path}: is not a valid {path.stem}: {where}: {first['msg']}{more}",
        hint="Restore the file if it was edited; otherwise delete it and run the suite again.",
    )


def _newer(path: Path, version: int) -> StoreError:
    return StoreError(
        f"{path}: has format version {version}; this peprof reads up to {FORMAT_VERSION}",
        hint="Upgrade peprof: 'pip install --upgrade peprof'.",
    )


def _replace_file(path: Path, data: bytes) -> None:
    """Puts ``data`` in place of ``path`` in one step; on a failure what was there stays as it was."""
    with replacing(path) as file:
        file.write(data)


_HINTS = {
    errno.ENOSPC: "The disk is full: free some space and run the same command again; finished runs are kept.",
    errno.EDQUOT: "Your disk quota is used up: free some space and run the same command again.",
    errno.EFBIG: "A file size limit was hit: see 'ulimit -f'; then run the same command again.",
    errno.ENOENT: "Name a directory that can be made with --results.",
    errno.ENOTDIR: "A part of this path is a file: move it away, or name another directory with --results.",
    errno.EEXIST: "A part of this path is a file: move it away, or name another directory with --results.",
    errno.EACCES: "Check who may read and write there, or name another directory with --results.",
    errno.EPERM: "Check who may read and write there, or name another directory with --results.",
    errno.EROFS: "This file system is mounted read-only: name another directory with --results.",
}


@contextlib.contextmanager
def _explained(path: Path, action: str) -> Iterator[None]:
    """Turns what the operating system says of a file into an error that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        code = error.errno if error.errno is not None else 0
        raise StoreError(f"can't {action} '{path}': {reason}", hint=_HINTS.get(code)) from error
