"""The columns of a leaderboard: what each shows for people, gives to machines, and is sorted by."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence

from peprof.errors import UsageError
from peprof.reports.cells import FRONT_MARK, NOTHING, Cell, Column
from peprof.reports.formats import (
    human_bytes,
    human_count,
    human_energy,
    human_large,
    human_percent,
    human_ratio,
    human_seconds,
    significant,
)
from peprof.reports.predicted_columns import OTHERS as OTHER_PREDICTIONS
from peprof.reports.predicted_columns import PEAK
from peprof.reports.score_columns import ACCURACY, DIFFERENCE, METRIC, OTHERS, TO_TARGET, WITHIN
from peprof.results.comparison import Leaderboard
from peprof.results.record import Failure, Status
from peprof.results.rows import Row
from peprof.results.statistics import Quartiles

_STATUS_WORDS: dict[Status, str] = {
    "ok": "ok",
    "oom": "out of memory",
    "failed": "failed",
    "timeout": "timed out",
    "diverged": "diverged",
}


def status_words(status: Status) -> str:
    """A status in words: ``out of memory``."""
    return _STATUS_WORDS[status]


def failure_words(status: Status, failure: Failure | None) -> str:
    """How a run ended, where, why, and what to do about it, in one line."""
    words = status_words(status)
    if failure is None:
        return words
    words += f" in '{failure.phase}'"
    if failure.requested_bytes is not None:
        words += f", asked for {human_bytes(failure.requested_bytes)}"
    words += f": {failure.message}"
    return f"{words} → {failure.hint}" if failure.hint else words


def columns_named(keys: Iterable[str]) -> tuple[Column, ...]:
    """The columns of the given names, the method's first whether named or not.

    Raises:
        UsageError: there is no such column.
    """
    chosen = {"method": COLUMNS["method"]}
    for key in keys:
        chosen.setdefault(_normal(key), column_named(key))
    return tuple(chosen.values())


def column_named(key: str) -> Column:
    """The column of a name.

    Raises:
        UsageError: there is no such column.
    """
    column = COLUMNS.get(_normal(key))
    if column is None:
        near = difflib.get_close_matches(_normal(key), COLUMNS, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"there is no column '{key}'.{guess}", hint=f"Columns: {', '.join(COLUMNS)}.")
    return column


def _normal(key: str) -> str:
    return key.strip().lower().replace("-", "_")


def default_columns(board: Leaderboard) -> tuple[Column, ...]:
    """The columns that a table shows unless others are asked for."""
    return tuple(
        column
        for column in COLUMNS.values()
        if column.importance is not None and (column.wanted is None or column.wanted(board))
    )


def sort_rows(board: Leaderboard, key: str) -> Leaderboard:
    """The same table in another order; rows without a value, and those that failed, stay last.

    Args:
        board: any.
        key: a column's name; a leading ``-`` turns the order round.

    Raises:
        UsageError: there is no such column.
    """
    descending = key.startswith("-")
    order = column_named(key.removeprefix("-")).order
    known = [row for row in board.rows if row.ok and order(row) is not None]
    rest = [row for row in board.rows if not (row.ok and order(row) is not None)]
    known.sort(key=lambda row: order(row), reverse=descending)  # type: ignore[arg-type,return-value]
    return dataclasses.replace(board, rows=(*known, *sorted(rest, key=lambda row: row.ok == 0)))


def _method_cell(row: Row, board: Leaderboard) -> Cell:
    if not any(other.on_front for other in board.rows):
        return Cell(parts=(row.name,))
    return Cell(parts=(FRONT_MARK if row.on_front else "", row.name))


def _trainable_cell(row: Row, _board: Leaderboard) -> Cell:
    if row.trainable_backbone is None or row.trainable_head is None:
        return NOTHING
    return Cell(parts=(human_count(row.trainable_backbone), "+", human_count(row.trainable_head)))


def _status_cell(row: Row, _board: Leaderboard) -> Cell:
    runs = len(row.outcomes)
    if row.ok == runs:
        short = row.stopped_by_time and row.measured_steps is not None
        steps = "1 step" if row.measured_steps == 1 else f"{row.measured_steps} steps"
        return Cell(parts=(f"ok, {steps}" if short else "ok",))
    if row.ok:
        return Cell(parts=(f"{row.ok} of {runs} ok",), tone="doubtful")
    words = dict.fromkeys(status_words(outcome.status) for outcome in row.failures)
    return Cell(parts=(", ".join(words),), tone="bad")


def _status_raw(row: Row) -> dict[str, object]:
    failures = [
        f"seed {outcome.seed}: {failure_words(outcome.status, outcome.failure)}" for outcome in row.failures
    ]
    return {
        "status": row.status,
        "runs": len(row.outcomes),
        "ok_runs": row.ok,
        "failures": failures,
        "warnings": list(row.warnings),
    }


def _measure(
    key: str,
    header: Sequence[str],
    field: str,
    show: Callable[[float], str],
    *,
    importance: int | None = None,
    ratio: str | None = None,
) -> Column:
    """A column of a number of a row, or of a spread's median, perhaps with its ratio to full."""

    def value(row: Row) -> float | None:
        found: float | Quartiles | None = getattr(row, field)
        return found.median if isinstance(found, Quartiles) else found

    def cell(row: Row, board: Leaderboard) -> Cell:
        number = value(row)
        if number is None:
            return NOTHING
        parts = [show(number)]
        own_ratio: float | None = getattr(row, ratio) if ratio else None
        if own_ratio is not None:
            parts.append(f" {human_ratio(own_ratio)}")  # a little further off than other parts
        return Cell(parts=tuple(parts), best=field in row.best)

    def raw(row: Row) -> dict[str, object]:
        found: float | Quartiles | None = getattr(row, field)
        if field in _SPREADS:
            spread = found if isinstance(found, Quartiles) else None
            fields: dict[str, object] = {
                f"{field}_s": spread.median if spread else None,
                f"{field}_s_q1": spread.q1 if spread else None,
                f"{field}_s_q3": spread.q3 if spread else None,
            }
        else:
            fields = {field: found}
        if ratio:
            fields[ratio] = getattr(row, ratio)
        return fields

    return Column(key=key, header=tuple(header), importance=importance, cell=cell, raw=raw, order=value)


def _interval_cell(row: Row, _board: Leaderboard) -> Cell:
    interval = row.step_interval
    if interval is None:
        return NOTHING
    return Cell(parts=(human_seconds(interval.low), " to ", human_seconds(interval.high)))


_SPREADS = ("step", "forward", "backward", "clip", "optimizer")

_ALL = (
    Column(
        key="method",
        header=("method",),
        importance=100,
        cell=_method_cell,
        raw=lambda row: {
            "label": row.label,
            "variant": row.variant or None,
            "method": row.method,
            "options": dict(row.options),
        },
        order=lambda row: row.name,
        numeric=False,
    ),
    Column(
        key="trainable",
        header=("trainable", "body + head"),
        importance=50,
        cell=_trainable_cell,
        raw=lambda row: {
            "trainable_backbone": row.trainable_backbone,
            "trainable_head": row.trainable_head,
        },
        order=lambda row: (
            None if row.trainable_backbone is None else row.trainable_backbone + (row.trainable_head or 0)
        ),
    ),
    ACCURACY,
    METRIC,
    DIFFERENCE,
    _measure(
        "memory", ("peak memory",), "peak_allocated_bytes", human_bytes, importance=80, ratio="memory_ratio"
    ),
    *PEAK,
    _measure("step", ("step time",), "step", human_seconds, importance=70, ratio="step_ratio"),
    _measure("samples", ("samples", "per s"), "samples_per_s", significant, importance=30),
    _measure("train_time", ("training", "time"), "train_time_s", human_seconds, importance=40),
    TO_TARGET[0],
    WITHIN,
    Column(
        key="status",
        header=("status",),
        importance=60,
        cell=_status_cell,
        raw=_status_raw,
        order=lambda row: row.status,
        numeric=False,
    ),
    *OTHERS,
    *TO_TARGET[1:],
    Column(
        key="step_interval",
        header=("step time", "95 % interval"),
        importance=None,
        cell=_interval_cell,
        raw=lambda row: {
            "step_s_low": row.step_interval.low if row.step_interval else None,
            "step_s_high": row.step_interval.high if row.step_interval else None,
        },
        order=lambda row: (
            row.step_interval.high - row.step_interval.low if row.step_interval is not None else None
        ),
    ),
    _measure("step_p90", ("step time", "p90"), "step_p90_s", human_seconds),
    _measure("step_p99", ("step time", "p99"), "step_p99_s", human_seconds),
    _measure("pass_step", ("wall time", "per step"), "pass_step_s", human_seconds),
    _measure("wall_step", ("step time,", "waited for"), "wall_step_s", human_seconds),
    _measure("host_step", ("host's", "step time"), "host_step_s", human_seconds),
    _measure("enqueue_step", ("time to", "queue a step"), "enqueue_step_s", human_seconds),
    _measure("rounds", ("rounds",), "rounds", lambda value: f"{value:.0f}"),
    _measure("forward", ("forward",), "forward", human_seconds),
    _measure("backward", ("backward",), "backward", human_seconds),
    _measure("clip", ("clip",), "clip", human_seconds),
    _measure("optimizer", ("optimizer",), "optimizer", human_seconds),
    _measure("tokens", ("real tokens", "per s"), "real_tokens_per_s", significant),
    _measure("run_peak", ("peak of", "whole run"), "run_peak_bytes", human_bytes),
    _measure("energy", ("training", "energy"), "energy_j", human_energy),
    _measure("sample_energy", ("energy per", "sample"), "joules_per_sample", human_energy),
    _measure("step_energy", ("energy per", "sample, step"), "step_joules_per_sample", human_energy),
    _measure("flops", ("operations", "per step"), "flops", human_large),
    _measure("flops_rate", ("operations", "per s"), "flops_per_s", human_large),
    _measure("mfu", ("MFU", "%"), "mfu", human_percent),
    _measure("inference", ("forward", "in use"), "inference_s", human_seconds, ratio="inference_overhead"),
    _measure(
        "inference_merged",
        ("forward", "merged"),
        "inference_merged_s",
        human_seconds,
        ratio="inference_merged_overhead",
    ),
    _measure("inference_memory", ("peak", "in use"), "inference_peak_bytes", human_bytes),
    _measure("token", ("time per", "token"), "token_s", human_seconds),
    _measure("token_merged", ("per token,", "merged"), "token_merged_s", human_seconds),
    _measure("reserved", ("reserved", "memory"), "peak_reserved_bytes", human_bytes),
    *OTHER_PREDICTIONS,
    _measure("checkpoint", ("checkpoint",), "checkpoint_bytes", human_bytes),
    _measure("epoch_time", ("time per", "epoch"), "epoch_time_s", human_seconds),
    _measure("evaluation_time", ("evaluation", "time"), "evaluation_time_s", human_seconds),
    _measure("steps", ("measured", "steps"), "measured_steps", lambda value: f"{value:.0f}"),
    _measure("outliers", ("outlying", "steps"), "outlier_steps", lambda value: f"{value:.0f}"),
    Column(
        key="seeds",
        header=("seeds",),
        importance=None,
        cell=lambda row, _: Cell(parts=(", ".join(str(seed) for seed in row.seeds),)),
        raw=lambda row: {"seeds": list(row.seeds)},
        order=lambda row: len(row.seeds),
    ),
    Column(
        key="run_ids",
        header=("run ids",),
        importance=None,
        cell=lambda row, _: Cell(parts=(", ".join(outcome.run_id for outcome in row.outcomes),)),
        raw=lambda row: {"run_ids": [outcome.run_id for outcome in row.outcomes]},
        order=lambda row: row.outcomes[0].run_id,
        numeric=False,
    ),
)

#: All columns by their names, in the order in which they stand.
COLUMNS: dict[str, Column] = {column.key: column for column in _ALL}
