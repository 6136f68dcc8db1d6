"""Records -> a pandas data frame, one row a run, for people who go on computing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peprof.results.flat_rows import flat_row
from peprof.results.frame_columns import COLUMNS
from peprof.results.located import LocatedRun, grouped, load_located
from peprof.results.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "load_results", "located_rows", "to_frame"]


def load_results(*directories: str | PathLike[str]) -> pd.DataFrame:
    """All runs of one or more results directories as a data frame: one row a run, units in the names.

    Times of a step are medians, with quartiles in ``_q1`` and ``_q3``. What was not measured is missing,
    never 0. Only rows with one letter in ``conditions`` may be compared; ``differs`` says why.

    Args:
        directories: stores, or directories that hold stores; ``results`` unless given.

    Returns:
        a frame with all of ``COLUMNS``, empty when there is no record.

    Raises:
        UsageError: a directory doesn't exist.

    Warns:
        UserWarning: for each record that can't be read.

    Example:
        >>> load_results("results").groupby("label").peak_allocated_bytes.median()  # doctest: +SKIP
    """
    import warnings

    runs, problems = load_located(*(Path(directory) for directory in directories or ("results",)))
    for problem in problems:
        warnings.warn(problem.message, UserWarning, stacklevel=2)
    return _frame(located_rows(runs))


def to_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Records as a data frame, in their order; see ``load_results``. Without links: they lie nowhere."""
    return _frame(located_rows([LocatedRun(record=record, directory=None) for record in records]))


def located_rows(runs: Sequence[LocatedRun]) -> list[dict[str, Any]]:
    """Plain values by ``COLUMNS``, in the order of the runs; links are absolute paths."""
    marks = {
        id(run): {"conditions": group.letter, "differs": group.differs or None}
        for group in grouped(runs)
        for run in group.runs
    }
    return [
        flat_row(run.record)
        | marks[id(run)]
        | {name: str(place.absolute()) for name, place in run.links().items()}
        for run in runs
    ]


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(COLUMNS)
