"""What attention needs inside of its backward, and when in a step: memory that is in no tensor of the ledger.

An operator's own memory is gone when it returns. Where its size is known, a simulated allocator is asked for
it all the same, as a real one is; the ledger's tensors stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from peprof.estimation.allocator_simulation import AllocationEvent
from peprof.estimation.attention_kernels import Kernel, backward_scratch
from peprof.estimation.attention_operators import call_of
from peprof.profiler.ledger import Ledger

aten = torch.ops.aten

_FLASH = aten._scaled_dot_product_flash_attention_backward.default
_KERNEL_OF: dict[torch._ops.OpOverload, Kernel] = {
    _FLASH: "flash",
    aten._scaled_dot_product_efficient_attention_backward.default: "efficient",
    aten._scaled_dot_product_cudnn_attention_backward.default: "cudnn",
}
UNTOLD: Mapping[Kernel, str] = {
    "efficient": "no scratch in the pool for attention's backward by the efficient kernel, as it isn't known",
    "cudnn": "no scratch in the pool for attention's backward by cuDNN, as it isn't known",
}
"""What is assumed where a kernel's own memory isn't known, in words."""


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """An operator's own memory.

    Args:
        place: births and deaths in the ledger's log before it; its results are born by then.
        blocks: bytes of each, in the order in which they are asked for.
    """

    place: int
    blocks: tuple[int, ...]


class ScratchLedger(Ledger):  # type: ignore[no-untyped-call]
    """A ledger that notes beside its log where attention's backward has memory of its own.

    Args:
        model: whose step it is; left as it was.
        optimizers, inputs, gpu_only: as for ``Ledger``.

    Attributes:
        scratch: where it is known, in order.
        untold: kernels of which it isn't.
    """

    def __init__(
        self, model: nn.Module, *, optimizers: Sequence[Optimizer], inputs: Any, gpu_only: bool
    ) -> None:
        super().__init__(model, optimizers=optimizers, inputs=inputs, gpu_only=gpu_only)
        self.scratch: list[Scratch] = []
        self.untold: set[Kernel] = set()

    @override
    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        kernel = _KERNEL_OF.get(func)
        if kernel == "flash":
            self.scratch.append(Scratch(place=len(self.book.log.events), blocks=_of_flash(*args[:4])))
        elif kernel is not None:
            self.untold.add(kernel)
        return out


def _of_flash(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[int, ...]:
    """query: (batch, heads, queries, head_dim); key, value: (batch, key_heads, keys, head_dim)"""
    call = call_of(query, key, value, None, 0.0, False, enable_gqa=True)
    blocks = backward_scratch(call, "flash")
    assert blocks is not None  # of flash it is known
    return blocks


def with_scratch(
    changes: Sequence[AllocationEvent], scratch: Sequence[Scratch], *, first: int
) -> list[AllocationEvent]:
    """A step's log with what operators had meanwhile.

    Args:
        changes: the ledger's births and deaths.
        scratch: in the order of their places.
        first: the number of the first of their allocations; the others' are the next lower ones.
    """
    found: list[AllocationEvent] = []
    numbers, done = count(first, -1), 0
    for item in scratch:
        found += changes[done : item.place]
        done = item.place
        phase = found[-1].phase  # of its results, which were born just before
        born = [AllocationEvent(next(numbers), nbytes, phase) for nbytes in item.blocks]
        found += born
        found += [event._replace(change_bytes=-event.change_bytes) for event in reversed(born)]
    return found + list(changes[done:])
