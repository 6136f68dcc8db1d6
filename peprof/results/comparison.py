"""Records -> leaderboards: comparable runs side by side, with ratios, best values and the Pareto front."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from peprof.errors import UsageError
from peprof.results.conditions import ComparableRuns, Difference, differences, in_order, split
from peprof.results.record import RunRecord
from peprof.results.rows import Row, make_rows
from peprof.results.statistics import pareto_front

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
        rows: best accuracy first, or least memory where no row has an accuracy; rows without any result last.
        suites: the suites the rows come from.
        synthetic_data, synthetic_weights: whether any row says so of itself.
        offline_reasons: why rows were run with their suite's offline overlay.
    """

    group: str | None
    conditions: Mapping[str, str]
    differences: tuple[Difference, ...]
    rows: tuple[Row, ...]
    suites: tuple[str, ...]
    synthetic_data: bool
    synthetic_weights: bool
    offline_reasons: tuple[str, ...]

    @property
    def title(self) -> str:
        """Model and data: ``distilbert/distilbert-base-uncased on stanfordnlp/sst2``."""
        return f"{self.conditions['model']} on {self.conditions['data']}"

    @property
    def has_accuracy(self) -> bool:
        """Whether any row has an accuracy."""
        return any(row.accuracy for row in self.rows)


def leaderboards(records: Iterable[RunRecord], *, group_by: str | None = None) -> list[Leaderboard]:
    """Sums up runs in as many tables as their conditions demand.

    Args:
        records: any; in what order doesn't matter.
        group_by: one of ``GROUP_KEYS``: gives a table to each of its values.

    Returns:
        the tables, in the order of the conditions that tell them apart; none for no records.

    Raises:
        UsageError: ``group_by`` is not one of them.
    """
    grouping = _grouping(group_by)
    ordered = sorted(records, key=lambda record: (record.spec.suite, record.run_id, record.started_at))
    tables = in_order(split(ordered, grouping))
    return [_leaderboard(table, tables[0], group_by) for table in tables]


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


def _leaderboard(table: ComparableRuns, first: ComparableRuns, group_by: str | None) -> Leaderboard:
    specs = [record.spec for record in table.records]
    return Leaderboard(
        group=None if group_by is None else f"{group_by.replace('_', ' ')} {table.group or 'unknown'}",
        conditions=table.conditions,
        differences=differences(table.conditions, first.conditions),
        rows=tuple(_rank(_compare(make_rows(table.records)))),
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
    "accuracy": lambda row: row.accuracy.value if row.accuracy else None,
    "samples_per_s": lambda row: row.samples_per_s,
    "real_tokens_per_s": lambda row: row.real_tokens_per_s,
}


def _compare(rows: Sequence[Row]) -> list[Row]:
    """Fills in what a row is only beside others: ratios, best values, the front, what is within noise."""
    reference = _reference(rows)
    best = _best(rows)
    front = _front(rows)
    top = max((row for row in rows if row.accuracy), key=_accuracy_value, default=None)
    return [
        dataclasses.replace(
            row,
            memory_ratio=_ratio(row, reference, _SMALL_IS_BEST["peak_allocated_bytes"]),
            step_ratio=_ratio(row, reference, _SMALL_IS_BEST["step"]),
            best=frozenset(name for name, winners in best.items() if index in winners),
            on_front=front.get(index, False) if front else None,
            within_noise=_within_noise(row, top),
        )
        for index, row in enumerate(rows)
    ]


def _reference(rows: Sequence[Row]) -> Row | None:
    """The row of full fine-tuning; of several the one that is labelled so."""
    full = [row for row in rows if row.method == REFERENCE_METHOD]
    return min(full, key=lambda row: row.name != REFERENCE_METHOD, default=None)


def _ratio(row: Row, reference: Row | None, value: Callable[[Row], float | None]) -> float | None:
    own, of_reference = value(row), value(reference) if reference else None
    return own / of_reference if own is not None and of_reference else None


def _best(rows: Sequence[Row]) -> dict[str, set[int]]:
    """Field -> the rows with its best value; a value without a rival is no winner."""
    best: dict[str, set[int]] = {}
    for getters, pick in ((_SMALL_IS_BEST, min), (_LARGE_IS_BEST, max)):
        for name, value in getters.items():
            known = {index: v for index, row in enumerate(rows) if (v := value(row)) is not None}
            if len(known) > 1:
                winner = pick(known.values())
                best[name] = {index for index, v in known.items() if v == winner}
    return best


def _front(rows: Sequence[Row]) -> dict[int, bool]:
    """Row -> whether it is on the Pareto front; empty where no row has both memory and accuracy."""
    points = [
        (index, row.peak_allocated_bytes, row.accuracy.value)
        for index, row in enumerate(rows)
        if row.peak_allocated_bytes is not None and row.accuracy
    ]
    marks = pareto_front([memory for _, memory, _ in points], [value for _, _, value in points])
    return {index: mark for (index, _, _), mark in zip(points, marks, strict=True)}


def _within_noise(row: Row, top: Row | None) -> bool:
    if row.accuracy is None or top is None or top.accuracy is None or row is top:
        return False
    return row.accuracy.interval.overlaps(top.accuracy.interval)


def _accuracy_value(row: Row) -> float:
    return row.accuracy.value if row.accuracy else 0.0


def _rank(rows: Sequence[Row]) -> list[Row]:
    def key(row: Row) -> tuple[object, ...]:
        memory = row.peak_allocated_bytes
        accuracy = -row.accuracy.value if row.accuracy else 1.0  # without one: after those that have one
        return (row.ok == 0, accuracy, memory is None, memory or 0.0, row.name)

    return sorted(rows, key=key)
