"""The memory ledger: notes every storage's birth and death in a training step, and what tells whose it is.

While the step runs, nothing is decided and nothing is formatted: an operator appends a number to the log and
keeps references. Whose each byte was is bound afterwards, in ``attribution.py``.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

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

from peprof.profiler.errors import ProfileError
from peprof.profiler.events import EventLog
from peprof.profiler.locations import (
    LEAF_NUMBER,
    Locations,
    Marks,
    current_node,
    current_task,
    sequence_number,
)
from peprof.profiler.operators import Effect, effect_of
from peprof.profiler.saving import SavedTensors, tensors_shown_by
from peprof.profiler.scalars import scalar_of
from peprof.profiler.storages import PLAIN, parts_of, storages_of

OUTSIDE_PHASE = "other"
"""The phase of what belongs to none of forward, backward, clip and optimizer."""


class Birth(NamedTuple):
    """What was known when a storage was met.

    Args:
        operator: that made it; ``None`` where it was there before.
        place: the module that ran, or in backward where to look up the node; ``None`` outside of all.
        node: the sequence number of the node that ran; -1 outside backward.
        packing: the pack hook in which it was made, if any.
    """

    operator: torch._ops.OpOverload | None
    place: nn.Module | Marks | str | None
    node: int
    packing: str | None


_RawBirth = tuple["torch._ops.OpOverload | None", "nn.Module | Marks | str | None", int, "str | None"]
"""The fields of a ``Birth``; naming them takes too long while the step runs."""

Tensor = torch.Tensor
_ALIAS, _CAST, _NORM = int(Effect.ALIAS), int(Effect.CAST), int(Effect.NORM)


class Label(NamedTuple):
    """What a storage turned out to be.

    Args:
        category: see ``attribution.py``.
        name: of the parameter or buffer that it belongs to, if any.
    """

    category: str
    name: str


class _Alive(weakref.ref[torch.UntypedStorage]):
    """A storage that hasn't died yet."""

    __slots__ = ("key", "number")

    key: int
    number: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context around a training step that notes all there is to know of its memory.

    ``with Ledger(model, optimizers=[optimizer], inputs=batch) as ledger: step(batch)``

    Storages are counted by their requested bytes, each once, on the model's device; for a model on ``cpu`` or
    ``meta`` all storages that aren't on a GPU. Memory inside an operator and memory that torch doesn't
    hold in storages isn't seen.

    Args:
        model: whose step it is; left as it was.
        optimizers: those that have state before the step; others are found when they step.
        inputs: the batch, in any nesting.

    Raises:
        ProfileError: the model lies on several devices, or has tensors whose bytes can't be found.
    """

    def __init__(self, model: nn.Module, *, optimizers: Iterable[Optimizer] = (), inputs: Any = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.optimizers = tuple(optimizers)
        self.device = device_of(model)
        self.log = EventLog()
        self._births: list[_RawBirth] = []
        self.labels: dict[int, Label] = {}
        self.operator_of_node: dict[int, torch._ops.OpOverload] = {}
        self.operator_of_recomputed: dict[int, torch._ops.OpOverload] = {}
        self.locations = Locations()
        self.saved = SavedTensors(self.locations, self._number_of)
        self.kept_on_context: dict[int, str] = {}
        self._contexts_read: set[int] = set()
        self.found_edges: list[tuple[int, str]] = []
        self.marked_edges: list[tuple[int, str]] = []
        self.backward_starts: list[int] = []
        self.regions: dict[int, tuple[list[nn.Module], list[int]]] = {}
        self.parameter_names: dict[int, str] = {}
        self._inputs = inputs
        self._alive: dict[int, _Alive] = {}
        self._effects: dict[int, Effect] = {}
        self._operators: list[torch._ops.OpOverload] = []
        self._on_death = self._death
        self._casts: dict[int, Label] = {}
        self._phase = "forward"
        self._in_backward = False
        self._optimizers_running = 0
        self._gpu_only = self.device.type not in ("cpu", "meta")
        self._hooks = ExitStack()

    @property
    def births(self) -> list[Birth]:
        """What was known of each storage when it was met, by its number."""
        return [Birth(*birth) for birth in self._births]

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
        effect = self._effects.get(id(func))
        if effect is None:
            effect = self._effects[id(func)] = effect_of(func)
            self._operators.append(func)  # which keeps its id from being given again
        if not effect:
            return func(*args, **kwargs) if kwargs else func(*args)
        if current_task() < 0:
            if self._in_backward:
                self._leave_backward()
            self.operator_of_node.setdefault(sequence_number(), func)
        else:
            if not self._in_backward:
                self._enter_backward()
            if self.locations.recomputing:
                self.operator_of_recomputed.setdefault(sequence_number(), func)
        if effect >= _NORM:
            return self._special(effect, func, args, kwargs or {})
        out = func(*args, **kwargs) if kwargs else func(*args)
        if out.__class__ is Tensor:
            self._see(out, func, effect)
            if effect == _CAST:
                self._label_cast(out, args[0])
        else:
            self._see_all(out, func, effect)
        return out

    def _see(self, tensor: torch.Tensor, func: torch._ops.OpOverload, effect: Effect) -> None:
        """Notes the birth of a plain tensor's storage, if it is one."""
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # it is sparse
            self._see_all(tensor, func, effect)
            return
        if storage._cdata in self._alive or (self._gpu_only and tensor.is_cpu):
            return
        if effect == _ALIAS:
            self._number_of(storage)  # a view of what nobody announced
        else:
            self._birth(storage, func)

    def _birth(self, storage: torch.UntypedStorage, func: torch._ops.OpOverload) -> None:
        locations = self.locations
        place: nn.Module | Marks | str | None
        node_number = -1
        node = current_node()
        if node is None or locations.recomputing:
            place = locations.module
        else:
            node_number = node._sequence_nr()
            if isinstance(node, BackwardCFunction) and node_number not in self._contexts_read:
                self._read_context(node, node_number)
            if node_number < LEAF_NUMBER:
                place = locations.marks_of_running_node()
            else:
                variable = getattr(node, "variable", None)
                place, node_number = self.parameter_names.get(id(variable), ""), -1
        number = self._add(storage, (func, place, node_number, self.saved.packing))
        if self.log.sizes[number]:
            self.log.events.append(number)

    def _add(self, storage: torch.UntypedStorage, birth: _RawBirth) -> int:
        sizes = self.log.sizes
        number = len(sizes)
        self._births.append(birth)
        sizes.append(storage.nbytes())
        alive = _Alive(storage, self._on_death)
        alive.key = key = storage._cdata
        alive.number = number
        self._alive[key] = alive
        return number

    def _death(self, alive: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(alive, _Alive)
        del self._alive[alive.key]
        if self.log.sizes[alive.number]:
            self.log.events.append(~alive.number)

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

    def _read_context(self, context: BackwardCFunction, node_number: int) -> None:
        """What a Python function put on its ``ctx`` by hand was never seen saved; it is there when it is used."""
        self._contexts_read.add(node_number)
        for tensor in tensors_shown_by(vars(context)):
            for storage in storages_of(tensor):
                alive = self._alive.get(storage._cdata)
                if alive is not None:
                    self.kept_on_context[alive.number] = f"{type(context).__name__}'s ctx"

    def _special(self, effect: Effect, func: torch._ops.OpOverload, args: Any, kwargs: dict[str, Any]) -> Any:
        if effect == Effect.SCALAR:
            return scalar_of(func, args, kwargs)
        if effect == Effect.NORM:
            if not self._in_backward and self._phase == OUTSIDE_PHASE and self._is_gradient(args[0]):
                self._enter("clip")
            out = func(*args, **kwargs)
            self._see_all(out, func, Effect.FRESH)
            return out
        out = func(*args, **kwargs)
        for tensor in tensors_shown_by(out):
            for storage in () if self._gpu_only and tensor.is_cpu else storages_of(tensor):
                alive = self._alive.get(storage._cdata)
                if alive is None:
                    self._birth(storage, func)
                elif self.log.sizes[alive.number] != storage.nbytes():
                    # The new block is there before the old one goes, as in the allocators.
                    old = alive.number
                    self._birth(storage, func)
                    if self.log.sizes[old]:
                        self.log.events.append(~old)
        return out

    def _label_cast(self, copy: torch.Tensor, source: torch.Tensor) -> None:
        if source.__class__ not in PLAIN or source.layout is not torch.strided:
            return
        label = self._casts.get(source.untyped_storage()._cdata)
        alive = self._alive.get(copy.untyped_storage()._cdata) if label is not None else None
        if label is not None and alive is not None:
            self.labels.setdefault(alive.number, label)

    def _is_gradient(self, tensors: Any) -> bool:
        for tensor in tensors_shown_by(tensors)[:1]:
            for storage in storages_of(tensor):
                alive = self._alive.get(storage._cdata)
                return alive is not None and self.labels.get(alive.number, ("",))[0] == "gradients"
        return False

    def _number_of(self, storage: torch.UntypedStorage) -> int:
        """A storage's number; one that isn't known yet was there before the step."""
        alive = self._alive.get(storage._cdata)
        if alive is not None:
            return alive.number
        number = self._add(storage, (None, None, -1, None))
        self.log.resident.append(number)
        return number

    def _label(self, tensor: torch.Tensor, category: str, name: str) -> None:
        """Says what a tensor's storages are; the first word counts."""
        if self._gpu_only and tensor.is_cpu:
            return
        for storage in storages_of(tensor):
            self.labels.setdefault(self._number_of(storage), Label(category, name))

    # -- phases -------------------------------------------------------------------------------------

    def mark(self, phase: str | None) -> None:
        """Ends the phase before and starts ``phase``; ``None`` ends the step. Overrules phases found."""
        self.marked_edges.append((len(self.log.events), phase or OUTSIDE_PHASE))

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase = phase
            self.found_edges.append((len(self.log.events), phase))

    def _enter_backward(self) -> None:
        self._in_backward = True
        self.locations.begin_backward()
        self.backward_starts.append(len(self.log.events))
        self._enter("backward")

    def _leave_backward(self) -> None:
        self._in_backward = False
        self._enter("optimizer" if self._optimizers_running else OUTSIDE_PHASE)

    def _before_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        region = self.locations.enter(module)
        if region is not None:
            modules, inputs = self.regions.setdefault(region, ([], []))
            modules.append(module)
            for tensor in tensors_shown_by(args):
                for storage in storages_of(tensor):
                    alive = self._alive.get(storage._cdata)
                    if alive is not None:
                        inputs.append(alive.number)
        elif not self.locations.recomputing:
            self._in_backward = False
            self._enter("forward")

    def _after_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.locations.leave()

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer not in self.optimizers:
            self.optimizers = (*self.optimizers, optimizer)
            self._label_state(optimizer)
        self._in_backward = False
        self._optimizers_running += 1
        self._enter("optimizer")

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._optimizers_running -= 1
        self._enter(OUTSIDE_PHASE)

    # -- what is what -------------------------------------------------------------------------------

    def _label_model(self) -> None:
        named = list(self.model.named_parameters())
        for name, parameter in named:
            self.parameter_names.setdefault(id(parameter), name)
            kind = "trainable" if parameter.requires_grad else "frozen"
            self._label(parameter, f"parameters.{kind}", name)
            self._note_cast(parameter, Label("parameters.cast", name))
        for name, buffer in self.model.named_buffers():
            self._label(buffer, "buffers", name)
        for name, parameter in named:
            if parameter.grad is not None:
                self._label(parameter.grad, "gradients", name)

    def _label_inputs(self) -> None:
        for tensor in tensors_shown_by(self._inputs):
            self._label(tensor, "inputs", "")
            if tensor.is_leaf and tensor.grad is not None:
                self._label(tensor.grad, "gradients", "")

    def _note_cast(self, tensor: torch.Tensor, label: Label) -> None:
        for storage in storages_of(tensor):
            self._casts[storage._cdata] = label

    def _label_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._label(parameter.grad, "gradients", self.parameter_names[id(parameter)])

    def _label_state(self, optimizer: Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            name = self.parameter_names.get(id(parameter), "")
            for tensor in tensors_shown_by(state):
                self._label(tensor, "optimizer_state", name)

    def _parameters_of_optimizers(self) -> None:
        """Trained tensors that belong to no module, such as a soft prompt."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) not in self.parameter_names:
                        self.parameter_names[id(parameter)] = ""
                        self._label(parameter, "parameters.trainable", "")
                        if parameter.grad is not None:
                            self._label(parameter.grad, "gradients", "")

    # -- entering and leaving -----------------------------------------------------------------------

    @override
    def __enter__(self) -> Ledger:
        self._label_model()
        self._parameters_of_optimizers()
        for optimizer in self.optimizers:
            self._label_state(optimizer)
        self._label_inputs()
        for tensor in tensors_shown_by(self._inputs):
            self._note_cast(tensor, Label("inputs", ""))
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
        for parameter in self._trained():
            register: Any = parameter.register_post_accumulate_grad_hook
            handle = register(self._label_gradient)
            handles.append(handle)
            # Before those of others, which may use the gradient up and drop it: the engine goes by insertion.
            hooks_of_all: Any = parameter._post_accumulate_grad_hooks  # type: ignore[attr-defined]
            for key in [key for key in hooks_of_all if key != handle.id]:
                hooks_of_all[key] = hooks_of_all.pop(key)
        for handle in handles:
            hooks.callback(handle.remove)

    def _trained(self) -> list[torch.Tensor]:
        found = {id(parameter): parameter for parameter in self.model.parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                found |= {id(parameter): parameter for parameter in group["params"]}
        return [parameter for parameter in found.values() if parameter.requires_grad]

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        # What replaced a parameter, a buffer or a state within the step belongs to it as well.
        self._label_model()
        self._label_inputs()
        for optimizer in self.optimizers:
            self._label_state(optimizer)
        self._alive.clear()  # and with it all weak references: nothing is noted any more
        self._casts.clear()


def device_of(model: nn.Module) -> torch.device:
    """The one device of a model; the CPU where it has no tensors.

    Raises:
        ProfileError: there are several.
    """
    examples: dict[torch.device, str] = {}
    for names in (model.named_parameters, model.named_buffers):
        tensors: Callable[[], Iterable[tuple[str, torch.Tensor]]] = names
        for name, tensor in tensors():
            examples.setdefault(tensor.device, name)
    if len(examples) > 1:
        found = ", ".join(f"{device} ('{name}')" for device, name in examples.items())
        raise ProfileError(
            f"the model lies on several devices: {found}",
            hint="Move it to one device before profiling: the peaks of two devices don't add up to one.",
        )
    return next(iter(examples), torch.device("cpu"))
