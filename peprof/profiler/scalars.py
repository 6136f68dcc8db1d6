"""An answer where code asks a tensor without data for its value."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What tensors without data say when they are asked.

    Args:
        truth: of a condition. Library code asks whether a mask is all ones, and true is the answer for which
            it needs no mask.
        number: of a floating-point number. A loss scaler asks how many gradients aren't finite.
        guessed: filled with the types of whole numbers that were asked for and answered by 1: what follows
            may be of another size in truth.
    """

    truth: bool = True
    number: float = 1.0
    guessed: set[torch.dtype] = field(default_factory=set)


ANSWERS: ContextVar[Answers | None] = ContextVar("answers", default=None)
"""Those that hold now; the usual ones where none are set."""


def scalar_of(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The value of a tensor with one element; as ``ANSWERS`` say, one or true, if it has no data."""
    tensor: torch.Tensor = args[0]
    if not tensor.is_meta:
        return func(*args, **kwargs)
    answers = ANSWERS.get() or Answers()
    if tensor.dtype is torch.bool:
        return answers.truth
    if tensor.dtype.is_floating_point:
        return answers.number
    answers.guessed.add(tensor.dtype)
    return 1


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
