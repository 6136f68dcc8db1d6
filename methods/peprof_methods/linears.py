"""Linear layers made from parameters that already exist."""

from __future__ import annotations

from torch import Tensor, nn


def plain_linear(weight: Tensor, bias: Tensor | None, *, training: bool) -> nn.Linear:
    """A frozen ``nn.Linear`` that holds the given tensors without copying or initialising anything.

    Args:
        weight: (out_features, in_features)
        bias: (out_features,) or none.
        training: the mode that the layer is left in.
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear.train(training)
