"""What is inserted into a model's linear layers: the layer that it goes into, and its activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.errors import require

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


def check_activation(activation: str) -> None:
    """Raises ValueError for a name that isn't in ``ACTIVATIONS``."""
    known = get_args(Activation)
    require(activation in known, "activation", activation, f"one of {', '.join(known)}")


class InsertedLinear(nn.Linear):
    """A linear layer with something after or beside it that can't be folded into it.

    It takes the given layer's own parameters under their old names, so a checkpoint of the backbone still
    fits.

    Args:
        linear: the layer; its parameters are shared, not copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
