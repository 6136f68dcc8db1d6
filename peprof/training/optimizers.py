"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from peprof.suite.schema import TrainConfig

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def default_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors don't (the custom since BERT)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(config: TrainConfig, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over ``groups``; a group's own values win over the suite's."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def make_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """Linear warm-up over ``warmup_fraction`` of all steps, then the schedule."""
    schedule: LRScheduler = get_scheduler(
        SCHEDULES[config.schedule],
        optimizer,
        num_warmup_steps=round(config.warmup_fraction * total_steps),
        num_training_steps=total_steps,
    )
    return schedule
