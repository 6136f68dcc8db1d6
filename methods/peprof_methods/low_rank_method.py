"""What methods with low-rank updates have in common: checks of options, placing layers, parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn

from peprof_methods.errors import require
from peprof_methods.roles import freeze_backbone, linears_by_role

# A literal type, so that a misspelt word is seen while a suite is read, before torch is imported.
Scaling = Literal["standard", "rank_stabilized"]


def check_rank(rank: int, *, option: str = "rank") -> None:
    """Raises ValueError unless the rank is at least 1."""
    require(rank >= 1, option, rank, "at least 1")


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha is positive and finite."""
    require(0 < alpha < math.inf, "alpha", alpha, "a positive number")


def check_dropout(dropout: float) -> None:
    """Raises ValueError unless it is a rate."""
    require(0 <= dropout < 1, "dropout", dropout, "at least 0 and below 1")


def check_ratio(ratio: float) -> None:
    """Raises ValueError unless the ratio of learning rates is positive and finite."""
    require(0 < ratio < math.inf, "b_learning_rate_ratio", ratio, "a positive number")


def check_scaling(scaling: str) -> None:
    """Raises ValueError unless it is one of the words of ``Scaling``."""
    require(scaling in ("standard", "rank_stabilized"), "scaling", scaling, "standard or rank_stabilized")


def scale_of(alpha: float, rank: int, scaling: Scaling) -> float:
    """alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732).

    >>> scale_of(16.0, 4, "standard"), scale_of(16.0, 4, "rank_stabilized")
    (4.0, 8.0)
    """
    return alpha / (math.sqrt(rank) if scaling == "rank_stabilized" else rank)


def adapt(
    model: nn.Module,
    targets: Iterable[str],
    make: Callable[[nn.Linear], nn.Module],
    *,
    largest_rank: int | None = None,
) -> nn.Module:
    """Freezes the backbone and puts another layer in the place of each target.

    Args:
        model: changed in place, unless it is refused.
        targets: roles of linear layers.
        make: makes the layer that takes a target's place.
        largest_rank: a rank that each target's weight must have at least, if any.

    Raises:
        UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        ValueError: for a target that is too narrow.
    """
    linears = linears_by_role(model, targets)
    for name, linear in linears.items():
        smaller = min(linear.in_features, linear.out_features)
        expected = f"at most {smaller}, the smaller side of {name}"
        require(largest_rank is None or largest_rank <= smaller, "rank", largest_rank, expected)
    freeze_backbone(model)
    for name, linear in linears.items():
        model.set_submodule(name, make(linear).train(linear.training))
    return model


def groups_with_faster_b(
    model: nn.Module, learning_rate: float, weight_decay: float, *, ratio: float
) -> list[dict[str, Any]]:
    """Groups for an optimizer in which each B learns faster (LoRA+, Hayou et al. 2024, arXiv:2402.12354).

    Matrices decay, vectors don't.

    Args:
        model: with parameters called ``lora_B``.
        learning_rate: of all others.
        weight_decay: of matrices.
        ratio: learning rate of B over that of the others; 1 for none of its own.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    faster = {name: p for name, p in trained.items() if ratio != 1 and name.endswith("lora_B")}
    others = [p for name, p in trained.items() if name not in faster]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        {"params": list(faster.values()), "weight_decay": weight_decay, "lr": ratio * learning_rate},
    ]
    return [group for group in groups if group["params"]]
