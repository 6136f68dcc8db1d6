"""What would let more of a run fit into memory without another model or method: changes to be tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peprof.results.estimates import Fit
from peprof.suite.planning import RunSpec

CHECKPOINTING = "gradient checkpointing"


def remedies_for(fit: Fit, spec: RunSpec) -> Iterator[tuple[str, RunSpec]]:
    """The changes that may help where a run has come to its border, and the run with each.

    Checkpointing frees activations, which all batches and lengths are made of. Weights in 4 bits, or in 16,
    help where the backbone's own take most; optimizer states of 8 bits where those do. Each changes what is
    computed, if little, except checkpointing.

    Args:
        fit: as it was found.
        spec: of the run.
    """
    bound = fit.bound_by
    if bound is None:
        return
    if not spec.method.gradient_checkpointing:
        method = spec.method.model_copy(update={"gradient_checkpointing": True})
        yield CHECKPOINTING, spec.model_copy(update={"method": method})
    if bound == "parameters" and spec.model.quantization is None and not _is_all_trained(fit):
        yield "weights in nf4", _with_model(spec, quantization="nf4")
    if bound in ("parameters", "gradients", "optimizer") and spec.model.dtype == "float32":
        yield "bfloat16", _with_model(spec, dtype="bfloat16")
    if bound == "optimizer" and spec.train.optimizer == "adamw":
        train = spec.train.model_copy(update={"optimizer": "adamw-8bit"})
        yield "adamw-8bit", spec.model_copy(update={"train": train})


def _is_all_trained(fit: Fit) -> bool:
    """Weights of few bits can't be trained themselves."""
    counts = fit.estimate.counts
    return counts is None or 2 * counts.trainable_backbone > counts.backbone


def _with_model(spec: RunSpec, **changes: Any) -> RunSpec:
    return spec.model_copy(update={"model": spec.model.model_copy(update=changes)})
