"""Which evaluation is the best, and the weights that it was of: copied when found, put back at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from peprof.results.record import Evaluation
from peprof.suite.metrics import METRICS
from peprof.suite.schema import TrainConfig
from peprof.training.training_state import Training


def judge(training: Training, evaluation: Evaluation, config: TrainConfig, metric: str) -> None:
    """Notes whether the latest evaluation is the best so far and the result, and whether patience ends.

    A metric that is no number is better than nothing; of two equal ones the first is the best.

    Args:
        training: already has the evaluation, and ``stopped_by`` if it is the last one anyway.
        evaluation: the latest.
        config: what is kept, and how long without a gain training goes on.
        metric: that decides.
    """
    sign = 1 if METRICS[metric].higher_is_better else -1
    value, best = evaluation.metrics[metric], training.best
    if not math.isnan(value) and (best is None or sign * value > sign * best.metrics[metric]):
        training.best_step, training.without_gain = evaluation.step, 0
        training.kept = {}
    else:
        training.without_gain += 1
    if config.keep == "last" or training.best_step in (None, evaluation.step):
        training.result_step = evaluation.step
    patience = config.early_stopping_patience
    if training.stopped_by is None and patience is not None and training.without_gain >= patience:
        training.stopped_by = "early_stopping"


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trainable parameters and all buffers by name, on the CPU.

    All buffers: which of them a training changes can't be told from outside, and they are small.
    """
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _changing(model).items()}


def put_back(model: nn.Module, kept: Mapping[str, torch.Tensor]) -> None:
    """Gives a model the values that were copied of it.

    Raises:
        KeyError: it has no such parameter or buffer any more.
    """
    own = _changing(model)
    with torch.no_grad():
        for name, tensor in kept.items():
            own[name].copy_(tensor)


def _changing(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())
