"""One training step of a classifier: forward, backward, clip, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from peprof.devices import Mark, no_mark
from peprof.training.batches import Batch


class ClassifierStep:
    """A training step that marks its phases and never waits for the device.

    Args:
        model: takes a batch's inputs as keywords and returns an output with ``loss``; put into training mode.
        optimizer: over the model's trainable parameters.
        schedule: stepped with the optimizer, if there is one.
        max_grad_norm: the gradient's norm is clipped to it; ``None`` doesn't clip, and has no clip phase.
        loss_term: added to the model's loss, if there is one.
        after_step: called with the number of steps done before, when the optimizer has stepped and the
            gradients are still there; its time counts as the optimizer's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: LRScheduler | None = None,
        max_grad_norm: float | None = 1.0,
        loss_term: Callable[[], torch.Tensor] | None = None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        self.model = model.train()
        self.optimizer = optimizer
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm
        self._loss_term = loss_term
        self._after_step = after_step
        self._steps_done = 0
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(self, batch: Batch, mark: Mark = no_mark) -> torch.Tensor:
        """Runs one step; returns the detached loss, still on the device."""
        mark("forward")
        loss: torch.Tensor = self.model(**batch.inputs).loss
        if self._loss_term is not None:
            loss = loss + self._loss_term()
        mark("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        if self._max_grad_norm is not None:
            mark("clip")
            torch.nn.utils.clip_grad_norm_(self._trained, self._max_grad_norm)
        mark("optimizer")
        self.optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        if self._after_step is not None:
            self._after_step(self._steps_done)
        self._steps_done += 1
        self.optimizer.zero_grad(set_to_none=True)
        mark(None)
        return loss.detach()

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        """Parameters, buffers and optimizer state: what lives from step to step."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))
