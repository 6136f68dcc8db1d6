"""What is measured: a method on a backbone, with its optimizer and its data; built as often as needed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from peprof.devices import Device
from peprof.results.record import ModelFacts, ParameterCounts
from peprof.running.methods import apply_method, enable_checkpointing, make_method
from peprof.suite.planning import RunSpec
from peprof.training.backbone import load_backbone
from peprof.training.batches import EncodedSplit
from peprof.training.data import LoadedData
from peprof.training.optimizers import default_groups, make_optimizer
from peprof.training.protocols import HasAfterStep, HasLossTerm, HasParameterGroups, LearnsFromData
from peprof.training.step import ClassifierStep
from peprof.training.tasks import encode, tokenizer_texts
from peprof.training.trainer import planned_steps


@dataclass(frozen=True, kw_only=True)
class Built:
    """A method applied to a backbone, ready to train."""

    step: ClassifierStep
    method: Any
    train: EncodedSplit
    validation: EncodedSplit
    counts: ParameterCounts
    owners: Mapping[str, str]
    facts: ModelFacts


class Subject:
    """Builds what is measured, each time the same from the same seed."""

    def __init__(self, spec: RunSpec, device: Device, data: LoadedData, source: str) -> None:
        self._spec, self._device, self._data, self._source = spec, device, data, source
        self._encoded: tuple[EncodedSplit, EncodedSplit] | None = None

    def build(self) -> Built:
        """Builds it anew: the same each time, on the device."""
        spec, data = self._spec, self._data
        _seed(spec.seed)
        backbone = load_backbone(
            spec.model,
            num_labels=data.facts.num_labels,
            texts=lambda: tokenizer_texts(data.train, spec.data),
            source=self._source,
            task=spec.data.task,
            words=spec.data.verbalizers,
        )
        if self._encoded is None:
            encoded = partial(
                encode,
                data=spec.data,
                tokenizer=backbone.tokenizer,
                geometry=backbone.model.config,
                source=self._source,
            )
            self._encoded = (encoded(data.train), encoded(data.validation))
            if "full" in spec.phases:  # a short phase alone needs few rows, and none to validate on
                for split in self._encoded:
                    split.make_ready()
        method = make_method(spec.method)
        plain: Any = backbone.model  # whose `to` has annotations that a checker can't follow
        plain.to(self._device.torch_device)
        applied = apply_method(method, plain, self._examples_for(method))
        model = applied.model.to(self._device.torch_device)
        step = make_step(spec, method, model, planned_steps(spec.train, len(data.train)))
        return Built(
            step=step,
            method=method,
            train=self._encoded[0],
            validation=self._encoded[1],
            counts=applied.counts,
            owners=applied.owners,
            facts=backbone.facts,
        )

    def build_plain(self) -> nn.Module:
        """The backbone alone, on the device: its head has other random weights than that of ``build``."""
        spec = self._spec
        backbone = load_backbone(
            spec.model,
            num_labels=self._data.facts.num_labels,
            texts=lambda: tokenizer_texts(self._data.train, spec.data),
            source=self._source,
            task=spec.data.task,
            words=spec.data.verbalizers,
        )
        plain: Any = backbone.model
        moved: nn.Module = plain.to(self._device.torch_device)
        return moved

    def _examples_for(self, method: object) -> Iterator[Mapping[str, torch.Tensor]]:
        """Training examples for a method that asks for some; drawn by the run's seed."""
        if not isinstance(method, LearnsFromData) or not method.examples_needed():
            return
        assert self._encoded is not None
        batches = self._encoded[0].epoch(self._spec.train.batch_size, seed=self._spec.seed)
        left = method.examples_needed()
        for batch in batches:
            if left <= 0:
                return
            on_device = batch.to(self._device.torch_device).inputs
            yield {name: tensor[:left] for name, tensor in on_device.items()}
            left -= self._spec.train.batch_size


def make_step(
    spec: RunSpec,
    method: object,
    model: nn.Module,
    total_steps: int,
    *,
    scheduled: bool = True,
) -> ClassifierStep:
    """The training step of a run over what its method made of a backbone, with optimizer and schedule.

    Args:
        spec: of the run.
        method: that was applied.
        model: what it made, where it is to be trained.
        total_steps: that the training is planned to have.
        scheduled: whether the learning rate follows its schedule, for which libraries are imported.
    """
    if spec.method.gradient_checkpointing:
        enable_checkpointing(model)
    if isinstance(method, HasParameterGroups):
        groups = method.parameter_groups(model, spec.train.learning_rate, spec.train.weight_decay)
    else:
        groups = default_groups(model, spec.train.weight_decay)
    optimizer = make_optimizer(spec.train, groups)
    schedule = None
    if scheduled:
        from peprof.training.schedules import make_schedule  # see there why it is late

        schedule = make_schedule(spec.train, optimizer, total_steps)
    return ClassifierStep(
        model,
        optimizer,
        schedule=schedule,
        max_grad_norm=spec.train.max_grad_norm,
        loss_term=partial(method.loss_term, model) if isinstance(method, HasLossTerm) else None,
        after_step=partial(method.after_step, model, total_steps=total_steps)
        if isinstance(method, HasAfterStep)
        else None,
        parts=spec.train.gradient_accumulation_steps,
        autocast=spec.train.autocast,
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
