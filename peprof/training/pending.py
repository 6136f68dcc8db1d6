"""Steps whose results are still on the device: read all at once, so that a step waits for nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from peprof.devices import StepTime
from peprof.training.training_state import Training


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What is known of a step when it has been asked for; the loss is still on the device."""

    loss: torch.Tensor
    learning_rate: float
    samples: int
    real_tokens: int


class PendingSteps:
    """Steps that were asked for and not yet looked at.

    Attributes:
        norms: the step puts the gradient's norm there, still on the device, if it has one.
    """

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []
        self._steps: list[_Step] = []

    def add(self, loss: torch.Tensor, *, learning_rate: float, samples: int, real_tokens: int) -> None:
        """Adds a step that was asked for.

        Args:
            loss: (), on the device.
            learning_rate: that it was done with.
            samples: its examples.
            real_tokens: their tokens, padding left out.
        """
        self._steps.append(
            _Step(loss=loss, learning_rate=learning_rate, samples=samples, real_tokens=real_tokens)
        )

    def read_into(self, training: Training, times: list[StepTime]) -> None:
        """Waits for the device and adds all to the training; what follows a loss that is no number goes.

        Args:
            training: what was found before.
            times: of just these steps.
        """
        steps, norms = self._steps, self.norms
        self._steps, self.norms = [], []
        if not steps:
            return
        values = torch.stack([*(step.loss for step in steps), *norms]).double().tolist()
        losses, norm_values = values[: len(steps)], values[len(steps) :]
        wrong = next((place for place, loss in enumerate(losses) if not math.isfinite(loss)), len(steps))
        known = slice(wrong + 1)
        training.loss += losses[known]
        training.gradient_norm += norm_values[known]
        training.learning_rate += [step.learning_rate for step in steps[known]]
        training.samples += [step.samples for step in steps[known]]
        training.real_tokens += [step.real_tokens for step in steps[known]]
        training.step_time_s += [step.total_s for step in times[known]]
        for phase, seconds in training.by_phase.items():
            seconds += [step.phases_s[phase] for step in times[known] if phase in step.phases_s]
