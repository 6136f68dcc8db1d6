"""The full phase of a run: train, evaluate, weigh what would be saved."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from peprof.devices import Device
from peprof.results.record import FullResult, TrainingHistory
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit
from peprof.training.step import ClassifierStep
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
) -> tuple[FullResult, TrainingHistory]:
    """Trains to the end and sums up."""
    found = Trainer(step, spec.train, device, seed=spec.seed, progress=say).train(train, validation)
    full = FullResult(
        steps=len(found.losses),
        epochs=found.epochs,
        train_time_s=sum(found.step_times_s),
        evaluation_time_s=sum(evaluation.time_s for evaluation in found.evaluations),
        epoch_times_s=tuple(found.epoch_times_s),
        evaluations=tuple(found.evaluations),
        checkpoint_bytes=checkpoint_bytes(step.model, method),
        final_loss=fmean(found.losses[-FINAL_STEPS:]),
    )
    return full, found.history()


def state_to_save(model: nn.Module, method: Any) -> dict[str, torch.Tensor]:
    """What a method has to save: what it says itself, or all trained parameters by name, shared ones once."""
    if hasattr(method, "adapter_state"):
        state: dict[str, torch.Tensor] = method.adapter_state(model)
        return state
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def checkpoint_bytes(model: nn.Module, method: Any) -> int:
    """Size on disk, in bytes, of that state as safetensors: written, looked at and removed."""
    state = {name: tensor.contiguous() for name, tensor in state_to_save(model, method).items()}
    with tempfile.TemporaryDirectory(prefix="peprof-") as directory:
        path = Path(directory) / "adapter.safetensors"
        save_file(state, path)
        return path.stat().st_size
