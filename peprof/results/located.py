"""Records with the place where each lies, and which of them may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from peprof.errors import StoreError
from peprof.results.conditions import ComparableRuns, differences, in_order, split
from peprof.results.record import RunRecord
from peprof.results.store import RECORD_FILE, SUITE_FILE, TENSORBOARD_DIRECTORY, find_stores


@dataclass(frozen=True, kw_only=True)
class LocatedRun:
    """A run and its directory.

    Args:
        record: what it found.
        directory: where its files lie; ``None`` for a record that lies nowhere.
    """

    record: RunRecord
    directory: Path | None

    def links(self) -> dict[str, Path]:
        """Column -> file or directory, for those that exist; a TensorBoard log must have something in it."""
        if self.directory is None:
            return {}
        places = {
            "suite_file": self.directory / SUITE_FILE,
            "record_file": self.directory / RECORD_FILE,
            "run_directory": self.directory,
        }
        found = {name: place for name, place in places.items() if place.exists()}
        log = self.directory / TENSORBOARD_DIRECTORY
        if log.is_dir() and any(log.iterdir()):
            found["tensorboard"] = log
        return found


@dataclass(frozen=True, kw_only=True)
class ConditionsGroup:
    """Runs that may be compared.

    Args:
        letter: A for the first, then B ... Z, AA ...
        conditions: what they have in common, by name.
        differs: in words, what of this is not as in group A; empty for that one.
        runs: by suite and run id.
    """

    letter: str
    conditions: dict[str, str]
    differs: str
    runs: tuple[LocatedRun, ...]


def load_located(*directories: Path) -> tuple[tuple[LocatedRun, ...], tuple[StoreError, ...]]:
    """All runs of the stores in the given directories, see ``find_stores``, and what can't be read."""
    runs: list[LocatedRun] = []
    problems: list[StoreError] = []
    for store in find_stores(*directories):
        contents = store.scan()
        runs += [
            LocatedRun(record=record, directory=store.run_directory(record.run_id))
            for record in contents.records
        ]
        problems += contents.problems
    return tuple(runs), tuple(problems)


def grouped(runs: Iterable[LocatedRun]) -> list[ConditionsGroup]:
    """The runs by what they may be compared with; ``peprof compare`` makes its tables in the same order."""
    run_of: dict[int, LocatedRun] = {id(run.record): run for run in sorted(runs, key=_place)}
    tables = in_order(split([run.record for run in run_of.values()]))
    return [
        ConditionsGroup(
            letter=letters(place),
            conditions=dict(table.conditions),
            differs=_differs(table, tables[0]),
            runs=tuple(run_of[id(record)] for record in table.records),
        )
        for place, table in enumerate(tables)
    ]


def _place(run: LocatedRun) -> tuple[str, str, str]:
    """In which order runs are looked at decides where one that knows little of itself belongs."""
    return (run.record.spec.suite, run.record.run_id, run.record.started_at)


def _differs(table: ComparableRuns, first: ComparableRuns) -> str:
    found = differences(table.conditions, first.conditions)
    return "; ".join(f"{one.condition} {one.here} (A: {one.first})" for one in found)


def letters(place: int) -> str:
    """``A`` ... ``Z``, ``AA``, ``AB`` ... for 0, 1 ...

    >>> letters(0), letters(25), letters(26), letters(702)
    ('A', 'Z', 'AA', 'AAA')
    """
    word = ""
    place += 1
    while place:
        place, rest = divmod(place - 1, 26)
        word = chr(ord("A") + rest) + word
    return word


def without_copies(runs: Iterable[LocatedRun]) -> Iterator[LocatedRun]:
    """Leaves out runs whose record is one of those before: a directory that was copied says nothing new."""
    seen: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        namesakes = seen.setdefault((run.record.run_id, run.record.started_at), [])
        if run.record not in namesakes:
            namesakes.append(run.record)
            yield run
