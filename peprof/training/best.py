"""The weights of the best evaluation: copied when it is found, put back at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters and all buffers by name, on the CPU.

    All buffers: which of them a training changes can't be told from outside, and they are small.
    """
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _changing(model).items()}


def put_back(model: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Gives a model the values that were copied of it.

    Raises:
        KeyError: it has no such parameter or buffer any more.
    """
    own = _changing(model)
    with torch.no_grad():
        for name, tensor in kept.items():
            own[name].copy_(tensor)


def _changing(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())
