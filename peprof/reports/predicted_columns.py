"""The columns of a leaderboard that say what a step was predicted to need, and how far off that was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peprof.reports.cells import NOTHING, Cell, Column
from peprof.reports.formats import human_bytes, human_percent, signed
from peprof.results.comparison import Leaderboard
from peprof.results.predicted import Figure, RowPredictions
from peprof.results.rows import Row

_SMALLEST_SHOWN = 0.0005
"""Of an error: what isn't 0 is never written as 0."""


def error_words(error: float) -> str:
    """A signed share in percent: ``+3.1``, ``−12.0``, ``+<0.1``, and ``0`` for none at all."""
    if not error:
        return "0"
    size = abs(error)
    return signed("<0.1" if size < _SMALLEST_SHOWN else human_percent(size), error)


def has_both(board: Leaderboard, figure: Figure = "peak") -> bool:
    """Whether any run has it both predicted and measured."""
    return any(row.predicted is not None and row.predicted.errors(figure) for row in board.rows)


def _counted_otherwise(board: Leaderboard) -> bool:
    """Whether what a peak is held against reads in no other column: the ledger's, where it isn't the peak."""
    runs = [run for row in board.rows if row.predicted for run in row.predicted.runs]
    if not has_both(board) or all(run.against != "ledger" for run in runs):
        return False
    return any(_differs_from_peak(row) for row in board.rows)


def _differs_from_peak(row: Row) -> bool:
    counted = row.predicted.measured_bytes("peak") if row.predicted is not None else None
    if counted is None:
        return False
    return row.peak_allocated_bytes is None or human_bytes(row.peak_allocated_bytes) != human_bytes(counted)


def _of(read: Callable[[RowPredictions], float | None]) -> Callable[[Row], float | None]:
    return lambda row: read(row.predicted) if row.predicted is not None else None


def _column(
    key: str,
    header: Sequence[str],
    field: str,
    read: Callable[[RowPredictions], float | None],
    show: Callable[[float], str],
    *,
    importance: int | None = None,
    wanted: Callable[[Leaderboard], bool] | None = None,
) -> Column:
    value = _of(read)

    def cell(row: Row, _board: Leaderboard) -> Cell:
        number = value(row)
        return NOTHING if number is None else Cell(parts=(show(number),))

    return Column(
        key=key,
        header=tuple(header),
        importance=importance,
        cell=cell,
        raw=lambda row: {field: value(row)},
        order=value,
        wanted=wanted,
    )


PEAK = (
    _column(
        "predicted",
        ("predicted", "peak"),
        "predicted_peak_bytes",
        lambda row: row.predicted_bytes("peak"),
        human_bytes,
        importance=49,
        wanted=has_both,
    ),
    _column(
        "counted",
        ("counted", "peak"),
        "predicted_peak_held_against_bytes",
        lambda row: row.measured_bytes("peak"),
        human_bytes,
        importance=48,
        wanted=_counted_otherwise,
    ),
    _column(
        "prediction_error",
        ("error of", "prediction %"),
        "predicted_peak_error",
        lambda row: row.error("peak"),
        error_words,
        importance=59,
        wanted=has_both,
    ),
)
"""Shown beside the measured peak where a run has both; where it is narrow, the status stays longer, and what
is trained longer than all but the error."""

OTHERS = (
    _column(
        "predicted_reserved",
        ("predicted", "reserved"),
        "predicted_reserved_bytes",
        lambda row: row.predicted_bytes("reserved"),
        human_bytes,
    ),
    _column(
        "reserved_error",
        ("error of", "reserved %"),
        "predicted_reserved_error",
        lambda row: row.error("reserved"),
        error_words,
    ),
    _column(
        "predicted_device",
        ("predicted", "on device"),
        "predicted_device_bytes",
        lambda row: row.predicted_bytes("device"),
        human_bytes,
    ),
)
"""Shown on demand."""

KEYS = tuple(column.key for column in (*PEAK, *OTHERS))
