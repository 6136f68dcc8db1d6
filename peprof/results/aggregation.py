"""Runs that differ in nothing but the seed, under equal conditions -> one row of plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import stdev
from types import MappingProxyType
from typing import Any

from peprof.results.comparison import leaderboards
from peprof.results.frame import located_rows
from peprof.results.frame_columns import FRAME_COLUMNS, FrameColumn, Kind
from peprof.results.located import LocatedRun
from peprof.results.record import RunRecord
from peprof.results.rows import Row
from peprof.results.statistics import median
from peprof.suite.metrics import METRICS


def _statistic(name: str, kind: Kind, meaning: str, *, main: bool = False) -> FrameColumn:
    return FrameColumn(name=name, kind=kind, meaning=meaning, over_seeds="statistic", main=main)


_ADDED: Mapping[str, tuple[FrameColumn, ...]] = MappingProxyType(
    {
        "status": (
            _statistic("runs", "count", "runs of this method", main=True),
            _statistic("finished_runs", "count", "of these, with a complete result"),
            _statistic("seeds", "json", "of the runs", main=True),
            _statistic("run_ids", "json", "of the runs"),
        ),
        "metric_value": (
            _statistic("metric_std", "number", "standard deviation over the seeds (n - 1)", main=True),
        ),
        "target": (_statistic("target_reached", "count", "seeds that reached it"),),
        "metric_high": (_statistic("metric_by_seed", "json", "seed -> its metric"),),
    }
)
"""Column of a run's row -> what only several runs have and stands behind it."""

_OTHER_MEANINGS = {
    "status": "ok, partial where only some runs are, or how all of them failed",
    "suite_file": "the suite that the first of the runs came from",
    "target_step": "training steps until it was seen to be reached: median over all seeds",
    "target_time_s": "training seconds until it was seen to be reached: median over all seeds",
    "target_energy_j": "joules of training until then: median over all seeds",
    "metric_value": "mean over the seeds of the metric that decides",
    "metric_low": "lower end of the mean's 95 % interval",
    "metric_high": "upper end of the mean's 95 % interval",
}


def _aggregated(column: FrameColumn) -> FrameColumn:
    meaning = _OTHER_MEANINGS.get(column.name, column.meaning)
    if column.name in METRICS:
        meaning = f"{meaning}: mean over the seeds"
    if column.over_seeds in ("median", "finished"):
        of = " of finished runs" if column.over_seeds == "finished" else ""
        meaning = f"{meaning}: median over the seeds{of}"
    return replace(column, meaning=meaning)


AGGREGATED_COLUMNS: Mapping[str, FrameColumn] = MappingProxyType(
    {
        column.name: column
        for name, one in FRAME_COLUMNS.items()
        if one.over_seeds != "dropped"
        for column in (_aggregated(one), *_ADDED.get(name, ()))
    }
)
"""Columns of a table with one row a method, by name, in their order."""


def aggregated_rows(runs: Iterable[LocatedRun]) -> list[dict[str, Any]]:
    """One row for all runs that differ in nothing but the seed and may be compared.

    A seed that was run several times counts once, with its mean. Intervals and what a row's status is are
    those of ``peprof compare``.

    Args:
        runs: any, each once: see ``without_copies``.

    Returns:
        plain values by ``AGGREGATED_COLUMNS``; ``None`` for what isn't known. Methods come in the order of
        their first runs.
    """
    chosen = list(runs)
    together: dict[tuple[str, str], list[tuple[RunRecord, dict[str, Any]]]] = {}
    for run, row in zip(chosen, located_rows(chosen), strict=True):
        work = run.record.spec.model_copy(update={"seed": 0}).run_id
        together.setdefault((row["conditions"], work), []).append((run.record, row))
    groups: dict[str, list[RunRecord]] = {}
    for (letter, _), members in together.items():
        groups.setdefault(letter, []).extend(record for record, _ in members)
    shown = {
        (letter, outcome.run_id): row
        for letter, records in groups.items()
        for board in leaderboards(records)
        for row in board.rows
        for outcome in row.outcomes
    }
    return [
        _aggregate(
            sorted((row for _, row in members), key=lambda row: row["seed"]),
            shown[letter, members[0][0].run_id],
        )
        for (letter, _), members in together.items()
    ]


def _aggregate(rows: Sequence[Mapping[str, Any]], shown: Row) -> dict[str, Any]:
    """One method's row.

    Args:
        rows: of its runs, in order of the seeds.
        shown: the same as a leaderboard has it.
    """
    found: dict[str, Any] = dict.fromkeys(AGGREGATED_COLUMNS)
    finished = [row for row in rows if row["status"] == "ok"]
    for column in FRAME_COLUMNS.values():
        if column.over_seeds in ("median", "finished"):
            found[column.name] = _middle(finished if column.over_seeds == "finished" else rows, column)
        elif column.over_seeds in ("same", "joined"):
            found[column.name] = _in_common(rows, column)
    return {
        **found,
        **_scores(shown),
        **_deciding(shown),
        **_target(shown),
        "status": shown.status,
        "runs": len(rows),
        "finished_runs": len(finished),
        "seeds": json.dumps(sorted({row["seed"] for row in rows})),
        "run_ids": json.dumps(list(dict.fromkeys(row["run_id"] for row in rows))),
        "suite_file": next((row["suite_file"] for row in rows if row["suite_file"]), None),
    }


def _scores(shown: Row) -> dict[str, Any]:
    """Each metric: its mean and that one's interval."""
    found: dict[str, Any] = {}
    for name, score in shown.scores.items():
        interval = score.interval
        found |= {
            name: score.value,
            f"{name}_low": interval.low if interval else None,
            f"{name}_high": interval.high if interval else None,
        }
    return found


def _deciding(shown: Row) -> dict[str, Any]:
    """The deciding metric over the seeds; nothing where no run has one."""
    score = shown.score
    if score is None:
        return {}
    return {
        "metric_value": score.value,
        "metric_std": stdev(score.by_seed.values()) if len(score.by_seed) > 1 else None,
        "metric_low": score.interval.low if score.interval else None,
        "metric_high": score.interval.high if score.interval else None,
        "metric_by_seed": json.dumps(dict(score.by_seed)),
    }


def _target(shown: Row) -> dict[str, Any]:
    """When the target was reached; a seed that never got there counts as later than all others."""
    reached = shown.reached
    if reached is None:
        return {}
    return {
        "target_reached": reached.reached,
        "target_step": reached.steps,
        "target_time_s": reached.seconds,
        "target_energy_j": reached.joules,
    }


def _middle(rows: Sequence[Mapping[str, Any]], column: FrameColumn) -> float | int | None:
    known = [row[column.name] for row in rows if row[column.name] is not None]
    if not known:
        return None
    middle = median(known)
    whole = column.kind in ("bytes", "count")
    return round(middle) if whole else middle


def _in_common(rows: Sequence[Mapping[str, Any]], column: FrameColumn) -> Any:
    """The value that all rows have that have one; of several values none, or all of them in one text."""
    known = list(dict.fromkeys(row[column.name] for row in rows if row[column.name] is not None))
    if len(known) == 1:
        return known[0]
    return "; ".join(known) if known and column.over_seeds == "joined" else None
