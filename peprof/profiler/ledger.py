"""The memory ledger: notes every storage's birth and death in a training step, and what tells whose it is.

While the step runs, nothing is decided and nothing is formatted: an operator appends a number to the log and
keeps references. Whose each byte was is bound afterwards, in ``attribution.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from peprof.devices import as_out_of_memory
from peprof.profiler.belongings import Belongings, device_of
from peprof.profiler.book import Birth, Book, RawBirth
from peprof.profiler.locations import (
    LEAF_NUMBER,
    Locations,
    Marks,
    current_node,
    current_task,
    sequence_number,
)
from peprof.profiler.operators import Effect, effect_of
from peprof.profiler.phases import Phases
from peprof.profiler.saving import SavedTensors, tensors_shown_by
from peprof.profiler.scalars import scalar_of
from peprof.profiler.storages import parts_of, storages_of

Tensor = torch.Tensor
_ALIAS, _CAST, _NORM = int(Effect.ALIAS), int(Effect.CAST), int(Effect.NORM)


@dataclass(frozen=True, kw_only=True)
class OutOfMemoryNote:
    """Where a step ran out of memory.

    Args:
        event: births and deaths until then.
        phase: of the step.
        birth: what would have been known of the storage that couldn't be made.
        requested_bytes: what was asked for; ``None`` where the error doesn't say.
    """

    event: int
    phase: str
    birth: Birth
    requested_bytes: int | None


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context around a training step that notes all there is to know of its memory.

    ``with Ledger(model, optimizers=[optimizer], inputs=batch) as ledger: step(batch)``

    Storages are counted by their requested bytes, each once, on the model's device; for a model on ``cpu`` or
    ``meta`` all storages. Memory inside an operator isn't seen, nor what torch doesn't hold in storages. The
    ledger can be read after its context was left, also where that was by an exception.

    Args:
        model: whose step it is; left as it was.
        optimizers: those that have state before the step; others are found when they step.
        inputs: the batch, in any nesting.
        gpu_only: leave out what lies on the CPU, also for a model on ``meta`` that stands for one on a GPU;
            ``None``: as the model's device says.

    Raises:
        ProfileError: the model lies on several devices, or has tensors whose bytes can't be found.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizers: Iterable[Optimizer] = (),
        inputs: Any = None,
        gpu_only: bool | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.device = device_of(model)
        self._counts_gpu_only = self.device.type not in ("cpu", "meta") if gpu_only is None else gpu_only
        self.book = self._new_book()
        self.locations = Locations()
        self.phases = Phases(self.book.log.events)
        self.saved = SavedTensors(self.locations, self.book)
        self.operator_of_node: dict[int, torch._ops.OpOverload] = {}
        self.operator_of_recomputed: dict[int, torch._ops.OpOverload] = {}
        self.regions: dict[int, tuple[list[nn.Module], list[int]]] = {}
        self.kept_on_context: dict[int, str] = {}
        self.ran_out: OutOfMemoryNote | None = None
        self._belongings = Belongings(self.book, model, optimizers, inputs)
        self._alive = self.book.alive
        self._contexts_read: set[int] = set()
        self._effects: dict[int, Effect] = {}
        self._operators: list[torch._ops.OpOverload] = []
        self._hooks = ExitStack()

    def _new_book(self) -> Book:
        return Book(gpu_only=self._counts_gpu_only)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Dynamo has nothing to skip here, and asking it costs a fifth of what an operator costs."""
        return False

    # -- the hot path -------------------------------------------------------------------------------

    @override
    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        try:  # which costs nothing as long as nothing is raised
            effect = self._effects.get(id(func))
            if effect is None:
                effect = self._effects[id(func)] = effect_of(func)
                self._operators.append(func)  # which keeps its id from being given again
            if not effect:
                return func(*args, **kwargs) if kwargs else func(*args)
            if current_task() < 0:
                if self.phases.in_backward:
                    self.phases.leave_backward()
                self.operator_of_node.setdefault(sequence_number(), func)
            else:
                if not self.phases.in_backward:
                    self.phases.enter_backward()
                    self.locations.begin_backward()
                if self.locations.recomputing:
                    self.operator_of_recomputed.setdefault(sequence_number(), func)
            if effect >= _NORM:
                return self._special(effect, func, args, kwargs or {})
            out = func(*args, **kwargs) if kwargs else func(*args)
            if out.__class__ is Tensor:
                self._see(out, func, effect)
                if effect == _CAST:
                    self._belongings.label_copy(out, args[0])
            else:
                self._see_all(out, func, effect)
            return out
        except (RuntimeError, MemoryError) as error:
            self._note_error(error, func)
            raise

    def _see(self, tensor: torch.Tensor, func: torch._ops.OpOverload, effect: Effect) -> None:
        """Notes the birth of a plain tensor's storage, if it is one."""
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # it is sparse
            self._see_all(tensor, func, effect)
            return
        if storage._cdata in self._alive or not self.book.counts(tensor):
            return
        if effect == _ALIAS:
            self.book.number_of(storage)  # a view of what nobody announced
        else:
            self.book.open(storage, self._birth(func))

    def _birth(self, func: torch._ops.OpOverload) -> RawBirth:
        locations, packing = self.locations, self.saved.packing
        node = current_node()
        if node is None or locations.recomputing:
            return func, locations.module, -1, packing
        number = node._sequence_nr()
        if isinstance(node, BackwardCFunction) and number not in self._contexts_read:
            self._read_context(node, number)
        place: Marks | str
        if number < LEAF_NUMBER:
            place = locations.marks_of_running_node()
        else:
            variable = getattr(node, "variable", None)
            place, number = self._belongings.parameter_names.get(id(variable), ""), -1
        return func, place, number, packing

    # -- off the hot path ---------------------------------------------------------------------------

    def _see_all(self, out: Any, func: torch._ops.OpOverload, effect: Effect) -> None:
        if out.__class__ is tuple or out.__class__ is list:
            for item in out:
                if item.__class__ is Tensor:
                    self._see(item, func, effect)
                elif item is not None:
                    self._see_all(item, func, effect)
            return
        for tensor in tensors_shown_by(out):
            for part in parts_of(tensor):
                self._see(part, func, effect)

    def _special(self, effect: Effect, func: torch._ops.OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
        if effect == Effect.SCALAR:
            return scalar_of(func, args, kwargs)
        if effect == Effect.NORM and self.phases.between and self._is_gradient(args[0]):
            self.phases.enter("clip")
        out = func(*args, **kwargs)
        self._see_all(out, func, Effect.FRESH)
        if effect == Effect.RESIZE:
            for tensor in filter(self.book.counts, tensors_shown_by(out)):
                for storage in storages_of(tensor):
                    if self.book.log.sizes[self.book.number_of(storage)] != storage.nbytes():
                        self.book.resize(storage, self._birth(func))
        return out

    def _note_error(self, error: BaseException, func: torch._ops.OpOverload | None) -> None:
        """What there is to say where memory ran out: now, since what lives is freed on the error's way up."""
        found = as_out_of_memory(error)
        if found is not None:
            # Of the error itself nothing is kept: it holds all that the step was working on.
            birth = (None, None, -1, None) if func is None else self._birth(func)
            self.ran_out = OutOfMemoryNote(
                event=len(self.book.log.events),
                phase=self.phases.now,
                birth=Birth(*birth),
                requested_bytes=found.requested_bytes,
            )

    def _is_gradient(self, tensors: Any) -> bool:
        for tensor in tensors_shown_by(tensors)[:1]:
            labels = [self.book.labels.get(number) for number in self.book.known_numbers(tensor)]
            return any(label is not None and label.category == "gradients" for label in labels)
        return False

    def _read_context(self, context: BackwardCFunction, number: int) -> None:
        """What a Python function put on its ``ctx`` by hand nobody saw saved; but it is there when used."""
        self._contexts_read.add(number)
        for tensor in tensors_shown_by(vars(context)):
            for kept in self.book.known_numbers(tensor):
                self.kept_on_context[kept] = f"{type(context).__name__}'s ctx"

    # -- what hooks tell ----------------------------------------------------------------------------

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step. Overrules phases found."""
        self.phases.mark(phase)

    def _before_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        region = self.locations.enter(module)
        if region is not None:
            modules, inputs = self.regions.setdefault(region, ([], []))
            modules.append(module)
            for tensor in tensors_shown_by(args):
                inputs += self.book.known_numbers(tensor)
        elif not self.locations.recomputing:
            self.phases.enter_forward()

    def _after_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.locations.leave()

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._belongings.meet(optimizer)
        self.phases.enter_optimizer()

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.phases.leave_optimizer()

    # -- entering and leaving -----------------------------------------------------------------------

    @override
    def __enter__(self) -> Ledger:
        self._belongings.label()
        self._belongings.expect_copies()
        with ExitStack() as hooks:
            self._hook(hooks)
            hooks.enter_context(self.saved)
            self.locations.marks.add(None)
            super().__enter__()  # type: ignore[no-untyped-call]
            hooks.callback(super().__exit__, None, None, None)
            self._hooks = hooks.pop_all()
        return self

    def _hook(self, hooks: ExitStack) -> None:
        handles: list[Any] = [
            register_module_forward_pre_hook(self._before_module),
            register_module_forward_hook(self._after_module, always_call=True),
            register_optimizer_step_pre_hook(self._before_optimizer),
            register_optimizer_step_post_hook(self._after_optimizer),
        ]
        for parameter in self._belongings.trained():
            register: Any = parameter.register_post_accumulate_grad_hook
            handle = register(self._belongings.label_gradient)
            handles.append(handle)
            # Before those of others, which may use the gradient up and drop it: the engine goes by insertion.
            hooks_of_all: Any = parameter._post_accumulate_grad_hooks
            for key in [key for key in hooks_of_all if key != handle.id]:
                hooks_of_all[key] = hooks_of_all.pop(key)
        for handle in handles:
            hooks.callback(handle.remove)

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or as_out_of_memory(error) is None:
            self.ran_out = None  # if it did, somebody caught that
        elif self.ran_out is None:
            self._note_error(error, None)
        self._hooks.close()
        self._belongings.label()
        self.book.close()
