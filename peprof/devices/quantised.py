"""What belongs to weights of 4 or 8 bits beside their numbers, and is neither parameter nor buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def parts_of_quantised(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Scales, offsets and tables of bitsandbytes' weights, each under the name of its parameter.

    Args:
        model: with or without such weights.
    """
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            yield from ((name, part) for part in _of_state(getattr(parameter, "quant_state", None)))
            yield from ((name, part) for part in _of_rows(parameter))
    for name, module in model.named_modules():
        # A layer of 8 bits takes the scales from its weight when it first runs.
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and not weight.is_floating_point():
            yield from ((f"{name}.weight", part) for part in _of_rows(getattr(module, "state", None)))


def _of_state(state: Any) -> Iterator[torch.Tensor]:
    while state is not None:
        for name in ("absmax", "code", "offset"):
            part = getattr(state, name)
            if isinstance(part, torch.Tensor):
                yield part
        state = state.state2


def _of_rows(holder: Any) -> Iterator[torch.Tensor]:
    scales = getattr(holder, "SCB", None)
    if isinstance(scales, torch.Tensor):
        yield scales
