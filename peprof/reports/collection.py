"""All runs laid together as one consistent record: what stands in which table, however it is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peprof.errors import UsageError
from peprof.results.aggregation import AGGREGATED_COLUMNS, aggregated_rows
from peprof.results.frame import located_rows
from peprof.results.frame_columns import FRAME_COLUMNS, FrameColumn
from peprof.results.located import ConditionsGroup, LocatedRun, grouped, without_copies
from peprof.suite.describing import nearest


@dataclass(frozen=True, kw_only=True)
class CollectedTable:
    """A table of plain values.

    Args:
        name: ``runs`` or ``methods``.
        columns: in order.
        rows: values by the columns' names; links are absolute paths of what exists.
    """

    name: str
    columns: tuple[FrameColumn, ...]
    rows: tuple[Mapping[str, Any], ...]

    def filled(self) -> tuple[FrameColumn, ...]:
        """The columns that have a value in any row."""
        return tuple(
            column for column in self.columns if any(row[column.name] is not None for row in self.rows)
        )


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What is exported.

    Args:
        table: one row a run, or one a method.
        runs: the runs that the table's methods sum up, where it has methods; ``None`` otherwise.
        groups: what may be compared, by its letter in the column ``conditions``.
        problems: what can't be read, in words.
    """

    table: CollectedTable
    runs: CollectedTable | None
    groups: tuple[ConditionsGroup, ...]
    problems: tuple[str, ...] = ()


def collect(
    runs: Sequence[LocatedRun],
    *,
    aggregate: bool = False,
    columns: Sequence[str] | None = None,
    problems: Sequence[str] = (),
) -> Collection:
    """Lays runs together: by conditions, then by label and seed.

    Args:
        runs: of any number of directories and machines.
        aggregate: one row a method over its seeds; copies of a run count once.
        columns: names of those to take, in this order; all unless given.
        problems: what couldn't be read, in words.

    Raises:
        UsageError: there is no such column.
    """
    chosen = columns_named(columns, aggregate=aggregate)
    if aggregate:
        runs = list(without_copies(runs))
    groups = grouped(runs)
    ordered = [run for group in groups for run in sorted(group.runs, key=_place)]
    every = CollectedTable(
        name="runs", columns=tuple(FRAME_COLUMNS.values()), rows=tuple(located_rows(ordered))
    )
    if aggregate:
        table = CollectedTable(name="methods", columns=chosen, rows=tuple(aggregated_rows(ordered)))
    else:
        table = CollectedTable(name=every.name, columns=chosen, rows=every.rows)
    return Collection(
        table=table, runs=every if aggregate else None, groups=tuple(groups), problems=tuple(problems)
    )


def _place(run: LocatedRun) -> tuple[object, ...]:
    spec = run.record.spec
    return (spec.method.label, spec.seed, run.record.run_id, run.record.started_at)


def columns_named(names: Sequence[str] | None, *, aggregate: bool) -> tuple[FrameColumn, ...]:
    """The columns of the given names, each once.

    Raises:
        UsageError: there is no such column.
    """
    known = AGGREGATED_COLUMNS if aggregate else FRAME_COLUMNS
    chosen: dict[str, FrameColumn] = {}
    for name in names if names is not None else known:
        if name not in known:
            near = nearest(name, known)
            guess = f"; did you mean '{near}'?" if near else ""
            raise UsageError(
                f"an export of {'methods' if aggregate else 'runs'} has no column '{name}'{guess}",
                hint=f"Columns: {', '.join(known)}.",
            )
        chosen[name] = known[name]
    return tuple(chosen.values())


def relative_link(place: str, start: Path) -> str:
    """A path as it is seen from a directory, with ``/``: both can then be moved together.

    Args:
        place: absolute, of what exists.
        start: the directory in which the link will stand.

    Returns:
        the way there, or ``place`` itself where there is none, as on another drive.
    """
    try:
        way = os.path.relpath(place, start.absolute())
        if not (start / way).exists():  # `..` of a linked directory leads elsewhere
            way = os.path.relpath(Path(place).resolve(), start.resolve())
    except ValueError:
        return place
    return Path(way).as_posix()


def with_links_from(table: CollectedTable, start: Path) -> list[dict[str, Any]]:
    """The table's rows with links as they are seen from a directory."""
    links = [column.name for column in table.columns if column.kind == "link"]
    names = [column.name for column in table.columns]
    rows = []
    for row in table.rows:
        shown = {name: row[name] for name in names}
        shown |= {name: relative_link(row[name], start) for name in links if row[name] is not None}
        rows.append(shown)
    return rows
