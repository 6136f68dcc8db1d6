"""Dropout on ``meta`` as a GPU does it.

On a GPU dropout is one kernel, which keeps a byte for each element: whether it was dropped. On the CPU and on
``meta`` it is a product with random numbers, which are kept in the type of the activations: two or four times
as much. In this context ``meta`` keeps what a GPU keeps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_DROPOUTS = (functional.dropout, torch.dropout)


class DropoutAsOnGpu(TorchFunctionMode):
    """A context in which dropout on ``meta`` is done as a GPU does it, but for one that works in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks for dropout on ``meta``; all else is left as it is."""
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            given, share, trains, in_place = _arguments(*args, **kwargs)
            if given.is_meta and trains and 0 < share < 1 and not in_place:
                return torch.native_dropout(given, share, True)[0]
        return func(*args, **kwargs)


def _arguments(
    input: torch.Tensor,  # as torch names it
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    train: bool = True,
) -> tuple[torch.Tensor, float, bool, bool]:
    """Of both functions: ``torch.dropout`` calls it ``train``."""
    return input, p, training and train, inplace
