"""LoRA-FA (Zhang et al. 2023, arXiv:2308.03303)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peprof_methods.linears import merge_adapted
from peprof_methods.lora import LoRALinear
from peprof_methods.low_rank_method import (
    Scaling,
    adapt,
    check_alpha,
    check_dropout,
    check_rank,
    check_scaling,
    scale_of,
)
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles


@dataclass(frozen=True, kw_only=True)
class LoRAFA:
    """LoRA with A frozen (Zhang et al. 2023, arXiv:2308.03303): y = Wx + (alpha/rank) B A dropout(x).

    A stays what it was drawn as, so its input isn't needed in backward: of each target only A x is kept, of
    ``rank`` columns. B is zero at first, so training starts from the backbone's function. The head is trained
    too. A is saved with what is trained.

    Args:
        rank: of the update of each target.
        alpha: the update is scaled by alpha / rank, or as ``scaling`` says.
        dropout: rate on the update's input; above 0 it saves a mask of one byte for each of its entries.
        targets: roles of the linear layers that are adapted.
        scaling: ``standard`` for alpha / rank; ``rank_stabilized`` for alpha / sqrt(rank) (rsLoRA,
            Kalajdzievski 2023, arXiv:2312.03732).
    """

    family: ClassVar[str] = "low rank"
    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2308.03303"
    trains: ClassVar[str] = "B of each target, and the head"
    unsupported: ClassVar[Mapping[str, str]] = {}

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[LinearRole, ...] = ("attention.query", "attention.value")
    scaling: Scaling = "standard"

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dropout(self.dropout)
        check_scaling(self.scaling)
        object.__setattr__(self, "targets", checked_roles(self.targets, known=LINEAR_ROLES, option="targets"))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put a low-rank update beside each target.

        Args:
            model: of a supported architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        scale = scale_of(self.alpha, self.rank, self.scaling)

        def make(linear: nn.Linear) -> LoRALinear:
            adapted = LoRALinear(linear, rank=self.rank, scale=scale, dropout=self.dropout)
            adapted.lora_A.requires_grad_(False)
            return adapted

        return adapt(model, self.targets, make)

    def adapter_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained and each A, which can't be drawn again."""
        return {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or name.endswith(".lora_A")
        }

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold each update into its weight, for inference without extra cost.

        Args:
            model: as returned by ``apply``; changed in place, so that no second copy of the weights is held.

        Returns:
            The same model, of plain layers only, with the same logits.
        """
        return merge_adapted(model, LoRALinear)
