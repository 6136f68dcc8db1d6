"""What a stretch of code allocates, whoever's it is: the ledger without a model that is known beforehand.

Modules, parameters and optimizer states are met as they are used, and no reference to any of them is kept:
what the code lets go of is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from peprof.breakdown.values import StepProfile
from peprof.profiler.attribution import Attribution
from peprof.profiler.book import Book, RawBirth
from peprof.profiler.ledger import Ledger
from peprof.profiler.operators import Effect, aten
from peprof.profiler.phases import OUTSIDE_PHASE
from peprof.profiler.saving import tensors_shown_by

_READ_FROM_A_FILE_OR_COPIED = (aten.set_.source_Storage, aten.set_.source_Storage_storage_offset)
"""How ``torch.load`` and ``copy.deepcopy`` give a tensor its memory: an alias by its schema, and yet new."""


class NewStorages(Book):
    """A book in which only what was made while it was open has bytes; it notes where each storage lies."""

    def __init__(self) -> None:
        super().__init__(gpu_only=False)
        self.devices: list[torch.device] = []
        self._all_sizes: list[int] | None = None

    @override
    def _add(self, storage: torch.UntypedStorage, birth: RawBirth) -> int:
        self.devices.append(storage.device)
        return super()._add(storage, birth)

    @override
    def number_of(self, storage: torch.UntypedStorage) -> int:
        was_there_before = storage._cdata not in self.alive
        number = super().number_of(storage)
        if was_there_before:
            self.log.sizes[number] = 0
        return number

    def look_only_at(self, device: torch.device) -> None:
        """From now on, after it was closed, what lies elsewhere has no bytes."""
        if self._all_sizes is None:
            self._all_sizes = list(self.log.sizes)
        for number, (size, place) in enumerate(zip(self._all_sizes, self.devices, strict=True)):
            self.log.sizes[number] = size if place == device else 0


class _Named(nn.Module):
    """Stands for all modules that were met: by name, without them."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[tuple[str, nn.Module]] = []

    @override
    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        return iter(self.met)


class LiveTensors(Ledger):  # type: ignore[no-untyped-call]
    """A context that notes all tensors made in it, on any device; not what threads of the caller's make.

    A module goes by the class of the outermost module that was called, and its place in that:
    ``Sequential.0``. Afterwards ``peaks`` says how much was live, ``profile`` whose it was.
    """

    def __init__(self) -> None:
        self._named = _Named()
        super().__init__(self._named)
        self._stand_ins: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
        self._roots: dict[str, int] = {}
        self._hooks_on_parameters: list[Any] = []
        for operator in _READ_FROM_A_FILE_OR_COPIED:
            self._effects[id(operator)] = Effect.FRESH

    @override
    def _new_book(self) -> NewStorages:
        self._storages = NewStorages()
        return self._storages

    @override
    def __enter__(self) -> LiveTensors:
        super().__enter__()
        self.phases.enter(OUTSIDE_PHASE)  # until a module runs
        return self

    @override
    def __exit__(self, *raised: Any) -> None:
        for handle in self._hooks_on_parameters:
            handle.remove()
        super().__exit__(*raised)

    def peaks(self) -> dict[torch.device, int]:
        """The most bytes that were live at once, by device; to be called after leaving the context."""
        log = self.book.log
        now: dict[torch.device, int] = {}
        most: dict[torch.device, int] = {}
        for number, change in log.changes():
            device = self._storages.devices[number]
            now[device] = now.get(device, 0) + change
            most[device] = max(most.get(device, 0), now[device])
        return most

    def profile(self, device: torch.device) -> StepProfile:
        """Whose the bytes on a device were. What lies elsewhere isn't told any more by ``peaks``."""
        self._storages.look_only_at(device)
        return replace(Attribution(self).profile(), device=str(device))

    # -- meeting what there is --------------------------------------------------------------------------

    @override
    def _before_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        stand_in = self._stand_ins.get(module)
        if stand_in is None:
            self._meet(module)
            stand_in = self._stand_ins[module]
        super()._before_module(stand_in, args)

    def _meet(self, root: nn.Module) -> None:
        kind = type(root).__name__
        count = self._roots[kind] = self._roots.get(kind, 0) + 1
        base = kind if count == 1 else f"{kind}#{count}"
        for name, module in root.named_modules():
            if module not in self._stand_ins:
                stand_in = self._stand_ins[module] = type(type(module).__name__, (nn.Module,), {})()
                self._named.met.append((f"{base}.{name}" if name else base, stand_in))
        for name, parameter in root.named_parameters():
            self._meet_parameter(f"{base}.{name}", parameter)
        for name, buffer in root.named_buffers():
            self.book.label(buffer, "buffers", f"{base}.{name}")

    def _meet_parameter(self, name: str, parameter: torch.Tensor) -> None:
        kind = "trainable" if parameter.requires_grad else "frozen"
        self.book.label(parameter, f"parameters.{kind}", name)
        self._belongings.parameter_names[id(parameter)] = name
        if parameter.grad is not None:
            self.book.label(parameter.grad, "gradients", name)
        if parameter.requires_grad and parameter.is_leaf:
            register: Any = parameter.register_post_accumulate_grad_hook
            self._hooks_on_parameters.append(register(self._belongings.label_gradient))

    @override
    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.phases.enter_optimizer()

    @override
    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        super()._after_optimizer(optimizer, args, kwargs)
        for parameter, state in optimizer.state.items():
            name = self._belongings.parameter_names.get(id(parameter), "")
            for tensor in tensors_shown_by(state):
                self.book.label(tensor, "optimizer_state", name)
