"""Records -> leaderboards: comparable runs side by side, with ratios, best values and the Pareto front."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from peprof.errors import UsageError
from peprof.results.budgets import Budget, within
from peprof.results.conditions import ComparableRuns, Difference, differences, in_order, split
from peprof.results.distinguishing import Doubts, against, alike
from peprof.results.progress_curves import reached
from peprof.results.record import RunRecord
from peprof.results.rows import Row, make_rows
from peprof.results.statistics import pareto_front
from peprof.suite.metrics import METRICS, Metric

#: The method that the others are measured against.
REFERENCE_METHOD = "full"

_GROUPINGS: dict[str, Callable[[RunRecord], str | None]] = {
    "batch_size": lambda record: str(record.spec.train.batch_size),
    "data": lambda record: record.spec.data.name or record.spec.data.path,
    "device": lambda record: record.environment.device_name if record.environment else None,
    "dtype": lambda record: record.spec.model.dtype,
    "max_length": lambda record: str(record.spec.data.max_length),
    "method": lambda record: record.spec.method.name,
    "model": lambda record: record.spec.model.name,
    "seed": lambda record: str(record.spec.seed),
    "suite": lambda record: record.spec.suite,
}
#: What ``leaderboards`` can group by.
GROUP_KEYS = tuple(_GROUPINGS)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Rows that may be compared.

    Args:
        group: what the user groups by and its value, ``seed 0``; ``None`` when nothing was asked for.
        conditions: what all rows have in common, by name.
        differences: why its rows don't stand in the first table; empty for that one.
        rows: the best by the deciding metric first, or least memory where no row has a value; those without
            any result last.
        metric: what decides which row is better.
        doubts: how it was found out which rows differ by it.
        reference: name of the row that the others are measured against; ``None`` where it isn't here.
        reference_asked: by the user, not only because it is full fine-tuning.
        target: of the deciding metric, whose first reaching the rows tell; ``None`` where nobody set one.
        budget: of training, within which the rows tell how good they had become; ``None`` where nobody asked.
        suites: the suites the rows come from.
        synthetic_data, synthetic_weights: whether any row says so of itself.
        offline_reasons: why rows were run with their suite's offline overlay.
    """

    group: str | None
    conditions: Mapping[str, str]
    differences: tuple[Difference, ...]
    rows: tuple[Row, ...]
    metric: Metric
    doubts: Doubts
    reference: str | None
    reference_asked: bool
    target: float | None
    budget: Budget | None
    suites: tuple[str, ...]
    synthetic_data: bool
    synthetic_weights: bool
    offline_reasons: tuple[str, ...]

    @property
    def title(self) -> str:
        """Model and data: ``distilbert/distilbert-base-uncased on stanfordnlp/sst2``."""
        return f"{self.conditions['model']} on {self.conditions['data']}"

    @property
    def has_score(self) -> bool:
        """Whether any row has a value of the deciding metric."""
        return any(row.score for row in self.rows)


def leaderboards(
    records: Iterable[RunRecord],
    *,
    group_by: str | None = None,
    reference: str | None = None,
    target: float | None = None,
    budget: Budget | None = None,
) -> list[Leaderboard]:
    """Sums up runs in as many tables as their conditions demand.

    Args:
        records: any; in what order doesn't matter.
        group_by: one of ``GROUP_KEYS``: gives a table to each of its values.
        reference: label of the method that the others are measured against; full fine-tuning unless given.
        target: of the deciding metric; the suites' own unless given.
        budget: of training, for how good methods had become within it.

    Returns:
        the tables, in the order of the conditions that tell them apart; none for no records.

    Raises:
        UsageError: ``group_by`` is not one of them, no row or more than one of a table has the label
            ``reference``, or ``target`` is none that the metric can have.
    """
    grouping = _grouping(group_by)
    ordered = sorted(records, key=lambda record: (record.spec.suite, record.run_id, record.started_at))
    tables = in_order(split(ordered, grouping))
    boards = [_leaderboard(table, tables[0], group_by, reference, target, budget) for table in tables]
    if reference is not None and boards and not any(board.reference for board in boards):
        names = sorted({row.label for board in boards for row in board.rows})
        near = difflib.get_close_matches(reference, names, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"there is no method '{reference}' to compare with.{guess}",
            hint=f"Compare with one of: {', '.join(names)}.",
        )
    return boards


def _grouping(group_by: str | None) -> Callable[[RunRecord], str | None] | None:
    if group_by is None:
        return None
    key = group_by.replace("-", "_").replace(" ", "_")
    if key not in _GROUPINGS:
        near = difflib.get_close_matches(key, _GROUPINGS, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"can't group by '{group_by}'.{guess}", hint=f"Group by one of: {', '.join(_GROUPINGS)}."
        )
    return _GROUPINGS[key]


def _leaderboard(
    table: ComparableRuns,
    first: ComparableRuns,
    group_by: str | None,
    reference: str | None,
    target: float | None,
    budget: Budget | None,
) -> Leaderboard:
    specs = [record.spec for record in table.records]
    rows = [
        dataclasses.replace(row, within=within(row.curves, budget) if budget else None)
        for row in make_rows(table.records)
    ]
    metric = METRICS[specs[0].data.judged_by[0]]
    impossible = metric.impossible(target) if target is not None else None
    if impossible is not None:
        why, expected = impossible
        raise UsageError(f"a target of {target:g} can't be reached: {why}", hint=f"Give {expected}.")
    wanted = target if target is not None else _target(table.records)
    measure = _reference(rows, reference)
    compared, doubts = _compare(rows, measure, wanted)
    return Leaderboard(
        group=None if group_by is None else f"{group_by.replace('_', ' ')} {table.group or 'unknown'}",
        conditions=table.conditions,
        differences=differences(table.conditions, first.conditions),
        rows=tuple(_rank(compared)),
        metric=metric,
        doubts=doubts,
        reference=measure.name if measure else None,
        reference_asked=reference is not None,
        target=wanted,
        budget=budget,
        suites=tuple(dict.fromkeys(spec.suite for spec in specs)),
        synthetic_data=any(record.data is not None and record.data.synthetic for record in table.records),
        synthetic_weights=any(
            (record.model is not None and record.model.synthetic) or record.spec.model.weights == "random"
            for record in table.records
        ),
        offline_reasons=tuple(dict.fromkeys(spec.offline_reason for spec in specs if spec.offline_reason)),
    )


_SMALL_IS_BEST: dict[str, Callable[[Row], float | None]] = {
    "peak_allocated_bytes": lambda row: row.peak_allocated_bytes,
    "step": lambda row: row.step.median if row.step else None,
    "forward": lambda row: row.forward.median if row.forward else None,
    "backward": lambda row: row.backward.median if row.backward else None,
    "optimizer": lambda row: row.optimizer.median if row.optimizer else None,
    "train_time_s": lambda row: row.train_time_s,
    "checkpoint_bytes": lambda row: row.checkpoint_bytes,
}
_LARGE_IS_BEST: dict[str, Callable[[Row], float | None]] = {
    "samples_per_s": lambda row: row.samples_per_s,
    "real_tokens_per_s": lambda row: row.real_tokens_per_s,
}


def _compare(rows: Sequence[Row], reference: Row | None, target: float | None) -> tuple[list[Row], Doubts]:
    """Fills in what a row is only beside others: ratios, best values, the front, what is within noise."""
    best = _best(rows)
    front = _front(rows)
    pairs, doubts = alike(rows)
    differences = against(rows, reference)
    by_rank = sorted((place for place, row in enumerate(rows) if row.score), key=lambda p: -_gain(rows[p]))
    above = dict(zip(by_rank[1:], by_rank, strict=False))

    def are_alike(place: int, other: int | None) -> bool:
        return other is not None and (min(place, other), max(place, other)) in pairs

    compared = [
        dataclasses.replace(
            row,
            memory_ratio=_ratio(row, reference, _SMALL_IS_BEST["peak_allocated_bytes"]),
            step_ratio=_ratio(row, reference, _SMALL_IS_BEST["step"]),
            best=frozenset(name for name, winners in best.items() if place in winners),
            on_front=front.get(place, False) if front else None,
            within_noise=bool(by_rank) and are_alike(place, by_rank[0]),
            next_within_noise=rows[above[place]].name if are_alike(place, above.get(place)) else None,
            against=differences[place],
            reached=reached(row.curves, target) if target is not None else None,
        )
        for place, row in enumerate(rows)
    ]
    return compared, doubts


def _target(records: Sequence[RunRecord]) -> float | None:
    """What the suite asks for; of several what the latest run was asked."""
    latest = max(
        (record for record in records if record.spec.train.target is not None),
        key=lambda record: record.started_at,
        default=None,
    )
    return latest.spec.train.target if latest else None


def _reference(rows: Sequence[Row], asked: str | None) -> Row | None:
    """The row of a label, or of full fine-tuning; of several of these the one that is labelled so.

    Raises:
        UsageError: several rows have the label.
    """
    if asked is None:
        full = [row for row in rows if row.method == REFERENCE_METHOD]
        return min(full, key=lambda row: row.name != REFERENCE_METHOD, default=None)
    named = [row for row in rows if row.name == asked] or [row for row in rows if row.label == asked]
    if len(named) > 1:
        raise UsageError(
            f"several rows are called '{asked}'",
            hint=f"Compare with one of: {'; '.join(row.name for row in named)}.",
        )
    return named[0] if named else None


def _ratio(row: Row, reference: Row | None, value: Callable[[Row], float | None]) -> float | None:
    own, of_reference = value(row), value(reference) if reference else None
    return own / of_reference if own is not None and of_reference else None


def _best(rows: Sequence[Row]) -> dict[str, set[int]]:
    """Field -> the rows with its best value; a value without a rival is no winner."""
    best: dict[str, set[int]] = {}
    metrics = {name: _gain_by(name) for name in dict.fromkeys(name for row in rows for name in row.scores)}
    for getters, pick in ((_SMALL_IS_BEST, min), (_LARGE_IS_BEST | metrics, max)):
        for name, value in getters.items():
            known = {index: v for index, row in enumerate(rows) if (v := value(row)) is not None}
            if len(known) > 1:
                winner = pick(known.values())
                best[name] = {index for index, v in known.items() if v == winner}
    return best


def _gain_by(metric: str) -> Callable[[Row], float | None]:
    return lambda row: row.scores[metric].gain if metric in row.scores else None


def _front(rows: Sequence[Row]) -> dict[int, bool]:
    """Row -> whether it is on the Pareto front; empty where no row has both memory and a score."""
    points = [
        (index, row.peak_allocated_bytes, row.score.gain)
        for index, row in enumerate(rows)
        if row.peak_allocated_bytes is not None and row.score
    ]
    marks = pareto_front([memory for _, memory, _ in points], [value for _, _, value in points])
    return {index: mark for (index, _, _), mark in zip(points, marks, strict=True)}


def _gain(row: Row) -> float:
    return row.score.gain if row.score else -math.inf


def _rank(rows: Sequence[Row]) -> list[Row]:
    def key(row: Row) -> tuple[object, ...]:
        memory = row.peak_allocated_bytes
        return (row.ok == 0, -_gain(row), memory is None, memory or 0.0, row.name)

    return sorted(rows, key=key)
