"""(IA)3 (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peprof_methods.linears import AdaptedLinear, Mergeable, plain_linear
from peprof_methods.quantised import dense_dtype, product
from peprof_methods.roles import freeze_backbone, linears_by_role


class _ScaledLinear(AdaptedLinear):
    """A linear layer that shares another's parameters and adds a vector of scales, ones at first."""

    ia3: nn.Parameter

    def __init__(self, linear: nn.Linear, *, size: int) -> None:
        super().__init__(linear)
        self.ia3 = nn.Parameter(
            torch.ones(size, device=linear.weight.device, dtype=dense_dtype(linear.weight))
        )


class OutputScaledLinear(_ScaledLinear):
    """y = l * (Wx + b), with ``ia3: (out_features,)`` for l."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear, size=linear.out_features)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        output = product(input, self.weight, self.bias)
        return output * self.ia3.to(output.dtype)  # or float32 scales would widen autocast's activations

    def merged(self) -> nn.Linear:
        """A plain layer with l * W and l * b."""
        scale = self.ia3.detach()
        bias = None if self.bias is None else self.bias.detach() * scale
        return plain_linear(self.weight.detach() * scale[:, None], bias, training=self.training)


class InputScaledLinear(_ScaledLinear):
    """y = W(l * x) + b, with ``ia3: (in_features,)`` for l."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear, size=linear.in_features)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        return product(input * self.ia3.to(input.dtype), self.weight, self.bias)

    def merged(self) -> nn.Linear:
        """A plain layer with W's columns scaled."""
        return self.plain_with(self.weight.detach() * self.ia3.detach())


@dataclass(frozen=True, kw_only=True)
class IA3(Mergeable):
    """(IA)3 (Liu et al. 2022, arXiv:2205.05638): trained vectors scale keys, values and the feed-forward.

    Scaled are the outputs of the key and value projections and the **input** of the feed-forward's down
    projection, each by a vector of ones at first; in a decoder, those of its attention to the encoder
    too. The head is trained too. It has no options.
    """

    family: ClassVar[str] = "scaling"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2205.05638"
    trains: ClassVar[str] = "scales of keys, values and feed-forward inputs"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the scales in.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a target that isn't a plain linear layer.
        """
        scaled: dict[str, tuple[nn.Linear, type[OutputScaledLinear | InputScaledLinear]]] = {}
        for name, linear in linears_by_role(model, ("attention.key", "attention.value")).items():
            scaled[name] = (linear, OutputScaledLinear)
        for name, linear in linears_by_role(model, ("feedforward.down",)).items():
            scaled[name] = (linear, InputScaledLinear)
        freeze_backbone(model)
        for name, (linear, kind) in scaled.items():
            model.set_submodule(name, kind(linear).train(linear.training))
        return model
