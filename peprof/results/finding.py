"""Which run is meant: by its id, the beginning of one, its directory, or one of its files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peprof.breakdown.sizes import human_bytes
from peprof.breakdown.values import StepProfile
from peprof.errors import PeprofError, UsageError
from peprof.results.record import RunRecord
from peprof.results.store import (
    MEMORY_FILE,
    RECORD_FILE,
    TENSORBOARD_DIRECTORY,
    ResultStore,
    find_stores,
    read_memory,
    read_record,
)

_MOST_LISTED = 30


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run, or a profile that belongs to none.

    Args:
        name: its run id, or the file's path.
        record: ``None`` for a profile without one.
        memory: whose the memory of its step was; ``None`` where the run didn't get that far.
        tensorboard: directory of its log; ``None`` where there is none.
    """

    name: str
    record: RunRecord | None
    memory: StepProfile | None
    tensorboard: Path | None = None


def find_run(name: str | None, directories: Sequence[Path]) -> FoundRun:
    """The one run that is meant.

    Args:
        name: a run id or the beginning of one, a run's directory, its ``record.json`` or ``memory.json``,
            a directory with one run, or a file with ``StepProfile.to_dict()`` as JSON; ``None`` for the only
            run there is.
        directories: of results, looked through for run ids.

    Raises:
        UsageError: no run is meant, or several are; they are listed.
        StoreError: a file is damaged or can't be read.
    """
    if name is not None:
        path = Path(name)
        if path.is_file():
            return _in_file(path)
        if path.is_dir():
            if (path / RECORD_FILE).is_file() or (path / MEMORY_FILE).is_file():
                return _in_directory(path)
            stores = find_stores(path)
            if stores:  # otherwise it may be the beginning of a run's id as well
                return _only(_runs_in(stores), f"in '{name}'")
    runs = _runs_in(find_stores(*directories))
    places = ", ".join(f"'{directory}'" for directory in directories)
    if name is None:
        return _only(runs, f"in {places}")
    meant = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if not meant:
        raise _unknown(name, runs, places)
    if len(meant) > 1:
        raise _several(f"'{name}' is the beginning of {len(meant)} runs", meant)
    return _in_directory(meant[0])


def _runs_in(stores: Sequence[ResultStore]) -> list[Path]:
    return [
        record.parent
        for store in stores
        for record in sorted(store.run_directory("*").parent.glob(f"*/{RECORD_FILE}"))
    ]


def _only(runs: Sequence[Path], where: str) -> FoundRun:
    if not runs:
        raise UsageError(
            f"there are no runs {where}",
            hint="Measure something first: 'peprof run quickstart'; or name a directory with --results.",
        )
    if len(runs) > 1:
        raise _several(f"there are {len(runs)} runs {where}", runs)
    return _in_directory(runs[0])


def _in_directory(directory: Path) -> FoundRun:
    record = read_record(directory / RECORD_FILE)
    memory = read_memory(directory / MEMORY_FILE)
    log = directory / TENSORBOARD_DIRECTORY
    return FoundRun(
        name=record.run_id if record else str(directory),
        record=record,
        memory=memory,
        tensorboard=log if log.is_dir() else None,
    )


def _in_file(path: Path) -> FoundRun:
    if path.name in (RECORD_FILE, MEMORY_FILE):
        return _in_directory(path.parent)
    return FoundRun(name=str(path), record=None, memory=read_memory(path))


def _unknown(name: str, runs: Sequence[Path], places: str) -> UsageError:
    if not runs:
        return UsageError(
            f"there is no run, file or directory of runs '{name}', and there are no runs in {places}",
            hint="'peprof run SUITE' measures some; or name a directory that holds runs with --results.",
        )
    return UsageError(
        f"there is no run, file or directory of runs '{name}'; in {places} there are:\n{_listed(runs)}",
        hint="Name one of these, or as much of its beginning as tells it from the others.",
    )


def _several(what: str, runs: Sequence[Path]) -> UsageError:
    return UsageError(
        f"{what}; which one?\n{_listed(runs)}",
        hint="Name one of these, or as much of its beginning as tells it from the others"
        + ("; runs with one id are told apart by their directories." if _have_namesakes(runs) else "."),
    )


def _have_namesakes(runs: Sequence[Path]) -> bool:
    return len({run.name for run in runs}) < len(runs)


def _listed(runs: Sequence[Path]) -> str:
    """A table: id (or directory), method, peak, model and batch."""
    by_directory = _have_namesakes(runs)
    rows = [("run", "method", "peak", "model")]
    rows += [(str(run) if by_directory else run.name, *_words(run)) for run in runs[:_MOST_LISTED]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"  {run:<{widths[0]}}  {method:<{widths[1]}}  {peak:>{widths[2]}}  {model}"
        for run, method, peak, model in rows
    ]
    if len(runs) > _MOST_LISTED:
        lines.append(f"  ... and {len(runs) - _MOST_LISTED} more")
    return "\n".join(line.rstrip() for line in lines)


def _words(run: Path) -> tuple[str, str, str]:
    record = None
    with suppress(PeprofError):  # one that can't be read is listed all the same
        record = read_record(run / RECORD_FILE)
    if record is None:
        return "?", "?", "can't be read"
    spec = record.spec
    breakdown = record.short.breakdown if record.short else None
    peak = human_bytes(breakdown.peak_bytes) if breakdown else record.status if record.failure else "–"
    model = Path(spec.model.name).name if Path(spec.model.name).is_absolute() else spec.model.name
    return spec.method.label, peak, f"{model}, {spec.train.batch_size} × {spec.data.max_length}"
