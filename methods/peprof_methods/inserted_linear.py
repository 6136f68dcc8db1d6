"""What is inserted into a model's linear layers: the layer that it goes into, and its activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

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


def check_activation(activation: str) -> None:
    """Raises ValueError for a name that isn't in ``ACTIVATIONS``."""
    known = get_args(Activation)
    require(activation in known, "activation", activation, f"one of {', '.join(known)}")


class InsertedLinear(SharingLinear):
    """A linear layer with something after or beside it that can't be folded into it."""
