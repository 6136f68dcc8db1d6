"""Records -> a pandas data frame, one row a run, for people who go on computing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peprof.results.figures import accuracy_figures, epoch_time_s, short_figures
from peprof.results.record import RunRecord
from peprof.results.statistics import Quartiles
from peprof.results.store import load_records

if TYPE_CHECKING:
    import pandas as pd

_PHASES = ("forward", "backward", "clip", "optimizer", "step")

# Types by column: whole numbers with gaps would otherwise become floats, a column without values objects.
COLUMNS: dict[str, str] = {
    "run_id": "string",
    "suite": "string",
    "method": "string",
    "label": "string",
    "options": "string",
    "seed": "Int64",
    "status": "string",
    "failure_phase": "string",
    "failure_message": "string",
    "phases": "string",
    "model": "string",
    "weights": "string",
    "dtype": "string",
    "attention": "string",
    "geometry": "string",
    "data": "string",
    "task": "string",
    "data_fingerprint": "string",
    "synthetic_data": "boolean",
    "synthetic_weights": "boolean",
    "batch_size": "Int64",
    "max_length": "Int64",
    "learning_rate": "Float64",
    "device": "string",
    "device_name": "string",
    "threads": "Int64",
    "torch": "string",
    "trainable_backbone": "Int64",
    "trainable_head": "Int64",
    "accuracy": "Float64",
    "accuracy_low": "Float64",
    "accuracy_high": "Float64",
    "validation_total": "Int64",
    "exact_match": "Float64",
    "invalid": "Float64",
    "peak_allocated_bytes": "Int64",
    "peak_reserved_bytes": "Int64",
    **{f"{phase}_s{end}": "Float64" for phase in _PHASES for end in ("", "_q1", "_q3")},
    "samples_per_s": "Float64",
    "real_tokens_per_s": "Float64",
    "measured_steps": "Int64",
    "train_steps": "Int64",
    "train_time_s": "Float64",
    "evaluation_time_s": "Float64",
    "epoch_time_s": "Float64",
    "final_loss": "Float64",
    "checkpoint_bytes": "Int64",
    "setup_time_s": "Float64",
    "total_time_s": "Float64",
    "attempt": "Int64",
    "started_at": "string",
    "offline_reason": "string",
}


def load_results(*directories: str | PathLike[str]) -> pd.DataFrame:
    """All runs of one or more results directories as a data frame: one row a run, units in the names.

    Times of a step are medians, with quartiles in ``_q1`` and ``_q3``. What was not measured is missing,
    never 0.

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

    contents = load_records(*(Path(directory) for directory in directories or ("results",)))
    for problem in contents.problems:
        warnings.warn(problem.message, UserWarning, stacklevel=2)
    return to_frame(contents.records)


def to_frame(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Records as a data frame, in their order; see ``load_results``."""
    import pandas as pd

    rows = [flat_row(record) for record in records]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(COLUMNS)


def flat_row(record: RunRecord) -> dict[str, Any]:
    """One record as plain values by ``COLUMNS``; ``None`` for what was not measured."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= _asked(record) | _found(record) | _short(record) | _full(record)
    return row


def _asked(record: RunRecord) -> dict[str, Any]:
    spec, failure = record.spec, record.failure
    return {
        "run_id": record.run_id,
        "suite": spec.suite,
        "method": spec.method.name,
        "label": spec.method.label,
        "options": json.dumps(spec.method.options, sort_keys=True),
        "seed": spec.seed,
        "status": record.status,
        "failure_phase": failure.phase if failure else None,
        "failure_message": failure.message if failure else None,
        "phases": "+".join(spec.phases),
        "model": spec.model.name,
        "weights": spec.model.weights,
        "dtype": spec.model.dtype,
        "attention": spec.model.attention,
        "data": spec.data.name or spec.data.path,
        "task": spec.data.task,
        "batch_size": spec.train.batch_size,
        "max_length": spec.data.max_length,
        "learning_rate": spec.train.learning_rate,
        "device": spec.device,
        "setup_time_s": record.setup_time_s,
        "total_time_s": record.total_time_s,
        "attempt": record.attempt,
        "started_at": record.started_at,
        "offline_reason": spec.offline_reason,
    }


def _found(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if record.environment:
        row |= {name: getattr(record.environment, name) for name in ("device_name", "threads", "torch")}
    if record.model:
        row |= {
            "attention": record.model.attention,
            "geometry": record.model.geometry,
            "synthetic_weights": record.model.synthetic,
        }
    if record.data:
        row |= {"data_fingerprint": record.data.fingerprint, "synthetic_data": record.data.synthetic}
    if record.parameters:
        row["trainable_backbone"] = record.parameters.trainable_backbone
        row["trainable_head"] = record.parameters.trainable_head
    return row


def _short(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if record.short and record.short.memory:
        row["peak_allocated_bytes"] = record.short.memory.peak_allocated_bytes
        row["peak_reserved_bytes"] = record.short.memory.peak_reserved_bytes
    figures = short_figures(record.short)
    if figures:
        for phase in _PHASES:
            spread: Quartiles | None = getattr(figures, phase)
            if spread is not None:
                row |= {f"{phase}_s": spread.median, f"{phase}_s_q1": spread.q1, f"{phase}_s_q3": spread.q3}
        row["samples_per_s"] = figures.samples_per_s
        row["real_tokens_per_s"] = figures.real_tokens_per_s
        row["measured_steps"] = figures.measured_steps
    return row


def _full(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    accuracy = accuracy_figures(record)
    if accuracy:
        row |= {
            "accuracy": accuracy.value,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            "validation_total": accuracy.total,
            "exact_match": accuracy.exact_match,
            "invalid": accuracy.invalid,
        }
    if record.full:
        row |= {
            "train_steps": record.full.steps,
            "train_time_s": record.full.train_time_s,
            "evaluation_time_s": record.full.evaluation_time_s,
            "epoch_time_s": epoch_time_s(record.full),
            "final_loss": record.full.final_loss,
            "checkpoint_bytes": record.full.checkpoint_bytes,
        }
    return row
