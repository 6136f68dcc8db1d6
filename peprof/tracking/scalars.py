"""What trackers are told, computed from what records hold. What isn't known is left out, never 0.

================================  =======================================================  ===================
name                              meaning                                                  step
================================  =======================================================  ===================
train/loss                        mean over the batch                                      each
train/learning_rate               of the first group                                       each
train/gradient_norm               before clipping                                          each
time/step_s                       seconds of the step, and of its parts (``forward``,      each
                                  ``backward``, ``clip``, ``optimizer``)
throughput/samples_per_s          examples by the step's seconds                           each
throughput/real_tokens_per_s      tokens without padding by the step's seconds             each
evaluation/METRIC                 on the validation split, as the suite names it           each evaluation
evaluation/loss                   on the validation split                                  each evaluation
evaluation/time_s                 seconds that the evaluation took                         each evaluation
evaluation/train_time_s           seconds of training steps before it                      each evaluation
energy/train_j                    joules of training steps before it                       each evaluation
power/train_w                     mean watts in steps since the evaluation before          each evaluation
short/step_s                      median of single padded steps, and of their parts        0
short/samples_per_s               examples by that median                                  0
short/real_tokens_per_s           tokens without padding by that median                    0
memory/peak_allocated_bytes       highest live bytes in a step                             0
memory/peak_reserved_bytes        highest bytes held from the device                       0
memory/device_bytes               in use after the step, as the device's library tells     0
memory/saved_bytes                activations kept for backward when it begins             0
memory/CATEGORY_bytes             of the peak, by category (``activations``, ...)          0
memory/owners/OWNER_bytes         of the peak, by ``backbone``, ``adapter``, ``head``      0
memory/phases/PHASE_peak_bytes    highest live bytes in each phase of the step             0
memory/run_peak_allocated_bytes   over the whole training (``run_peak_resident_bytes``:    last
                                  of the process, where there is no pool)
memory/run_peak_reserved_bytes    over the whole training                                  last
compare/...                       by which runs are compared: the result's metrics,        last
                                  ``peak_allocated_bytes``, ``step_s`` (median of the
                                  short phase), ``train_time_s``, ``energy_j``,
                                  ``trainable_parameters``
================================  =======================================================  ===================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peprof.results.figures import short_figures
from peprof.results.record import Evaluation, RunRecord, ShortResult, TrainingHistory
from peprof.suite.planning import RunSpec
from peprof.tracking.base import Hyperparameter

BY_STEP: tuple[tuple[str, str], ...] = (
    ("train/loss", "loss"),
    ("train/learning_rate", "learning_rate"),
    ("train/gradient_norm", "gradient_norm"),
    ("time/step_s", "step_time_s"),
    ("time/forward_s", "forward_s"),
    ("time/backward_s", "backward_s"),
    ("time/clip_s", "clip_s"),
    ("time/optimizer_s", "optimizer_s"),
)
"""Names of scalars, and the fields of a history that they are."""

RATES: tuple[tuple[str, str], ...] = (
    ("throughput/samples_per_s", "samples"),
    ("throughput/real_tokens_per_s", "real_tokens"),
)
"""Names of rates, and the fields of a history whose counts they divide by the step's seconds."""

_TOLD_OTHERWISE = ("seeds", "target", "checkpoint_every_seconds", "save_adapter")
"""Keys of ``train`` that are no hyper-parameters of one run."""


def of_steps(history: TrainingHistory) -> Iterator[dict[str, float]]:
    """The scalars of each step of a history."""
    for index, seconds in enumerate(history.step_time_s):
        values = {name: series[index] for name, field in BY_STEP if (series := getattr(history, field))}
        if seconds > 0:
            for name, field in RATES:
                counts: tuple[int, ...] = getattr(history, field)
                if counts:
                    values[name] = counts[index] / seconds
        yield values


def of_evaluation(now: Evaluation, before: Evaluation | None) -> dict[str, float]:
    """The scalars of an evaluation.

    Args:
        now: it.
        before: the evaluation before it; ``None`` where there was none, or where it isn't known.
    """
    joules = now.energy_j
    return _known(
        {
            **{f"evaluation/{name}": value for name, value in now.metrics.items()},
            "evaluation/loss": now.loss,
            "evaluation/time_s": now.time_s,
            "evaluation/train_time_s": now.train_time_s,
            "energy/train_j": joules,
            "power/train_w": _watts(now, before) if joules is not None else None,
        }
    )


def _watts(now: Evaluation, before: Evaluation | None) -> float | None:
    since_j, since_s = (before.energy_j, before.train_time_s) if before is not None else (0.0, 0.0)
    seconds = now.train_time_s - since_s
    if now.energy_j is None or since_j is None or seconds <= 0:
        return None
    return (now.energy_j - since_j) / seconds


def of_short(short: ShortResult) -> dict[str, float]:
    """The scalars of a short phase, as far as it got."""
    values: dict[str, float | None] = {}
    figures = short_figures(short)
    if figures is not None:
        values |= {
            "short/step_s": figures.step.median,
            "short/forward_s": figures.forward.median,
            "short/backward_s": figures.backward.median,
            "short/clip_s": figures.clip.median if figures.clip is not None else None,
            "short/optimizer_s": figures.optimizer.median,
            "short/samples_per_s": figures.samples_per_s,
            "short/real_tokens_per_s": figures.real_tokens_per_s,
        }
    if short.memory is not None:
        values |= {
            "memory/peak_allocated_bytes": short.memory.peak_allocated_bytes,
            "memory/peak_reserved_bytes": short.memory.peak_reserved_bytes,
            "memory/device_bytes": short.memory.device_bytes,
            **{f"memory/phases/{part.phase}_peak_bytes": part.peak_bytes for part in short.memory.phases},
        }
    if short.breakdown is not None:
        values |= {
            **{f"memory/{name}_bytes": count for name, count in short.breakdown.categories.items()},
            **{f"memory/owners/{name}_bytes": count for name, count in short.breakdown.owners.items()},
            "memory/saved_bytes": short.breakdown.saved_bytes,
        }
    return _known(values)


def of_whole_run(record: RunRecord) -> dict[str, float]:
    """The scalars that are known at the end of a run."""
    peak = record.full.peak if record.full is not None else None
    if peak is None:
        return {}
    kind = "allocated" if peak.source == "cuda_allocator" else "resident"
    return _known(
        {
            f"memory/run_peak_{kind}_bytes": peak.peak_bytes,
            "memory/run_peak_reserved_bytes": peak.peak_reserved_bytes,
        }
    )


def compared(record: RunRecord) -> dict[str, float]:
    """By what runs are compared, as far as it is known; the task's metrics only of a run that went well."""
    full, short, counts = record.full, record.short, record.parameters
    result = full.result if full is not None and record.status == "ok" else None
    figures = short_figures(short)
    return _known(
        {
            **{f"compare/{name}": value for name, value in (result.metrics if result else {}).items()},
            "compare/peak_allocated_bytes": short.memory.peak_allocated_bytes
            if short is not None and short.memory is not None
            else None,
            "compare/step_s": figures.step.median if figures is not None else None,
            "compare/train_time_s": full.train_time_s if full is not None else None,
            "compare/energy_j": full.energy_j if full is not None else None,
            "compare/trainable_parameters": counts.trainable_backbone + counts.trainable_head
            if counts is not None
            else None,
        }
    )


def hyperparameters(spec: RunSpec) -> dict[str, Hyperparameter]:
    """What a run was asked for, flat: ``label``, ``learning_rate``, ``option.rank``; without what is unset.

    The same for all methods under the same name, so that they can be sorted and filtered by it.
    """
    data, model, method = spec.data, spec.model, spec.method
    train = spec.train.model_dump(exclude=set(_TOLD_OTHERWISE))
    return dict(
        _flat(
            {
                "suite": spec.suite,
                "label": method.label,
                "method": method.name,
                "option": dict(method.options),
                "gradient_checkpointing": method.gradient_checkpointing,
                "seed": spec.seed,
                "model": model.name,
                "weights": model.weights,
                "dtype": model.dtype,
                "attention": model.attention,
                "data": data.path or "/".join(filter(None, (data.name, data.subset))),
                "task": data.task,
                "max_length": data.max_length,
                "train_rows": data.train_rows,
                "device": spec.device,
                "offline": spec.offline_reason is not None,
                **train,
            }
        )
    )


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Hyperparameter]]:
    """Dotted names and plain values; arrays as words, nothing for ``None``."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, tuple | list):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{name}", value if isinstance(value, str | float | int) else str(value)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
