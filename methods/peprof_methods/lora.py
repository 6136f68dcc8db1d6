"""LoRA (Hu et al. 2021, arXiv:2106.09685), with rsLoRA's scale and LoRA+'s learning rate as options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peprof_methods.bitfit import BitFit
from peprof_methods.linears import AdaptedLinear
from peprof_methods.low_rank_method import LearnsBFaster
from peprof_methods.low_rank_products import low_rank_linear
from peprof_methods.quantised import beside
from peprof_methods.roles import linears_by_role


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
        super().__init__(linear)
        self.scale = scale
        self.dropout = dropout
        self.lora_A = nn.Parameter(beside(linear.weight).new_empty(rank, linear.in_features))
        self.lora_B = nn.Parameter(beside(linear.weight).new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer; see ``low_rank_linear`` for what it makes and keeps.

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        result = low_rank_linear(
            input.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.lora_A,
            self.lora_B,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return result.view(*input.shape[:-1], self.out_features)

    def merged(self) -> nn.Linear:
        """A plain layer with weight W + scale * B A, computed in float32 at least; it shares the bias."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return self.plain_with(self.adapted_weight(wide))

    def adapted_weight(self, dtype: torch.dtype) -> Tensor:
        """W + scale * B A: (out_features, in_features)."""
        weight, a, b = (tensor.detach().to(dtype) for tensor in (self.weight, self.lora_A, self.lora_B))
        return torch.addmm(weight, b, a, alpha=self.scale)

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        rank = self.lora_A.shape[0]
        return f"{super().extra_repr()}, rank={rank}, scale={self.scale}, dropout={self.dropout}"


@dataclass(frozen=True, kw_only=True)
class LoRA(LearnsBFaster):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = Wx + (alpha/rank) B A dropout(x).

    A is Kaiming-uniform (sqrt 5) and B zero at first, so training starts from the backbone's function. A and
    B have the dtype of the weight they adapt. The head is trained too.

    A trained A needs its input x in backward: that is most of what LoRA saves there.

    Args:
        biases: whether the backbone's biases are trained too, and added where there are none, as ``bitfit``
            does (Sung et al. 2022, arXiv:2206.06522, count LoRA so on T5).
    """

    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    trains: ClassVar[str] = "A and B of each target, and the head"
    variants: ClassVar[Mapping[str, tuple[str, str]]] = {
        "rsLoRA": ('scaling = "rank_stabilized"', "Kalajdzievski 2023, arXiv:2312.03732"),
        "LoRA+": ("b_learning_rate_ratio = 16.0", "Hayou et al. 2024, arXiv:2402.12354"),
    }

    biases: bool = False

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put a low-rank update beside each target.

        Args:
            model: of a supported architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        linears_by_role(model, self.targets)  # refused before anything is changed
        trained = BitFit().apply(model).parameters() if self.biases else ()
        biases = [parameter for parameter in trained if parameter.requires_grad]
        super().apply(model)
        for bias in biases:
            bias.requires_grad_(True)
        return model

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], LoRALinear]:
        """See ``AdaptsTargets``."""
        return partial(LoRALinear, rank=self.rank, scale=self.scale, dropout=self.dropout)
