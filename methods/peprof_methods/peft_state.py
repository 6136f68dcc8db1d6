"""What tuners of the ``peft`` library whose budget moves remember beside their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_OF_ALLOCATOR = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # AdaLoRA's: name -> importance
_OF_LAYER = ("exp_avg_ipt_A", "exp_avg_ipt_B", "exp_avg_unc_A", "exp_avg_unc_B")  # AdaMSS's: by subspace


def budget_state(model: nn.Module) -> dict[str, Any]:
    """Running importances and what follows from them, as plain values and tensors.

    Args:
        model: as ``PeftTuner.apply`` returned it.
    """
    state: dict[str, Any] = {}
    base: Any = getattr(model, "base_model", None)
    allocator = getattr(base, "rankallocator", None)
    if allocator is not None:
        config = allocator.peft_config
        state["allocator"] = {name: dict(getattr(allocator, name)) for name in _OF_ALLOCATOR}
        state["total_step"] = config.total_step
        state["rank_pattern"] = None if config.rank_pattern is None else dict(config.rank_pattern)
    layers = {
        name: {key: getattr(module, key) for key in _OF_LAYER}
        for name, module in model.named_modules()
        if all(hasattr(module, key) for key in _OF_LAYER)
    }
    return state | ({"layers": layers} if layers else {})


def load_budget_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Puts it back.

    Args:
        model: made anew by the same tuner.
        state: of ``budget_state``.
    """
    device = next(model.parameters()).device
    allocator: Any = getattr(getattr(model, "base_model", None), "rankallocator", None)
    if "allocator" in state:
        for name, value in state["allocator"].items():
            setattr(allocator, name, _moved(value, device))
        allocator.peft_config.total_step = state["total_step"]
        allocator.peft_config.rank_pattern = state["rank_pattern"]
    for name, values in state.get("layers", {}).items():
        for key, value in values.items():
            setattr(model.get_submodule(name), key, _moved(value, device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return [_moved(item, device) for item in value] if isinstance(value, list) else value
