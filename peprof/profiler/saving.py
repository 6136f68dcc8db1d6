"""Listens to what autograd saves for backward, without coming between it and hooks that others install.

PyTorch's saved-tensors hooks don't compose: only the innermost pair is asked. So while the ledger listens,
each pair that the model (or a checkpoint) installs is wrapped: it works as before, and the ledger looks on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from peprof.profiler.book import Book
from peprof.profiler.errors import ProfileError
from peprof.profiler.locations import Locations, current_node, sequence_number
from peprof.profiler.storages import storages_of

Pack = Callable[[torch.Tensor], Any]
Unpack = Callable[[Any], torch.Tensor]


class Saving(NamedTuple):
    """One tensor that was saved for backward.

    Args:
        number: of its storage.
        module: that saved it.
        shape: of the tensor; its storage may be larger.
        dtype: of the tensor.
        node: one more than the sequence number of the node that saved it.
        region: in a recomputation, the node that needed what a checkpoint had dropped; else ``None``.
        hidden_by: the pack hook that took it and doesn't show what it kept; ``None`` where that is known.
    """

    number: int
    module: nn.Module | None
    shape: torch.Size
    dtype: torch.dtype
    node: int
    region: int | None
    hidden_by: str | None


class SavedTensors:
    """A context in which everything that is saved for backward is noted.

    Args:
        locations: which module is running.
        book: knows the numbers of storages.
    """

    def __init__(self, locations: Locations, book: Book) -> None:
        self._savings: list[tuple[Any, ...]] = []
        self.packing: str | None = None
        self._locations = locations
        self._book = book
        self._stack = ExitStack()

    @property
    def savings(self) -> list[Saving]:
        """What was saved, in order."""
        return [Saving(*saving) for saving in self._savings]

    def __enter__(self) -> SavedTensors:
        outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
        pair = (self._pack, _as_it_is) if outer is None else (self._around(outer[0]), outer[1])
        enter_of_others = saved_tensors_hooks.__enter__

        def enter(hooks: saved_tensors_hooks) -> None:
            torch._C._autograd._push_saved_tensors_default_hooks(
                self._around(hooks.pack_hook), hooks.unpack_hook
            )

        try:
            torch._C._autograd._push_saved_tensors_default_hooks(*pair)
        except RuntimeError as error:
            raise ProfileError(
                f"what is saved for backward can't be seen where saved-tensors hooks are disabled: {error}",
                hint="Profile outside of disable_saved_tensors_hooks and of torch.func transforms.",
            ) from error
        self._stack.callback(torch._C._autograd._pop_saved_tensors_default_hooks)
        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
        self._stack.callback(setattr, saved_tensors_hooks, "__enter__", enter_of_others)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _note(self, tensor: torch.Tensor, hidden_by: str | None = None) -> None:
        node, running = sequence_number(), current_node()
        region = None if running is None else running._sequence_nr()
        for storage in storages_of(tensor) if self._book.counts(tensor) else ():
            number = self._book.number_of(storage)
            self._savings.append(
                (number, self._locations.module, tensor.shape, tensor.dtype, node, region, hidden_by)
            )

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self._note(tensor)
        made_by = tensor.grad_fn
        if made_by is None or made_by._sequence_nr() < sequence_number() - 1:
            return tensor
        return tensor.detach()  # a node that holds its own result would never be freed without backward

    def _around(self, pack: Pack) -> Pack:
        """Somebody else's pack hook, with what goes in and what it keeps noted."""
        name = getattr(pack, "__qualname__", type(pack).__qualname__)

        def seen(tensor: torch.Tensor) -> Any:
            if current_node() is not None:
                # A recomputation: it keeps the tensor, in a place of its own, and may stop right here.
                self._note(tensor)
                return pack(tensor)
            before, self.packing = self.packing, name
            try:
                packed = pack(tensor)
            finally:
                self.packing = before
            kept = tensors_shown_by(packed)
            for part in kept:
                self._note(part)
            if not kept:
                self._note(tensor, hidden_by=name)
            return packed

        return seen


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def tensors_shown_by(value: Any) -> list[torch.Tensor]:
    """The tensors in nested containers and dataclasses; what lies inside other objects isn't searched."""
    found: list[torch.Tensor] = []
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            pending.extend(item)
        elif is_dataclass(item) and not isinstance(item, type):
            pending.extend(getattr(item, entry.name) for entry in fields(item))
    return found
