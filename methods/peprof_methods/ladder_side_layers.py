"""Layers of a side network: the architecture's own, made narrow."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

from torch import nn

from peprof_methods.architectures import Architecture
from peprof_methods.ladder_pruning import HeadShape


def shrunken_config(
    architecture: Architecture,
    config: Any,
    *,
    reduction: int,
    attention_heads: int | None,
    dropout: float | None,
) -> Any:
    """A configuration with d_model, d_ff and the heads' width divided, for layers of a side network.

    Args:
        architecture: whose names the configuration uses.
        config: of the stack whose layers are narrowed; copied, attention implementation included.
        reduction: divides d_model, d_ff and the heads' width.
        attention_heads: of the shrunken layers; ``None`` keeps the backbone's number.
        dropout: rate inside the shrunken layers; ``None`` keeps the backbone's rates.

    Raises:
        ValueError: if a width isn't a multiple of ``reduction``, or the new one not of the heads.
    """
    heads = attention_heads or getattr(config, architecture.attention_heads)
    inner = _attention_width(architecture, config)
    small: Any = copy.deepcopy(config)
    for name in (architecture.width, architecture.feedforward_width):
        full = getattr(config, name)
        if full % reduction:
            raise ValueError(f"reduction={reduction}: expected a divisor of the backbone's {name}, {full}")
        setattr(small, name, full // reduction)
    if inner % (reduction * heads):
        raise ValueError(
            f"side_heads={attention_heads}: expected a divisor of the side width {inner // reduction}, "
            f"found {heads} heads; the backbone's width is divided by reduction={reduction}"
        )
    setattr(small, architecture.attention_heads, heads)
    if architecture.head_width is not None:
        setattr(small, architecture.head_width, inner // reduction // heads)
    if architecture.family == "llama":
        _narrow_rotary_heads(architecture, config, small, reduction)
    if dropout is not None:
        for name in architecture.layer_dropouts:
            setattr(small, name, dropout)
    return small


def _attention_width(architecture: Architecture, config: Any) -> int:
    """All heads together, which in some architectures isn't d_model."""
    heads: int = getattr(config, architecture.attention_heads)
    width: int | None = getattr(config, architecture.head_width, None) if architecture.head_width else None
    return heads * (width or getattr(config, architecture.width) // heads)


def heads_of(architecture: Architecture, config: Any) -> HeadShape:
    """The heads of a configuration's layers."""
    queries: int = getattr(config, architecture.attention_heads)
    keys: int = config.num_key_value_heads if architecture.family == "llama" else queries
    width = _attention_width(architecture, config) // queries
    return HeadShape(queries=queries, keys=keys, width=width)


def _narrow_rotary_heads(architecture: Architecture, config: Any, small: Any, reduction: int) -> None:
    heads, head_width = small.num_attention_heads, small.head_dim
    if head_width % 2:
        raise ValueError(
            f"reduction={reduction}: a side head is {head_width} wide, and rotary position embeddings turn "
            f"pairs: expected an even width, by a smaller reduction or fewer side_heads than {heads}"
        )
    # As many queries share a key as in the backbone, as far as the number of heads can be divided like that.
    shared = config.num_attention_heads // config.num_key_value_heads
    small.num_key_value_heads = math.gcd(heads, max(1, heads // shared))


def new_layer(kind: type[nn.Module], config: Any, *, index: int, first: bool) -> nn.Module:
    """A new layer of the backbone's own class, built from another configuration.

    Args:
        kind: of layer.
        config: what ``shrunken_config`` made.
        index: of the backbone layer beside it, which tells some architectures what kind of mask it has.
        first: it is the first side layer, which makes T5's position bias for the others.
    """
    wanted = inspect.signature(kind).parameters
    known = {"layer_idx": index, "has_relative_attention_bias": first}
    return kind(config, **{name: value for name, value in known.items() if name in wanted})


def initialise(architecture: Architecture, layer: nn.Module, config: Any, *, reduction: int) -> None:
    """Random weights, so that a side layer's outputs vary as much as a backbone layer's do at first.

    T5 draws from a deviation that depends on the width already. The others draw from one that doesn't: with
    1 / reduction of the inputs, it is multiplied by sqrt(reduction).
    """
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            if architecture.family == "t5":
                inputs = module.in_features if isinstance(module, nn.Linear) else config.d_model
                query = name.rpartition(".")[2] == "q"  # T5 doesn't divide its attention scores
                std = config.initializer_factor * (inputs * (config.d_kv if query else 1)) ** -0.5
            else:
                std = config.initializer_range * math.sqrt(reduction)
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
