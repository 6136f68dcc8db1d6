"""One record -> plain values by column, for data frames and exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peprof.results.figures import (
    accuracy_figures,
    epoch_time_s,
    metric_figures,
    short_figures,
    throttled,
)
from peprof.results.frame_columns import CATEGORIES, COLUMNS, PHASES
from peprof.results.predicted import prediction_of
from peprof.results.progress_curves import curve_of, first_reaching
from peprof.results.record import PeakBreakdown, RunRecord
from peprof.results.spent import time_spent
from peprof.results.statistics import Quartiles


def flat_row(record: RunRecord) -> dict[str, Any]:
    """One record as plain values by ``COLUMNS``; ``None`` for what was not measured.

    Where its files lie and what it may be compared with is left out: a record alone knows neither.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for part in (_identity, _asked, _found, _memory, _times, _result, _training):
        row |= part(record)
    return row


def settings_text(options: Mapping[str, Any]) -> str:
    """Options for people, in their order: ``rank=8, targets=attention.query+attention.value``."""
    return ", ".join(f"{name}={_plain(value)}" for name, value in options.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "{" + settings_text(value) + "}"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _identity(record: RunRecord) -> dict[str, Any]:
    spec, failure = record.spec, record.failure
    return {
        "suite": spec.suite,
        "label": spec.method.label,
        "method": spec.method.name,
        "settings": settings_text(spec.method.options),
        "options": json.dumps(spec.method.options, sort_keys=True),
        "seed": spec.seed,
        "status": record.status,
        "failure_phase": failure.phase if failure else None,
        "failure_kind": failure.kind if failure else None,
        "failure_message": failure.message if failure else None,
        "warnings": "; ".join(record.warnings) or None,
        "run_id": record.run_id,
        "setup_time_s": record.setup_time_s,
        "total_time_s": record.total_time_s,
        "attempt": record.attempt,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "offline_reason": spec.offline_reason,
        "format_version": record.format_version,
    }


_OF_TRAIN = (
    "gradient_accumulation_steps", "epochs", "max_steps", "max_seconds", "learning_rate", "weight_decay",
    "optimizer", "schedule", "warmup_fraction", "max_grad_norm", "autocast", "target",
)  # fmt: skip


def _asked(record: RunRecord) -> dict[str, Any]:
    spec = record.spec
    model, data, train = spec.model, spec.data, spec.train
    return {
        **{name: getattr(train, name) for name in _OF_TRAIN},
        "phases": "+".join(spec.phases),
        "model": model.name,
        "weights": model.weights,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "attention": model.attention,
        "data": data.name or data.path,
        "subset": data.subset,
        "task": data.task,
        "max_length": data.max_length,
        "batch_size": train.batch_size,
        "gradient_checkpointing": spec.method.gradient_checkpointing,
        "device": spec.device,
    }


_OF_ENVIRONMENT = (
    "device_name", "device_uuid", "driver", "cuda", "threads", "torch", "transformers", "bitsandbytes",
    "peprof", "python", "platform", "hostname", "git_commit", "git_dirty",
)  # fmt: skip


def _found(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if record.environment:
        row |= {name: getattr(record.environment, name) for name in _OF_ENVIRONMENT}
    if record.model:
        row |= {
            "architecture": record.model.architecture,
            "attention": record.model.attention,
            "geometry": record.model.geometry,
            "synthetic_weights": record.model.synthetic,
        }
    if record.data:
        row |= {
            "train_rows": record.data.train_rows,
            "validation_rows": record.data.validation_rows,
            "data_fingerprint": record.data.fingerprint,
            "synthetic_data": record.data.synthetic,
        }
    counts = record.parameters
    if counts:
        trainable, total = counts.trainable_backbone + counts.trainable_head, counts.backbone + counts.head
        row |= counts.model_dump() | {"trainable_share": trainable / total if total else None}
    return row


_OF_MEMORY = (
    "peak_allocated_bytes", "peak_reserved_bytes", "start_bytes", "device_bytes", "device_bytes_of",
)  # fmt: skip


def _memory(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    memory = record.short.memory if record.short else None
    if memory:
        row |= {name: getattr(memory, name) for name in _OF_MEMORY} | {"memory_source": memory.source}
    if record.short and record.short.energy:
        energy = record.short.energy
        row |= {"step_energy_j": energy.step_energy_j, "step_joules_per_sample": energy.sample_energy_j}
    if record.short and record.short.breakdown:
        row |= _breakdown(record.short.breakdown)
    row |= _predicted(record)
    peak = record.full.peak if record.full else None
    if peak:
        row |= {
            "run_peak_bytes": peak.peak_bytes,
            "run_start_bytes": peak.start_bytes,
            "run_peak_reserved_bytes": peak.peak_reserved_bytes,
            "run_peak_source": peak.source,
        }
    return row


def _predicted(record: RunRecord) -> dict[str, Any]:
    estimate, prediction = record.estimate, prediction_of(record)
    if estimate is None or prediction is None:
        return {}
    peak = prediction.held.get("peak")
    return {
        "predicted_peak_bytes": estimate.peak_bytes,
        "predicted_peak_phase": estimate.peak_phase,
        "predicted_peak_held_against_bytes": peak.measured_bytes if peak else None,
        "predicted_peak_error": prediction.error("peak"),
        "predicted_reserved_bytes": estimate.reserved_bytes,
        "predicted_reserved_error": prediction.error("reserved"),
        "predicted_device_bytes": estimate.device_bytes,
        "memory_there_bytes": estimate.there_bytes,
        "prediction_assumptions": "; ".join(estimate.assumptions) or None,
        "prediction_problem": estimate.problem,
    }


def _breakdown(breakdown: PeakBreakdown) -> dict[str, Any]:
    """Whose the peak's bytes are; a category that isn't there has none of them, which is known."""
    left = dict(breakdown.categories)
    row: dict[str, Any] = {
        f"{name}_bytes": sum(left.pop(category, 0) for category in categories)
        for name, categories in CATEGORIES.items()
    }
    passing = [name for name in left if name.partition(".")[0] == "temporaries"]
    row["temporaries_bytes"] = sum(left.pop(name) for name in passing)
    return row | {
        "other_bytes": sum(left.values()),
        "memory_by_category": json.dumps(breakdown.categories),
        "ledger_peak_bytes": breakdown.peak_bytes,
        "peak_phase": breakdown.peak_phase,
        "saved_for_backward_bytes": breakdown.saved_bytes,
    }


_OF_TIMING = (
    "step_p90_s", "step_p99_s", "pass_step_s", "wall_step_s", "host_step_s", "enqueue_step_s",
    "launch_bound", "unsteady", "warmup_steps", "warmed_up", "rounds",
)  # fmt: skip


def _times(record: RunRecord) -> dict[str, Any]:
    figures = short_figures(record.short)
    if figures is None or record.short is None or record.short.times is None:
        return {}
    row: dict[str, Any] = {
        "clock": record.short.times.clock,
        "samples_per_s": figures.samples_per_s,
        "real_tokens_per_s": figures.real_tokens_per_s,
        "measured_steps": figures.measured_steps,
        "step_s_low": figures.step_interval.low if figures.step_interval else None,
        "step_s_high": figures.step_interval.high if figures.step_interval else None,
        "throttled": throttled(record.short),
        **{name: getattr(figures, name) for name in _OF_TIMING},
    }
    for phase in PHASES:
        spread: Quartiles | None = getattr(figures, phase)
        if spread is not None:
            row |= {f"{phase}_s": spread.median, f"{phase}_s_q1": spread.q1, f"{phase}_s_q3": spread.q3}
    return row


def _result(record: RunRecord) -> dict[str, Any]:
    """The metrics of a finished training; nothing of one that was cut short."""
    figures = metric_figures(record)
    row: dict[str, Any] = {}
    for name, found in figures.items():
        interval = found.interval
        row |= {
            name: found.value,
            f"{name}_low": interval.low if interval else None,
            f"{name}_high": interval.high if interval else None,
        }
    deciding = next(iter(figures), None)
    if deciding is not None:
        row |= {
            "metric": deciding,
            "metric_value": row[deciding],
            "metric_low": row[f"{deciding}_low"],
            "metric_high": row[f"{deciding}_high"],
            "validation_total": figures[deciding].total,
        }
    accuracy = accuracy_figures(record)
    return row | {"invalid": accuracy.invalid if accuracy else None}


_OF_TRAINING = (
    "train_time_s", "evaluation_time_s", "checkpoint_time_s", "wall_time_s", "energy_j",
    "final_loss", "checkpoint_bytes", "resumes", "stopped_by",
)  # fmt: skip


def _training(record: RunRecord) -> dict[str, Any]:
    full = record.full
    if full is None:
        return {}
    row = {name: getattr(full, name) for name in _OF_TRAINING}
    spent = time_spent(record)
    samples = full.epochs * record.data.train_rows if record.data else 0
    row |= {
        "joules_per_sample": full.energy_j / samples if full.energy_j is not None and samples else None,
        "train_steps": full.steps,
        "epochs_done": full.epochs,
        "epoch_time_s": epoch_time_s(full),
        "result_step": full.result.step if full.result else None,
        "train_time_share": spent.steps_share if spent else None,
        "waiting_time_s": spent.waiting_s if spent else full.waiting_time_s,
        "other_time_s": spent.other_s if spent else None,
        "mean_power_w": full.energy_j / full.train_time_s
        if full.energy_j is not None and full.train_time_s
        else None,
    }
    curve, target = curve_of(record), record.spec.train.target
    reached = first_reaching(curve, target) if curve is not None and target is not None else None
    if reached:
        row |= {
            "target_step": reached.steps,
            "target_time_s": reached.seconds,
            "target_energy_j": reached.joules,
        }
    return row
