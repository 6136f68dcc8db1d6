"""What a run was asked for that its memory depends on, in columns for machines; its method in words."""

from __future__ import annotations

from typing import Any

from peprof.suite.planning import RunSpec

_CHECKPOINTED = "checkpoint"


def method_words(spec: RunSpec) -> str:
    """The method's label, and whether it has gradient checkpointing unless the label says so itself."""
    label = spec.method.label
    marked = spec.method.gradient_checkpointing and _CHECKPOINTED not in label.lower()
    return f"{label} (checkpointed)" if marked else label


def spec_columns(spec: RunSpec) -> dict[str, Any]:
    """Whose memory it is, and what decides it beside the method's options and the sizes."""
    return {
        "method": spec.method.label,
        "gradient_checkpointing": spec.method.gradient_checkpointing,
        "model": spec.model.name,
        "dtype": spec.model.dtype,
        "quantization": spec.model.quantization,
        "attention": spec.model.attention,
        "task": spec.data.task,
        "optimizer": spec.train.optimizer,
        "autocast": spec.train.autocast,
        "gradient_accumulation_steps": spec.train.gradient_accumulation_steps,
    }


def fixed_columns(spec: RunSpec, dimension: str) -> dict[str, Any]:
    """The size that stays as it is where another one grows; ``None`` for the one that grows.

    Args:
        spec: the run.
        dimension: what grows: ``batch`` or ``length``.
    """
    return {
        "fixed_batch_size": spec.train.batch_size if dimension != "batch" else None,
        "fixed_max_length": spec.data.max_length if dimension != "length" else None,
    }
