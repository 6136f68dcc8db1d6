"""What products written by hand owe to autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def autocast_is_on(tensor: Tensor) -> bool:
    """Whether it is, on the device where the tensor lies."""
    kind = tensor.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def dtype_of_product(tensor: Tensor) -> torch.dtype:
    """What autocast would make of it; it leaves double precision alone."""
    if tensor.dtype is not torch.float64 and autocast_is_on(tensor):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype


def backward_once(function: Callable[[Any, Tensor], Any]) -> Any:
    """A Function's backward: first derivatives, and in the tensors' own dtype also where autocast is on."""

    @wraps(function)
    def backward(ctx: Any, grad: Tensor) -> Any:
        if not autocast_is_on(grad):
            return function(ctx, grad)
        with torch.autocast(grad.device.type, enabled=False):
            return function(ctx, grad)

    return staticmethod(once_differentiable(backward))
