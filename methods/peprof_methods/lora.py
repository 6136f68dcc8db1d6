"""LoRA (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.linears import AdaptedLinear, merge_adapted, plain_linear
from peprof_methods.roles import LINEAR_ROLES, LinearRole, checked_roles, freeze_backbone, linears_by_role


class LoRALinear(AdaptedLinear):
    """A linear layer with a trainable low-rank update: y = Wx + b + scale * B A dropout(x).

    It takes the given layer's own parameters under their old names, so a checkpoint of the backbone still
    fits. ``lora_A: (rank, in_features)`` is Kaiming-uniform (sqrt 5), ``lora_B: (out_features, rank)`` zero.

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        rank: of the update.
        scale: factor of the update.
        dropout: rate on the update's input.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = scale
        self.dropout = dropout
        self.lora_A = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        One activation-sized tensor is made, the result: the update is added to it in place by the product
        with B, which applies the scale on the way. Saved for backward: the input (A's gradient needs it) and
        one tensor of ``rank`` columns; never a tensor the size of W.

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        # Two dimensions: with more, a linear call returns a view, on which in-place work costs autograd more.
        rows = input.reshape(-1, self.in_features)
        result = F.linear(rows, self.weight, self.bias)
        dropped = F.dropout(rows, self.dropout) if self.dropout and self.training else rows
        low = F.linear(dropped, self.lora_A)
        # Under autocast the linear calls return its dtype, while an in-place product isn't cast.
        result = result.addmm_(low, self.lora_B.to(result.dtype).t(), alpha=self.scale)
        return result.view(*input.shape[:-1], self.out_features)

    def merged(self) -> nn.Linear:
        """A plain layer with weight W + scale * B A, computed in float32 at least; it shares the bias."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight = torch.addmm(
            self.weight.detach().to(wide),
            self.lora_B.detach().to(wide),
            self.lora_A.detach().to(wide),
            alpha=self.scale,
        )
        bias = None if self.bias is None else self.bias.detach()
        return plain_linear(weight.to(self.weight.dtype), bias, training=self.training)

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        rank = self.lora_A.shape[0]
        return f"{super().extra_repr()}, rank={rank}, scale={self.scale}, dropout={self.dropout}"


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = Wx + (alpha/rank) B A dropout(x).

    A is Kaiming-uniform (sqrt 5) and B zero at first, so training starts from the backbone's function. A and
    B have the dtype of the weight they adapt. The head is trained too.

    Args:
        rank: of the update of each target.
        alpha: the update is scaled by alpha / rank.
        dropout: rate on the update's input; above 0 it saves a mask and a second copy of each input.
        targets: roles of the linear layers that are adapted.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[LinearRole, ...] = ("attention.query", "attention.value")

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "at least 1")
        require(0 < self.alpha < math.inf, "alpha", self.alpha, "a positive number")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        object.__setattr__(self, "targets", checked_roles(self.targets, known=LINEAR_ROLES, option="targets"))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put a low-rank update beside each target.

        Args:
            model: a sequence classifier; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        linears = linears_by_role(model, self.targets)
        freeze_backbone(model)
        scale = self.alpha / self.rank
        for name, linear in linears.items():
            adapted = LoRALinear(linear, rank=self.rank, scale=scale, dropout=self.dropout)
            model.set_submodule(name, adapted.train(linear.training))
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        """Fold each update into its weight, for inference without extra cost.

        Args:
            model: as returned by ``apply``; changed in place, so that no second copy of the weights is held.

        Returns:
            The same model, of plain layers only, with the same logits.
        """
        return merge_adapted(model, LoRALinear)
