from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from peprof.suite.schema import Dtype, TrainConfig
from peprof.training.optimizers import OPTIMIZERS, check_training, make_optimizer
from peprof.training.schedules import make_schedule

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"betas": [0.8, 0.95], "eps": 1e-6},
    "adam": {"amsgrad": True, "eps": 0.1},
    "nadam": {"momentum_decay": 0.01, "decoupled_weight_decay": True},
    "radam": {"betas": [0.7, 0.9]},
    "adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    "adafactor": {"beta2_decay": -0.5, "d": 2.0},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "sgd": {"momentum": 0.9, "nesterov": True},
}
KINDS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def trained(make: Callable[[nn.Parameter], torch.optim.Optimizer]) -> list[float]:
    """Ten steps down a bowl."""
    weights = nn.Parameter(torch.linspace(-1, 2, 6).reshape(2, 3))
    optimizer = make(weights)
    for _ in range(10):
        (weights * torch.arange(6.0).reshape(2, 3)).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights.flatten().tolist()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_name_and_its_options_are_torchs(name: str) -> None:
    config = TrainConfig.model_validate(
        {"optimizer": name, "learning_rate": 0.02, "weight_decay": 0.1, "optimizer_options": OPTIONS[name]}
    )
    expected = trained(lambda w: KINDS[name]([w], lr=0.02, weight_decay=0.1, **OPTIONS[name]))
    plain = trained(lambda w: KINDS[name]([w], lr=0.02, weight_decay=0.1))
    found = trained(lambda w: make_optimizer(config, [{"params": [w]}]))
    assert found == expected != plain
    assert check_training(config, "float32") == []


def test_every_name_that_a_suite_may_use_is_known() -> None:
    assert OPTIMIZERS == KINDS
    for name in KINDS:
        TrainConfig.model_validate({"optimizer": name})


PEAK, STEPS, WARMUP = 0.5, 40, 8


def rate(schedule: str, step: int) -> float:
    """As the schedules are described: a linear rise, then."""
    if step < WARMUP:
        return PEAK * step / WARMUP
    passed = (step - WARMUP) / (STEPS - WARMUP)
    return {
        "linear": PEAK * (1 - passed),
        "cosine": PEAK * (1 + math.cos(math.pi * passed)) / 2,
        "constant": PEAK,
        "polynomial": 1e-7 + (PEAK - 1e-7) * (1 - passed),
        "inverse_sqrt": PEAK * math.sqrt(WARMUP / step),
    }[schedule]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "polynomial", "inverse_sqrt"])
def test_the_learning_rate_follows_its_formula(name: str) -> None:
    config = TrainConfig.model_validate(
        {"schedule": name, "learning_rate": PEAK, "warmup_fraction": WARMUP / STEPS, "optimizer": "sgd"}
    )
    optimizer = make_optimizer(config, [{"params": [nn.Parameter(torch.zeros(1))]}])
    schedule = make_schedule(config, optimizer, STEPS)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([rate(name, step) for step in range(STEPS)], abs=1e-9)


@pytest.mark.parametrize(
    ("train", "dtype", "message"),
    [
        (
            {"optimizer_options": {"beta": [0.9, 0.9]}},
            "float32",
            "train.optimizer_options.beta: adamw has no such option; expected one of: betas, eps, amsgrad, "
            "maximize, foreach, capturable, fused. Did you mean 'betas'?",
        ),
        (
            {"optimizer": "rmsprop", "optimizer_options": {"lr": 0.1}},
            "float32",
            "train.optimizer_options.lr: rmsprop has no such option; expected one of: alpha, eps, momentum, "
            "centered, capturable, foreach, maximize. Did you mean 'train.learning_rate'?",
        ),
        (
            {"optimizer": "sgd", "optimizer_options": {"nesterov": True}},
            "float32",
            "train.optimizer_options: sgd refuses {'nesterov': True}: Nesterov momentum requires a momentum "
            "and zero dampening",
        ),
        (
            {"optimizer_options": {"betas": [0.9, 1.0]}},
            "float32",
            "train.optimizer_options: adamw refuses {'betas': (0.9, 1.0)}: Invalid beta parameter at "
            "index 1: 1.0",
        ),
        (
            {"schedule": "polynomial", "learning_rate": 1e-8},
            "float32",
            "train.learning_rate: the polynomial schedule ends in 1e-07; expected more than that",
        ),
        (
            {"autocast": "float16"},
            "bfloat16",
            "train.autocast: gradients of bfloat16 parameters can't be scaled, which autocast in float16 "
            "needs; expected model.dtype = 'float32' with it, or train.autocast = 'bfloat16' or 'none'",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    train: dict[str, Any], dtype: Dtype, message: str
) -> None:
    (fault,) = check_training(TrainConfig.model_validate(train), dtype)
    assert str(fault) == message


def test_an_option_of_a_wrong_kind_is_a_fault() -> None:
    config = TrainConfig.model_validate({"optimizer": "sgd", "optimizer_options": {"momentum": "much"}})
    assert [fault.key for fault in check_training(config, "float32")] == ["train.optimizer_options"]


@pytest.mark.slow
def test_libraries_that_come_along_say_nothing() -> None:
    """bitsandbytes tells of kernels that it lacks, also to those who asked for nothing of it."""
    code = "import peprof.running.worker, peprof.estimation.estimating"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
