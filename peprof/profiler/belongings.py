"""What is known of a step beforehand: its parameters, buffers, gradients, optimizer states and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from peprof.devices.quantised import parts_of_quantised
from peprof.profiler.book import Book, Label
from peprof.profiler.errors import ProfileError
from peprof.profiler.saving import tensors_shown_by
from peprof.profiler.storages import PLAIN, storages_of


class Belongings:
    """Labels in the book what belongs to the model, its optimizers and the batch.

    Args:
        book: where.
        model: its parameters, their gradients, its buffers.
        optimizers: their state, and parameters of theirs that belong to no module, such as a soft prompt.
        inputs: the batch, in any nesting.
    """

    def __init__(self, book: Book, model: nn.Module, optimizers: Iterable[Optimizer], inputs: Any) -> None:
        self.parameter_names: dict[int, str] = {}
        self._book, self._model = book, model
        self._optimizers = list(optimizers)
        self._inputs = tensors_shown_by(inputs)
        self._casts: dict[int, Label] = {}

    def label(self) -> None:
        """Labels all; called again at the end, for what was replaced within the step."""
        label = self._book.label
        parameters = self._named_parameters()
        for name, parameter in parameters:
            self.parameter_names.setdefault(id(parameter), name)
            label(parameter, f"parameters.{'trainable' if parameter.requires_grad else 'frozen'}", name)
        for name, part in parts_of_quantised(self._model):
            label(part, "parameters.frozen", name)
        for name, buffer in self._model.named_buffers():
            label(buffer, "buffers", name)
        for name, parameter in parameters:
            if parameter.grad is not None:
                label(parameter.grad, "gradients", name)
        for optimizer in self._optimizers:
            self._label_state(optimizer)
        for tensor in self._inputs:
            label(tensor, "inputs")
            if tensor.is_leaf and tensor.grad is not None:
                label(tensor.grad, "gradients")

    def _named_parameters(self) -> list[tuple[str, torch.Tensor]]:
        named: list[tuple[str, torch.Tensor]] = list(self._model.named_parameters())
        known = {id(parameter) for _, parameter in named}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                named += [("", parameter) for parameter in group["params"] if id(parameter) not in known]
        return named

    def trained(self) -> list[torch.Tensor]:
        """The parameters that get a gradient."""
        return [parameter for _, parameter in self._named_parameters() if parameter.requires_grad]

    def label_gradient(self, parameter: torch.Tensor) -> None:
        """A parameter's gradient is there."""
        if parameter.grad is not None:
            self._book.label(parameter.grad, "gradients", self.parameter_names.get(id(parameter), ""))

    def meet(self, optimizer: Optimizer) -> None:
        """An optimizer steps; if nobody had announced it, its state is labelled now."""
        if optimizer not in self._optimizers:
            self._optimizers.append(optimizer)
            self._label_state(optimizer)

    def _label_state(self, optimizer: Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            name = self.parameter_names.get(id(parameter), "")
            for tensor in tensors_shown_by(state):
                self._book.label(tensor, "optimizer_state", name)

    # -- copies -------------------------------------------------------------------------------------

    def expect_copies(self) -> None:
        """From now on, copies of parameters and inputs in another dtype or from another device are known."""
        for name, parameter in self._named_parameters():
            for storage in storages_of(parameter):
                self._casts[storage._cdata] = Label("parameters.cast", name)
        for tensor in self._inputs:
            for storage in storages_of(tensor):
                self._casts[storage._cdata] = Label("inputs", "")

    def label_copy(self, copy: torch.Tensor, source: torch.Tensor) -> None:
        """A tensor was copied; what kind of copy it is follows from its source."""
        if source.__class__ not in PLAIN or source.layout is not torch.strided:
            return
        label = self._casts.get(source.untyped_storage()._cdata)
        if label is not None and self._book.counts(copy):
            self._book.label(copy, *label)


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
