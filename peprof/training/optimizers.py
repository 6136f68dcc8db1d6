"""Optimizers by name, and what of ``[train]`` could not work."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from peprof.errors import Fault
from peprof.suite.schema import Dtype, OptimizerName, TrainConfig
from peprof.training.optimizers_on_meta import AdamW8bitOnMeta, Lion8bitOnMeta
from peprof.training.quantising import missing_library, quiet_bitsandbytes

OPTIMIZERS: dict[OptimizerName, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
"""torch's own, with its defaults. ``weight_decay`` is decoupled in ``adamw`` and ``adafactor``; in the others
it is added to the gradient, unless they have an option ``decoupled_weight_decay`` and it is true."""

EIGHT_BIT: dict[OptimizerName, tuple[type[torch.optim.Optimizer], str]] = {
    "adamw-8bit": (AdamW8bitOnMeta, "AdamW8bit"),
    "lion-8bit": (Lion8bitOnMeta, "Lion8bit"),
}
"""bitsandbytes' with states in 8 bits, decoupled weight decay and its defaults: what stands for each on
``meta`` and has the options that may be given, and its name there. Trained embeddings' are in 8 bits too."""

POLYNOMIAL_END = 1e-7
"""The learning rate in which the polynomial schedule ends; the peak has to be higher."""

_KEYS = {"lr": "train.learning_rate", "weight_decay": "train.weight_decay"}
_NO_OPTIONS = {"self", "params", "differentiable", *_KEYS}


def default_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors don't (the custom since BERT)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(config: TrainConfig, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over ``groups``; a group's own values win over the suite's.

    Raises:
        TypeError, ValueError, RuntimeError: its options are wrong; ``check_training`` tells before.
    """
    groups = list(groups)
    without_data = config.optimizer in EIGHT_BIT and _is_on_meta(groups)
    kind: Any = _kind(config.optimizer, without_data=without_data)
    made: torch.optim.Optimizer = kind(
        groups, lr=config.learning_rate, weight_decay=config.weight_decay, **config.optimizer_options
    )
    return made


def _is_on_meta(groups: list[dict[str, Any]]) -> bool:
    """Makes lists of the groups' parameters, which may be a generator; none of them count as on ``meta``."""
    for group in groups:
        given = group["params"]
        group["params"] = [given] if isinstance(given, torch.Tensor) else list(given)
    first = next((parameter for group in groups for parameter in group["params"]), None)
    return first is None or first.is_meta


def _kind(name: OptimizerName, *, without_data: bool) -> type[torch.optim.Optimizer]:
    if name not in EIGHT_BIT:
        return OPTIMIZERS[name]
    stands_for, real = EIGHT_BIT[name]
    if without_data:
        return stands_for
    import bitsandbytes

    kind: type[torch.optim.Optimizer] = getattr(bitsandbytes.optim, real)
    return kind


def check_training(config: TrainConfig, dtype: Dtype) -> list[Fault]:
    """What of ``[train]`` could not work, found before anything runs.

    Args:
        config: of a run.
        dtype: of the model's parameters.
    """
    faults = _unknown_options(config)
    if config.optimizer in EIGHT_BIT:
        missing = missing_library("train.optimizer", f"'{config.optimizer}'", instead="adamw")
        faults += [missing] if missing is not None else []
    if not faults:
        try:
            with quiet_bitsandbytes():
                make_optimizer(config, [{"params": [nn.Parameter(torch.zeros(2, 2))]}])
        except (TypeError, ValueError, RuntimeError) as error:
            problem = f"{config.optimizer} refuses {config.optimizer_options}: {error}"
            faults.append(Fault(key="train.optimizer_options", problem=problem))
    if config.schedule == "polynomial" and config.learning_rate <= POLYNOMIAL_END:
        problem = f"the polynomial schedule ends in {POLYNOMIAL_END:g}"
        faults.append(Fault(key="train.learning_rate", problem=problem, expected="more than that"))
    if config.autocast == "float16" and dtype != "float32":
        problem = f"gradients of {dtype} parameters can't be scaled, which autocast in float16 needs"
        expected = "model.dtype = 'float32' with it, or train.autocast = 'bfloat16' or 'none'"
        faults.append(Fault(key="train.autocast", problem=problem, expected=expected))
    return faults


def _unknown_options(config: TrainConfig) -> list[Fault]:
    known = [
        name
        for name in inspect.signature(_kind(config.optimizer, without_data=True).__init__).parameters
        if name not in _NO_OPTIONS
    ]
    faults: list[Fault] = []
    for name in config.optimizer_options:
        if name in known:
            continue
        suggestion = _KEYS.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), None)
        faults.append(
            Fault(
                key=f"train.optimizer_options.{name}",
                problem=f"{config.optimizer} has no such option",
                expected=f"one of: {', '.join(known)}",
                suggestion=suggestion,
            )
        )
    return faults
