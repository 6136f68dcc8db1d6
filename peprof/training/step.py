"""One training step: forward, backward, clip, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from peprof.devices import Mark, no_mark
from peprof.devices.quantised import parts_of_quantised
from peprof.training.batches import Batch

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

IGNORED = -100
"""The label of what isn't predicted: no loss is computed there."""


def loss_terms(labels: torch.Tensor) -> int | torch.Tensor:
    """What a batch's mean loss is a mean over: its examples, or the tokens that are to be predicted.

    Args:
        labels: (batch,), or (batch, length) with ``IGNORED`` where nothing is predicted, as the first token
            of a decoder that predicts each from those before it.

    Returns:
        Their number, for tokens (), on the labels' device.
    """
    return len(labels) if labels.ndim == 1 else labels.ne(IGNORED).sum()


def cut(inputs: Mapping[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """A batch's inputs as up to ``parts`` parts of its examples, equal ones but for the last."""
    size = math.ceil(len(inputs["labels"]) / parts)
    columns = [torch.split(tensor, size) for tensor in inputs.values()]
    return [dict(zip(inputs, part, strict=True)) for part in zip(*columns, strict=True)]


class ClassifierStep:
    """A training step that marks its phases and doesn't wait for the device.

    With ``parts`` a batch is cut along its examples, and forward and backward run once for each part: their
    phases are entered several times. The loss of each part is weighted by its share of what the whole batch's
    loss is a mean over, so the gradients are those of the whole batch.

    With ``autocast="float16"`` small gradients would become zero, so the loss is scaled and the gradients are
    scaled back before they are clipped (``torch.amp.GradScaler``). A step whose gradients overflow leaves
    weights and schedule as they are and is counted. To know that, the scaler waits for the device.

    Args:
        model: takes a batch's inputs as keywords and returns an output with ``loss``; put into training mode.
        optimizer: over the model's trainable parameters.
        schedule: stepped with the optimizer, if there is one.
        max_grad_norm: the gradient's norm is clipped to it; ``None`` doesn't clip, and has no clip phase.
        loss_term: added to the model's loss once a step, if there is one; not under autocast.
        after_step: called with the number of steps done before, when the optimizer has stepped and the
            gradients are still there; its time counts as the optimizer's.
        parts: that a batch is cut into; fewer where it has fewer examples.
        autocast: operations of the model that bear it are done in this type; ``None`` for none.
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
        parts: int = 1,
        autocast: str | None = None,
    ) -> None:
        self.model = model.train()
        self.optimizer = optimizer
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered around forward and backward of each step."""
        self.steps_skipped = 0
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm
        self._loss_term = loss_term
        self._after_step = after_step
        self._parts = parts
        self._steps_done = 0
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._autocast = AUTOCAST_DTYPES[autocast] if autocast is not None else None
        self._device_type = next(model.parameters()).device.type
        self._scaler = torch.amp.GradScaler(self._device_type) if autocast == "float16" else None
        self._has_stepped = False
        if self._scaler is not None:
            optimizer.register_step_post_hook(self._note_step)

    def __call__(
        self, batch: Batch, mark: Mark = no_mark, norms: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Runs one step.

        Args:
            batch: on the device.
            mark: told where each phase begins.
            norms: given the gradient's norm before clipping, still on the device, where it is clipped; where
                it isn't, nobody computes it.

        Returns:
            The detached loss, still on the device.
        """
        loss = self.gradients(batch, mark)
        if self._max_grad_norm is not None:
            mark("clip")
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self._trained, self._max_grad_norm)
            if norms is not None:
                norms.append(norm)
        mark("optimizer")
        self._update()
        self.optimizer.zero_grad(set_to_none=True)
        mark(None)
        return loss

    def gradients(self, batch: Batch, mark: Mark = no_mark) -> torch.Tensor:
        """Forward and backward alone: parameters keep their values and get gradients.

        Args:
            batch: on the device.
            mark: told where each phase begins.

        Returns:
            The detached loss, still on the device.
        """
        with self.around():
            if self._parts == 1:
                return self._forward_backward(batch.inputs, mark, None)
            return self._accumulated(batch, mark)

    def _forward_backward(
        self,
        inputs: dict[str, torch.Tensor],
        mark: Mark,
        weight: float | torch.Tensor | None,
        *,
        first: bool = True,
    ) -> torch.Tensor:
        """Returns the part's loss, weighted and detached."""
        mark("forward")
        with self._cast():
            loss: torch.Tensor = self.model(**inputs).loss
        if isinstance(weight, torch.Tensor):
            # The mean over no token is no number, and its gradients are 0.
            loss = torch.where(weight > 0, loss * weight, 0.0)
        elif weight is not None:
            loss = loss * weight
        if first and self._loss_term is not None:
            loss = loss + self._loss_term()
        mark("backward")
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _accumulated(self, batch: Batch, mark: Mark) -> torch.Tensor:
        parts = cut(batch.inputs, self._parts)
        terms = [loss_terms(part["labels"]) for part in parts]
        total: Any = sum(terms)
        losses = [
            self._forward_backward(part, mark, term / total, first=number == 0)
            for number, (part, term) in enumerate(zip(parts, terms, strict=True))
        ]
        return torch.stack(losses).sum()

    def _cast(self) -> AbstractContextManager[None]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._device_type, dtype=self._autocast)

    def _update(self) -> None:
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._has_stepped = False
            self._scaler.step(self.optimizer)
            self._scaler.update()
            if not self._has_stepped:
                self.steps_skipped += 1
                return
        if self._schedule is not None:
            self._schedule.step()
        if self._after_step is not None:
            self._after_step(self._steps_done)
        self._steps_done += 1

    def _note_step(self, *_: object) -> None:
        self._has_stepped = True

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        """Parameters with their scales, buffers and optimizer state: what lives from step to step."""
        yield from self.model.parameters()
        yield from (part for _, part in parts_of_quantised(self.model))
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, schedule, scaler and counts; the model isn't in it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict() if self._schedule is not None else None,
            "scaler": self._scaler.state_dict() if self._scaler is not None else None,
            "steps_done": self._steps_done,
            "steps_skipped": self.steps_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of ``state_dict``, over the same model, optimizer and options."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        self._steps_done = state["steps_done"]
        self.steps_skipped = state["steps_skipped"]
