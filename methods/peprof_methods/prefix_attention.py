"""Keys and values that stand before an attention's own, whatever the architecture.

A prefix as a cache (``past_key_values``) would do for some architectures only: DistilBERT takes none, and
with gradient checkpointing transformers drops it. So a prefix is put in where all architectures meet: in the
function that computes attention from queries, keys and values.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peprof_methods.architectures import architecture_of
from peprof_methods.errors import UnsupportedModelError

NAME = "peprof_prefix"
"""What the configuration of an attention with a prefix names as its implementation."""

BASES = ("eager", "sdpa")


class Prefix(nn.Module):
    """``key`` and ``value``: (tokens, width) each, normal with deviation 0.02 at first.

    Args:
        like: an empty tensor of that shape, dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.key = nn.Parameter(nn.init.normal_(torch.empty_like(like), std=0.02))
        self.value = nn.Parameter(nn.init.normal_(torch.empty_like(like), std=0.02))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values: (tokens, width) each."""
        return self.key, self.value


class ProjectedPrefix(nn.Module):
    """Keys and values by a projection of what a module shared with other layers makes.

    That is run for each of them, and again when a layer is recomputed: it is so small that to keep its result
    for all layers isn't worth its being shared state.

    Args:
        shared: an embedding of the tokens and what follows it; not a part of this module.
        projection: to keys and values, side by side.
    """

    def __init__(self, shared: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        self._shared = (shared,)  # in a tuple, so that it isn't taken for a part
        self.projection = projection

    def forward(self) -> tuple[Tensor, Tensor]:
        """Keys and values: (tokens, width) each."""
        embedding, *others = cast(nn.Sequential, self._shared[0])
        state = cast(nn.Embedding, embedding).weight  # all of the table, in its order
        for module in others:
            state = module(state)
        key, value = self.projection(state).chunk(2, dim=-1)
        return key, value


def check_attention(attention: nn.Module) -> None:
    """Raises UnsupportedModelError if an attention is neither eager nor sdpa, or has a prefix already."""
    config: Any = attention.config
    if config._attn_implementation == NAME:
        raise UnsupportedModelError("the model's attention has a prefix already: expected a model without")
    if config._attn_implementation not in BASES:
        raise UnsupportedModelError(
            f"{config._attn_implementation} attention can't take a prefix; expected one of {', '.join(BASES)}"
        )


def use_prefix(attention: nn.Module, prefix: nn.Module) -> None:
    """Put a prefix before an attention's keys and values.

    Args:
        attention: a module of transformers that computes attention; changed in place.
        prefix: called without arguments; becomes its part ``prefix``.
    """
    config: Any = attention.config
    attention.add_module("prefix", prefix)
    # Its own configuration, so that the model's still says what builds the mask, and is saved as it was.
    own = copy.copy(config)
    own._attn_implementation = NAME
    attention.config = own
    attention.config_without_prefix = config


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention with ``module.prefix`` before keys and values, seen by every query.

    Args:
        module: the attention.
        query: (batch, heads, queries, head_width)
        key: (batch, key_heads, keys, head_width)
        value: (batch, key_heads, keys, head_width)
        attention_mask: true or 0 where a query sees a key, broadcastable to (batch, heads, queries, keys).
        position_bias: added to the scores, of that shape; zero for the prefix.
        is_causal: a query sees no later keys if there is no mask; ``None`` for as the module says.
        kwargs: for the implementation that the model was made with.

    Returns:
        As that implementation.
    """
    batch, heads, length, width = key.shape
    prefix = [
        part.to(key.dtype).view(-1, heads, width).transpose(0, 1).expand(batch, -1, -1, -1)
        for part in module.prefix()
    ]
    tokens = prefix[0].shape[2]
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (tokens, 0), value=attention_mask.dtype == torch.bool)
    elif (module.is_causal if is_causal is None else is_causal) and query.shape[2] > 1:
        # What kernels do by themselves for causal attention fits as many keys as queries only.
        visible = torch.ones(query.shape[2], tokens + length, dtype=torch.bool, device=query.device)
        attention_mask = visible.tril(tokens + length - query.shape[2])[None, None]
    if position_bias is not None:
        kwargs["position_bias"] = F.pad(position_bias, (tokens, 0))
    eager = sys.modules[type(module).__module__].eager_attention_forward
    implementation = module.config_without_prefix._attn_implementation
    base: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
        implementation, eager
    )
    keys, values = (torch.cat(pair, dim=2) for pair in zip(prefix, (key, value), strict=True))
    return base(module, query, keys, values, attention_mask, is_causal=False, **kwargs)


AttentionInterface.register(NAME, attend)


def shift_positions(model: nn.Module, tokens: int) -> None:
    """Let a decoder with rotary positions count from behind its prefixes, and padding not count.

    Without the latter, padding on the left would move the text away from them.

    Args:
        model: changed in place; one without such positions is left as it is.
        tokens: length of the prefixes.
    """
    architecture = architecture_of(model)
    (*others, stack) = architecture.stacks
    runs = model.get_submodule(architecture.backbone).get_submodule(stack.path)
    if others or not hasattr(runs, "rotary_emb"):
        return
    runs.register_forward_pre_hook(_Shift(tokens), with_kwargs=True)


class _Shift:
    """The hook of ``shift_positions``; an object, so that a copied model has one of its own."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(
        self, runs: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = ("input_ids", "attention_mask", "position_ids")
        given: dict[str, Any] = dict(zip(names, args, strict=False)) | kwargs
        mask, positions = given.get("attention_mask"), given.get("position_ids")
        ids = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        if positions is None and mask is not None:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        elif positions is None:
            cache = given.get("past_key_values")
            seen = cache.get_seq_length() if cache is not None else 0
            positions = (torch.arange(ids.shape[1], device=ids.device) + seen)[None]
        return args[:2], {**kwargs, "position_ids": positions + self.tokens}
