"""What is inserted into a model's linear layers: the layer that it goes into, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from peprof_methods.errors import require
from peprof_methods.linears import SharingLinear

# A literal type, so that a misspelt one is seen while a suite is read, before torch is imported.
Activation = Literal["relu", "tanh", "gelu", "silu"]

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "gelu": F.gelu,
    "silu": F.silu,
}
"""The first two work in place and need only their result in backward, which the next product saves anyway; of
the others both their argument and their result are saved."""


class InsertedLinear(SharingLinear):
    """A linear layer with something after or beside it that can't be folded into it."""


@dataclass(frozen=True, kw_only=True)
class HasBottleneck:
    """A method that inserts adapters: a narrow layer, an activation f and a layer as wide as before.

    Args:
        bottleneck: width of each adapter.
        activation: f: relu, tanh, gelu or silu; the latter two save one more narrow tensor an adapter.
    """

    family: ClassVar[str] = "inserted"
    unsupported: ClassVar[Mapping[str, str]] = {}

    bottleneck: int = 48
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        require(self.bottleneck >= 1, "bottleneck", self.bottleneck, "at least 1")
        known = get_args(Activation)
        require(self.activation in known, "activation", self.activation, f"one of {', '.join(known)}")
