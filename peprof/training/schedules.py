"""Learning-rate schedules by name: transformers' own.

Import this late, in the process that trains. The schedules bring peft along, that bitsandbytes, and that asks
CUDA how many devices there are: processes that are forked after that can't use CUDA any more.
"""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler

from peprof.suite.schema import ScheduleName, TrainConfig
from peprof.training.quantising import quiet_bitsandbytes

with quiet_bitsandbytes():
    from transformers.optimization import get_scheduler

SCHEDULES: dict[ScheduleName, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
}
"""transformers' own, with its defaults: ``polynomial`` is of degree 1 down to 1e-7, ``inverse_sqrt`` falls
with the root of the steps over those of the warm-up, or over 10,000 where there is none."""


def make_schedule(config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """Linear warm-up over ``warmup_fraction`` of all steps, then the schedule."""
    schedule: LRScheduler = get_scheduler(
        SCHEDULES[config.schedule],
        optimizer,
        num_warmup_steps=round(config.warmup_fraction * total_steps),
        num_training_steps=total_steps,
    )
    return schedule
