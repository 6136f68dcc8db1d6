"""What methods with low-rank updates have in common: options with their checks, and how layers are placed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import nn

from peprof_methods.errors import require
from peprof_methods.linears import AdaptedLinear, Mergeable
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles, freeze_backbone, linears_by_role

# A literal type, so that a misspelt word is seen while a suite is read, before torch is imported.
Scaling = Literal["standard", "rank_stabilized"]


@dataclass(frozen=True, kw_only=True)
class AdaptsTargets(Mergeable, ABC):
    """A method that puts another linear layer in the place of each target.

    Args:
        dropout: rate on the update's input; above 0 it saves a mask of one byte for each of its entries.
        targets: roles of the linear layers that are adapted.
    """

    family: ClassVar[str] = "low rank"
    unsupported: ClassVar[Mapping[str, str]] = {}

    dropout: float = 0.0
    targets: tuple[LinearRole, ...] = ("attention.query", "attention.value")

    def __post_init__(self) -> None:
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        object.__setattr__(self, "targets", checked_roles(self.targets, known=LINEAR_ROLES, option="targets"))

    @abstractmethod
    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], AdaptedLinear]:
        """What makes the layer that takes a target's place.

        Args:
            linears: all targets, by name; nothing has been changed yet.

        Raises:
            ValueError: for a target that doesn't fit the options.
        """

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and adapt each target.

        Args:
            model: of a supported architecture; changed in place, unless it is refused.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
            ValueError: for a target that doesn't fit the options.
        """
        linears = linears_by_role(model, self.targets)
        make = self.maker(linears)
        freeze_backbone(model)
        for name, linear in linears.items():
            model.set_submodule(name, make(linear).train(linear.training))
        return model


@dataclass(frozen=True, kw_only=True)
class HasRank(AdaptsTargets):
    """A method whose updates have one rank.

    Args:
        rank: of the update of each target.
    """

    rank: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1, "rank", self.rank, "at least 1")


@dataclass(frozen=True, kw_only=True)
class ScalesUpdate(HasRank):
    """A method whose updates are scaled as LoRA's.

    Args:
        alpha: the update is scaled by alpha / rank, or as ``scaling`` says.
        scaling: ``standard`` for alpha / rank; ``rank_stabilized`` for alpha / sqrt(rank) (rsLoRA,
            Kalajdzievski 2023, arXiv:2312.03732).
    """

    alpha: float = 16.0
    scaling: Scaling = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha)
        known = get_args(Scaling)
        require(self.scaling in known, "scaling", self.scaling, " or ".join(known))

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "rank_stabilized" else self.rank)


@dataclass(frozen=True, kw_only=True)
class LearnsBFaster(ScalesUpdate):
    """A method whose B, called ``lora_B``, may have a learning rate of its own.

    Args:
        b_learning_rate_ratio: learning rate of B over that of everything else (LoRA+, Hayou et al. 2024,
            arXiv:2402.12354, who advise 16).
    """

    b_learning_rate_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.b_learning_rate_ratio
        require(0 < ratio < math.inf, "b_learning_rate_ratio", ratio, "a positive number")

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices decay, vectors don't; B learns faster where that is asked for.

        Args:
            model: as returned by ``apply``.
            learning_rate: of all but B.
            weight_decay: of matrices.
        """
        ratio = self.b_learning_rate_ratio
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        faster = {name: p for name, p in trained.items() if ratio != 1 and name.endswith("lora_B")}
        others = [p for name, p in trained.items() if name not in faster]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
            {"params": list(faster.values()), "weight_decay": weight_decay, "lr": ratio * learning_rate},
        ]
        return [group for group in groups if group["params"]]


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha is positive and finite."""
    require(0 < alpha < math.inf, "alpha", alpha, "a positive number")


def check_sides(rank: int, linears: Mapping[str, nn.Linear]) -> None:
    """Raises ValueError if one of the layers' weights can't have this rank."""
    for name, linear in linears.items():
        smaller = min(linear.in_features, linear.out_features)
        require(rank <= smaller, "rank", rank, f"at most {smaller}, the smaller side of {name}")
