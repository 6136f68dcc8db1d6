"""The full phase of a run: train, evaluate, weigh what would be saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from peprof.devices import Device, PeakMeter
from peprof.results.record import Evaluation, FullResult, Predictions, RunPeak, TrainingHistory
from peprof.running.repeating import make_repeatable
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit
from peprof.training.metrics import correct_bits, intervals
from peprof.training.step import ClassifierStep
from peprof.training.trained_state import checkpoint_bytes
from peprof.training.trainer import Keeper, Trainer
from peprof.training.training_state import Training
from peprof.training.watching import TrainingWatcher

SKIPPED_WARNING = (
    "in {} of {} steps gradients overflowed in float16 and the weights were left as they were, as is usual "
    "until the scale of the loss is found; bfloat16 needs no scale"
)

FINAL_STEPS = 50
"""Steps at the end whose mean loss is called the final one."""


def run_full_phase(
    spec: RunSpec,
    step: ClassifierStep,
    train: EncodedSplit,
    validation: EncodedSplit,
    method: Any,
    device: Device,
    say: Say,
    keep: Callable[[TrainingHistory], None],
    *,
    keep_predictions: Callable[[Predictions], None] = lambda predictions: None,
    warn: Callable[[str], None] = lambda warning: None,
    watchers: Sequence[TrainingWatcher] = (),
    keeper: Keeper | None = None,
    training: Training | None = None,
) -> FullResult:
    """Trains to the end and sums up.

    Args:
        spec: the run.
        step: over the model, on the device.
        train, validation: the examples.
        method: asked for what it has to save.
        device: where it runs.
        say: told how far it is.
        keep: given the training's history, also when the training fails after its first step.
        keep_predictions: given the result's answers one by one, if the training comes to its end.
        warn: told what a reader should know of the training.
        watchers: told what was found, whenever the device is waited for.
        keeper: keeps the training's state now and then.
        training: restored, to go on with; ``None`` starts anew.
    """
    if device.kind == "cuda":  # a CPU does the same work in the same way each time
        with device.deterministic():
            reason = make_repeatable(step, train, spec, device)
        if reason is not None:
            warn(reason)
    peak = device.peak_meter()
    trainer = Trainer(
        step,
        spec.train,
        device,
        seed=spec.seed,
        metrics=spec.data.judged_by,
        progress=say,
        watchers=(_PeakWatcher(peak), *watchers),
        keeper=keeper,
        training=training,
    )
    try:
        with device.deterministic():
            found = trainer.train(train, validation)
    finally:
        history = trainer.found.history()
        if history.loss:
            keep(history)
    if step.steps_skipped:
        warn(SKIPPED_WARNING.format(step.steps_skipped, found.steps))
    if found.predictions is not None:
        keep_predictions(found.predictions)
    return FullResult(
        steps=found.steps,
        epochs=found.epochs,
        train_time_s=math.fsum(found.step_time_s),
        evaluation_time_s=sum(evaluation.time_s for evaluation in found.evaluations),
        epoch_times_s=tuple(found.epoch_times_s),
        evaluations=tuple(found.evaluations),
        checkpoint_bytes=checkpoint_bytes(step.model, method),
        final_loss=fmean(found.loss[-FINAL_STEPS:]),
        result_step=found.result_step,
        intervals=intervals(found.predictions, spec.data.judged_by) if found.predictions else {},
        correct_bits=correct_bits(found.predictions, spec.data.task) if found.predictions else None,
        stopped_by=found.stopped_by,
        wall_time_s=found.wall_time_s,
        waiting_time_s=found.waiting_time_s,
        checkpoint_time_s=found.checkpoint_time_s,
        resumes=found.resumes,
        peak=RunPeak(**asdict(peak.result())),
        energy_j=found.energy_j,
    )


class _PeakWatcher:
    """Looks at the memory whenever the training is looked at."""

    def __init__(self, peak: PeakMeter) -> None:
        self._peak = peak

    def steps(self, first: int, history: TrainingHistory) -> None:
        """Looks."""
        self._peak.look()

    def evaluated(self, evaluation: Evaluation) -> None:
        """Looks."""
        self._peak.look()
