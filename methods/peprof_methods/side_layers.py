"""Layers of a side network: the architecture's own, made narrow."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of
from peprof_methods.roles import layers


def shrunken_config(
    model: PreTrainedModel, *, reduction: int, attention_heads: int | None, dropout: float | None
) -> Any:
    """The model's configuration with d_model and d_ff divided, for layers of a side network.

    Args:
        model: whose configuration is copied, attention implementation included.
        reduction: divides d_model and d_ff.
        attention_heads: of the shrunken layers; ``None`` keeps the backbone's number.
        dropout: rate inside the shrunken layers; ``None`` keeps the backbone's rates.

    Raises:
        ValueError: if a width isn't a multiple of ``reduction``, or the new one not of the heads.
    """
    architecture = architecture_of(model)
    config: Any = copy.deepcopy(model.config)
    for name in (architecture.width, architecture.feedforward_width):
        full = getattr(config, name)
        if full % reduction:
            raise ValueError(f"reduction={reduction}: expected a divisor of the backbone's {name}, {full}")
        setattr(config, name, full // reduction)
    if attention_heads is not None:
        setattr(config, architecture.attention_heads, attention_heads)
    width, heads = getattr(config, architecture.width), getattr(config, architecture.attention_heads)
    if width % heads:
        raise ValueError(
            f"side_heads={attention_heads}: expected a divisor of the side width {width}, "
            f"found {heads} heads; the backbone's width is divided by reduction={reduction}"
        )
    if dropout is not None:
        for name in architecture.layer_dropouts:
            setattr(config, name, dropout)
    return config


def new_layer(model: nn.Module, config: Any) -> nn.Module:
    """A new layer of the model's own class, built from another configuration."""
    layer: nn.Module = type(layers(model)[0])(config)
    return layer
