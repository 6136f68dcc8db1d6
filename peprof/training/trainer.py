"""The full phase: a whole training with evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from peprof.devices import Device, StepTime
from peprof.errors import PeprofError
from peprof.events import Progress
from peprof.results.record import Evaluation, TrainingHistory
from peprof.suite.schema import TrainConfig
from peprof.training.batches import Batch, EncodedSplit
from peprof.training.evaluation import evaluate
from peprof.training.step import ClassifierStep

FLUSH_STEPS = 20
"""Steps between two looks at the losses: each look waits for the device, so it is not done at every step."""


class DivergedError(PeprofError):
    """The training or validation loss became infinite or not a number."""

    exit_code = 3


def check_finite(loss: float, what: str, when: str) -> None:
    """A loss that is no number means that the weights are of no use: nothing may be concluded from them.

    Args:
        loss: the loss.
        what: its name, for the message: ``training loss``.
        when: a step in words, for the message: ``at step 3``.

    Raises:
        DivergedError: it is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"the {what} became {loss} {when}",
            hint="Lower the learning rate of this method, or train in float32.",
        )


@dataclass(kw_only=True)
class Training:
    """What a full training has found so far; complete once ``train`` returns.

    Learning rates are noted before a step, its time and loss only when the device is next waited for.
    """

    evaluations: list[Evaluation] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    epoch_times_s: list[float] = field(default_factory=list)
    epochs: float = 0.0

    def history(self) -> TrainingHistory:
        """Step by step, as far as all of a step is known."""
        known = min(len(self.losses), len(self.learning_rates), len(self.step_times_s))
        return TrainingHistory(
            loss=tuple(self.losses[:known]),
            learning_rate=tuple(self.learning_rates[:known]),
            step_time_s=tuple(self.step_times_s[:known]),
        )


def planned_steps(config: TrainConfig, rows: int) -> int:
    """Steps of a training on ``rows`` examples: epochs of whole and one rest batch, cut at ``max_steps``."""
    steps = config.epochs * math.ceil(rows / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps is not None else steps


class Trainer:
    """Trains and evaluates, once.

    Attributes:
        found: what it has found; when ``train`` raises, what it had found until then.

    Args:
        step: the training step.
        config: epochs, batch sizes, when to evaluate.
        device: where it runs.
        seed: decides the order of the examples.
        progress: told about each step and each evaluated batch, and of training and of each evaluation
            before it starts, so that whatever fails in it is known to belong to it.
    """

    def __init__(
        self,
        step: ClassifierStep,
        config: TrainConfig,
        device: Device,
        *,
        seed: int,
        progress: Callable[[Progress], None] = lambda event: None,
    ) -> None:
        self._step = step
        self._config = config
        self._device = device
        self._seed = seed
        self._progress = progress
        self._clock = device.clock()
        self._pending: list[torch.Tensor] = []
        self.found = Training()

    def train(self, train: EncodedSplit, validation: EncodedSplit) -> Training:
        """Runs the whole training; the last evaluation is after the last step.

        Raises:
            DivergedError: the loss is no longer finite, of a training step or of an evaluation.
        """
        total = planned_steps(self._config, len(train))
        try:
            self._train(train, validation, total)
        except BaseException:
            # Steps that are done but not looked at yet. The device may be in no state to answer, and a loss
            # that isn't finite is not why the training ended.
            with suppress(RuntimeError, DivergedError):
                self._flush()
            raise
        return self.found

    def _train(self, train: EncodedSplit, validation: EncodedSplit, total: int) -> None:
        config, found = self._config, self.found
        per_epoch = math.ceil(len(train) / config.batch_size)
        begin = time.perf_counter()
        evaluation_s = 0.0
        self._progress(Progress(phase="full: training", step=0, total=total))
        for done, batch in enumerate(self._batches(train, total), start=1):
            found.learning_rates.append(self._step.optimizer.param_groups[0]["lr"])
            self._pending.append(self._step(batch.to(self._device.torch_device), self._clock.mark))
            epoch_ends = done % per_epoch == 0
            evaluates = done == total or (
                done % config.evaluate_every_steps == 0 if config.evaluate_every_steps else epoch_ends
            )
            if done % FLUSH_STEPS == 0 or epoch_ends or evaluates:
                self._flush()
            if epoch_ends:
                found.epoch_times_s.append(sum(found.step_times_s[done - per_epoch : done]))
            if evaluates:
                evaluation_s += self._evaluate(validation)
            elapsed = time.perf_counter() - begin - evaluation_s
            self._progress(
                Progress(
                    phase="full: training",
                    step=done,
                    total=total,
                    loss=found.losses[-1] if found.losses else None,
                    seconds_left=elapsed / done * (total - done),
                )
            )
        found.epochs = total / per_epoch

    def _batches(self, train: EncodedSplit, total: int) -> Iterator[Batch]:
        given = 0
        for epoch in range(self._config.epochs):
            for batch in train.epoch(
                self._config.batch_size,
                seed=self._seed * 1_000_003 + epoch,
                group_by_length=self._config.group_by_length,
            ):
                if given == total:
                    return
                given += 1
                yield batch

    def _flush(self) -> None:
        """Reads the losses and times of the steps since the last flush."""
        found = self.found
        times: list[StepTime] = self._clock.drain()
        found.step_times_s.extend(step.total_s for step in times)
        if not self._pending:
            return
        losses = torch.stack(self._pending).double().tolist()
        self._pending.clear()
        for loss in losses:
            found.losses.append(loss)
            check_finite(loss, "training loss", f"at step {len(found.losses)}")

    def _evaluate(self, validation: EncodedSplit) -> float:
        found = self.found
        done = len(found.losses)

        def on_batch(examples: int, total: int) -> None:
            self._progress(
                Progress(phase="full: evaluation", step=examples, total=total, loss=found.losses[-1])
            )

        on_batch(0, len(validation))
        score = evaluate(
            self._step.model,
            validation,
            self._device,
            batch_size=self._config.evaluation_batch_size,
            on_batch=on_batch,
        )
        # The last update's fault shows in no training loss: classes picked among NaNs would pass as a result.
        check_finite(score.loss, "validation loss", f"after step {done}")
        found.evaluations.append(
            Evaluation(
                step=done,
                train_time_s=sum(found.step_times_s),
                correct=score.correct,
                total=score.total,
                loss=score.loss,
                time_s=score.time_s,
                exact_matches=score.exact_matches,
                invalid=score.invalid,
            )
        )
        return score.time_s
