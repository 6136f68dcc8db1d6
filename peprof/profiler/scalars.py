"""An answer where code asks a tensor without data for its value."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override


def scalar_of(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value of a tensor with one element; one (true) if it has no data.

    Library code asks whether a mask is all ones, and true is the answer for which it needs no mask.
    """
    tensor: torch.Tensor = args[0]
    if not tensor.is_meta:
        return func(*args, **kwargs)
    if tensor.dtype is torch.bool:
        return True
    return 1.0 if tensor.dtype.is_floating_point else 1


class ScalarAnswers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets steps on ``meta`` tensors run that ask for a value; the ledger does so by itself."""

    @override
    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return scalar_of(func, args, kwargs or {})
        return func(*args, **kwargs) if kwargs else func(*args)
