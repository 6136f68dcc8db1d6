"""The ledger on a device whose allocator keeps a history: it also notes what joins the two.

It is a class of its own, so that the ledger costs no more where there is no such allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from peprof.profiler.book import Book, RawBirth
from peprof.profiler.history import Call
from peprof.profiler.ledger import Ledger
from peprof.profiler.operators import operator_name

Allocations = Callable[[], int]
"""How many blocks the allocator's history has handed out by now."""

AddressOf = Callable[[torch.UntypedStorage], int]


class TracedBook(Book):
    """Also notes of each storage its address, and when in the allocator's history it was met."""

    def __init__(self, *, gpu_only: bool, allocations: Allocations, address_of: AddressOf) -> None:
        super().__init__(gpu_only=gpu_only)
        self.seen: list[tuple[int, int]] = []
        self._allocations = allocations
        self._address_of = address_of

    @override
    def _add(self, storage: torch.UntypedStorage, birth: RawBirth) -> int:
        self.seen.append((self._address_of(storage), self._allocations()))
        return super()._add(storage, birth)


class TracedLedger(Ledger):  # type: ignore[no-untyped-call]
    """A ledger that can be joined to the allocator's history, which is on around it.

    Args:
        model, optimizers, inputs: as for ``Ledger``.
        allocations: reads the allocator's counter.
        address_of: a storage's address on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizers: Iterable[Optimizer] = (),
        inputs: Any = None,
        allocations: Allocations,
        address_of: AddressOf = torch.UntypedStorage.data_ptr,
    ) -> None:
        self._allocations = allocations
        self._address_of = address_of
        self.calls: list[Call] = []
        super().__init__(model, optimizers=optimizers, inputs=inputs)

    @override
    def _new_book(self) -> TracedBook:
        return TracedBook(
            gpu_only=self._counts_gpu_only, allocations=self._allocations, address_of=self._address_of
        )

    @property
    def seen(self) -> list[tuple[int, int]]:
        """Of each storage its address, and how many blocks had been handed out when it was met."""
        assert isinstance(self.book, TracedBook)
        return self.book.seen

    @override
    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        first = self._allocations()
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            last = self._allocations()
            if last > first:
                self.calls.append(Call(first, last, operator_name(func), self.phases.now))
