"""All that a training has found and where it stands: can be written down and gone on from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch

from peprof.results.record import Evaluation, Predictions, StopReason, TrainingHistory

_BY_STEP = tuple(TrainingHistory.model_fields)
"""Lists of a training that have one value a step, or none where it isn't known; named as in the history."""


@dataclass(kw_only=True)
class Training:
    """What a full training has found so far; complete once ``Trainer.train`` returns.

    Consistent whenever a ``Keeper`` sees it, and when training has failed: of each step that is counted all
    is known. Besides this, a training stands in its model, in its step (``ClassifierStep.state_dict``) and in
    the random generators.

    Args:
        loss, learning_rate, step_time_s, forward_s, backward_s, clip_s, optimizer_s, gradient_norm, samples,
            real_tokens: step by step, see ``TrainingHistory``.
        epochs: passes over the training split done, in fractions.
        epoch_times_s: training seconds of each finished epoch.
        evaluations: in order.
        result_step: of the evaluation that is the result so far: the last, or where it is kept, the best.
        best_step: of the evaluation with the best first metric; ``None`` before the first that has one.
        without_gain: evaluations in a row that weren't better than the best.
        kept: trainable parameters and buffers by name, on the CPU, as they were at ``best_step``; empty
            unless the best is kept and may have to be put back.
        predictions: of the evaluation that is the result so far.
        wall_time_s: from the first batch on, over all attempts that were joined.
        waiting_time_s: of these, waiting for batches and sending them to the device.
        checkpoint_time_s: of these, in ``Keeper.keep``.
        energy_j: joules of the device between evaluations and checkpoints; ``None`` where it can't tell.
        resumes: times that it was gone on with.
        stopped_by: what ended it; ``None`` until then.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    step_time_s: list[float] = field(default_factory=list)
    forward_s: list[float] = field(default_factory=list)
    backward_s: list[float] = field(default_factory=list)
    clip_s: list[float] = field(default_factory=list)
    optimizer_s: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    real_tokens: list[int] = field(default_factory=list)
    epochs: float = 0.0
    epoch_times_s: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    result_step: int | None = None
    best_step: int | None = None
    without_gain: int = 0
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    predictions: Predictions | None = None
    wall_time_s: float = 0.0
    waiting_time_s: float = 0.0
    checkpoint_time_s: float = 0.0
    energy_j: float | None = 0.0
    resumes: int = 0
    stopped_by: StopReason | None = None

    @property
    def steps(self) -> int:
        """Steps of which all is known."""
        return len(self.loss)

    @property
    def by_phase(self) -> dict[str, list[float]]:
        """Seconds step by step, by the phase's name."""
        return {
            "forward": self.forward_s,
            "backward": self.backward_s,
            "clip": self.clip_s,
            "optimizer": self.optimizer_s,
        }

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the best first metric so far."""
        return next((one for one in self.evaluations if one.step == self.best_step), None)

    def history(self, after: int = 0) -> TrainingHistory:
        """Step by step, leaving out the first ``after`` steps."""
        return TrainingHistory(**{name: tuple(getattr(self, name)[after:]) for name in _BY_STEP})

    def as_state(self) -> dict[str, Any]:
        """Everything as plain values, and tensors in ``kept``: ``torch.load(weights_only=True)`` reads it."""
        state = {item.name: getattr(self, item.name) for item in fields(self)}
        state["evaluations"] = [one.model_dump() for one in self.evaluations]
        state["predictions"] = None if self.predictions is None else self.predictions.model_dump()
        return state

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Training:
        """The opposite of ``as_state``.

        Raises:
            TypeError, pydantic.ValidationError: it is of another version of peprof.
        """
        predictions = state["predictions"]
        changed = {
            "evaluations": [Evaluation.model_validate(one) for one in state["evaluations"]],
            "predictions": None if predictions is None else Predictions.model_validate(predictions),
        }
        return cls(**(state | changed))
