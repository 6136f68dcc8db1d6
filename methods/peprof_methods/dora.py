"""DoRA (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.linears import merge_adapted
from peprof_methods.lora import LoRALinear
from peprof_methods.low_rank_method import (
    Scaling,
    adapt,
    check_alpha,
    check_dropout,
    check_rank,
    check_ratio,
    check_scaling,
    groups_with_faster_b,
    scale_of,
)
from peprof_methods.low_rank_products import dropped_rows, row_norms, scaled_low_rank_linear
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles


class DoRALinear(LoRALinear):
    """A linear layer whose rows have a trained magnitude and a low-rank update of their direction.

    ``magnitude: (out_features,)`` is the norm of W's rows at first.

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        rank: of the update.
        scale: factor of the update.
        dropout: rate on the update's input.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(linear, rank=rank, scale=scale, dropout=dropout)
        self.magnitude = nn.Parameter(self.norms().to(linear.weight.dtype))

    def norms(self) -> Tensor:
        """Norms of the rows of W + scale * B A, without a gradient: (out_features,), in float32 at least."""
        return row_norms(self.weight, self.lora_A, self.lora_B, scale=self.scale)

    def factor(self) -> Tensor:
        """magnitude / norm: (out_features,). A row of zeros keeps its zeros."""
        norms = self.norms()
        return self.magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer; see ``scaled_low_rank_linear`` for what it makes and keeps.

        With dropout, y = factor * (W + scale * B A) d + W (x - d) + b with d = dropout(x), as in the authors'
        code: what is dropped passes W as it was.

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        rows = input.reshape(-1, self.in_features)
        result: Tensor
        if self.dropout and self.training:
            dropped = dropped_rows(rows, self.dropout)
            result = F.linear(rows - dropped, self.weight, self.bias).add_(self._adapted(dropped, None))
        else:
            result = self._adapted(rows, self.bias)
        return result.view(*input.shape[:-1], self.out_features)

    def _adapted(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        return scaled_low_rank_linear(
            rows, self.weight, bias, self.lora_A, self.lora_B, self.factor(), scale=self.scale
        )

    def adapted_weight(self, dtype: torch.dtype) -> Tensor:
        """factor * (W + scale * B A): (out_features, in_features)."""
        return super().adapted_weight(dtype).mul_(self.factor().detach().to(dtype)[:, None])


@dataclass(frozen=True, kw_only=True)
class DoRA:
    """Magnitude and direction (Liu et al. 2024, arXiv:2402.09353): y = m (W + s B A) x / ||W + s B A|| + b.

    The norm is that of each row (the weights of one output), m a trained vector that is the norm of W at
    first, s = alpha / rank. As in the paper's section 4.3 the norm passes no gradient. It is found from
    W A^T, B and A A^T, so that W + s B A is never made. A and B start as LoRA's. The head is trained too.

    Args:
        rank: of the update of each target.
        alpha: the update is scaled by alpha / rank, or as ``scaling`` says.
        dropout: rate on the update's input; above 0 each target takes a second product with W.
        targets: roles of the linear layers that are adapted.
        scaling: ``standard`` for alpha / rank; ``rank_stabilized`` for alpha / sqrt(rank) (rsLoRA,
            Kalajdzievski 2023, arXiv:2312.03732).
        b_learning_rate_ratio: learning rate of B over that of everything else (LoRA+, Hayou et al. 2024,
            arXiv:2402.12354, who advise 16).
    """

    family: ClassVar[str] = "low rank"
    paper: ClassVar[str] = "Liu et al. 2024, arXiv:2402.09353"
    trains: ClassVar[str] = "A, B and magnitudes of each target, and the head"
    unsupported: ClassVar[Mapping[str, str]] = {}

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[LinearRole, ...] = ("attention.query", "attention.value")
    scaling: Scaling = "standard"
    b_learning_rate_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_alpha(self.alpha)
        check_dropout(self.dropout)
        check_scaling(self.scaling)
        check_ratio(self.b_learning_rate_ratio)
        object.__setattr__(self, "targets", checked_roles(self.targets, known=LINEAR_ROLES, option="targets"))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and give each target a magnitude and a low-rank update.

        Args:
            model: of a supported architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        scale = scale_of(self.alpha, self.rank, self.scaling)

        def make(linear: nn.Linear) -> DoRALinear:
            return DoRALinear(linear, rank=self.rank, scale=scale, dropout=self.dropout)

        return adapt(model, self.targets, make)

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Matrices decay, vectors don't; B has its own learning rate where that is asked for."""
        return groups_with_faster_b(model, learning_rate, weight_decay, ratio=self.b_learning_rate_ratio)

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold magnitudes and updates into the weights, for inference without extra cost.

        Args:
            model: as returned by ``apply``; changed in place, so that no second copy of the weights is held.

        Returns:
            The same model, of plain layers only, with the same logits.
        """
        return merge_adapted(model, DoRALinear)
