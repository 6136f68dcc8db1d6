"""The full phase of a run: train, evaluate, weigh what would be saved."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from peprof.devices import Device
from peprof.results.record import FullResult, TrainingHistory
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit
from peprof.training.step import ClassifierStep
from peprof.training.trained_state import checkpoint_bytes
from peprof.training.trainer import Trainer

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
    """
    trainer = Trainer(step, spec.train, device, seed=spec.seed, progress=say)
    try:
        found = trainer.train(train, validation)
    finally:
        history = trainer.found.history()
        if history.loss:
            keep(history)
    return FullResult(
        steps=len(found.losses),
        epochs=found.epochs,
        train_time_s=sum(found.step_times_s),
        evaluation_time_s=sum(evaluation.time_s for evaluation in found.evaluations),
        epoch_times_s=tuple(found.epoch_times_s),
        evaluations=tuple(found.evaluations),
        checkpoint_bytes=checkpoint_bytes(step.model, method),
        final_loss=fmean(found.losses[-FINAL_STEPS:]),
    )
