"""What a method may have besides ``apply``: asked for by protocol, so that methods know nothing of peprof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel


@runtime_checkable
class HasParameterGroups(Protocol):
    """A method that wants groups of its own, e.g. another learning rate for some of its parameters."""

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Groups as ``torch.optim`` takes them."""


@runtime_checkable
class LearnsFromData(Protocol):
    """A method that looks at training examples before training, e.g. for the importance of weights.

    It has ``apply`` too, which leaves out what data would tell: the same shapes, without the data; or
    ``apply_saved``, where shapes follow from data.
    """

    def examples_needed(self) -> int:
        """How many training examples it looks at with its present options; 0 for none."""

    def apply_with_data(
        self, model: PreTrainedModel, batches: Iterable[Mapping[str, torch.Tensor]]
    ) -> nn.Module:
        """As ``apply``, after a look at the batches.

        Args:
            model: on the device where it will be trained.
            batches: the model's keyword arguments, labels included, on the model's device.
        """


@runtime_checkable
class AppliesWhatWasSaved(Protocol):
    """A method whose parameters' shapes may be known from data only, and from what was saved."""

    def apply_saved(self, model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> nn.Module:
        """As ``apply``, with room for what was saved.

        Args:
            model: the backbone.
            state: as ``adapter_state`` gave it.
        """


@runtime_checkable
class HasLossTerm(Protocol):
    """A method that adds something to the loss of each training step."""

    def loss_term(self, model: nn.Module) -> torch.Tensor:
        """A scalar that needs a gradient, added in forward."""


@runtime_checkable
class HasAfterStep(Protocol):
    """A method that does something after each optimizer step, e.g. moves its rank budget."""

    def after_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Called when the optimizer has stepped and the gradients are still there.

        Args:
            model: as ``apply`` returned it.
            step: steps done before this one, from 0.
            total_steps: that the training is planned to have.
        """


@runtime_checkable
class HasTrainingState(Protocol):
    """A method that remembers something of a training outside the model's parameters and buffers.

    Whatever else a training changes must be there too, or a training that goes on from a checkpoint is
    another one. A buffer needs no such care, persistent or not.
    """

    def training_state(self, model: nn.Module) -> dict[str, Any]:
        """Numbers, strings, tensors, and lists, tuples and dicts of them; not copied.

        Args:
            model: as ``apply`` returned it, trained for some steps.
        """

    def load_training_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Puts the state back.

        Args:
            model: as ``apply`` returned it, with the parameters and buffers of then.
            state: of ``training_state``, its tensors on the CPU.
        """
