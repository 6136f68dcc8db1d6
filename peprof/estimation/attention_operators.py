"""A GPU's kernels of attention as torch's operators, and what a call asks of them.

Of each operator torch knows on ``meta`` the shapes of all that comes out and what of it is kept for backward,
so that a ledger sees what it would see on the GPU. Around them is done what ``scaled_dot_product_attention``
does there: padding, aligned masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from peprof.estimation.attention_kernels import AttentionCall, Kernel

Tensor = torch.Tensor


def call_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    *,
    enable_gqa: bool,
) -> AttentionCall:
    """What a call asks for.

    Args:
        query: (batch, heads, queries, head_dim)
        key: (batch, key_heads, keys, head_dim)
        value: (batch, key_heads, keys, value_dim)
        mask: broadcast to (batch, heads, queries, keys)
        dropout: the share that is dropped.
        causal: ``is_causal``.
        enable_gqa: as it is passed.
    """
    tensors = (query, key, value)
    return AttentionCall(
        dtype=str(query.dtype).removeprefix("torch."),
        batch=query.size(0),
        heads=query.size(1),
        key_heads=key.size(1) if enable_gqa else None,
        queries=query.size(2),
        keys=key.size(2),
        head_dim=query.size(3),
        value_dim=value.size(3),
        mask=None if mask is None else "bool" if mask.dtype == torch.bool else "float",
        mask_elements=0 if mask is None else mask.numel(),
        mask_is_trained=mask is not None and mask.requires_grad,
        causal=causal,
        dropout=dropout,
        trains=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
    )


def _as_float(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask to be added, made of one that says yes and no."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    yes, no = (mask.new_zeros((), dtype=dtype) for _ in range(2))
    return torch.where(mask, yes, no)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _by_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    dim = query.size(-1)
    missing = -dim % 8
    if missing:
        query, key, value = (functional.pad(tensor, (0, missing)) for tensor in (query, key, value))
    scale = 1 / math.sqrt(dim) if scale is None else scale
    done: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout, causal, False, scale=scale
    )[0]
    return done[..., :dim] if missing else done


def _by_efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    bias = _as_float(mask, query.dtype)
    if bias is not None:
        bias = _aligned(bias).expand(query.size(0), query.size(1), query.size(2), key.size(2))
    done: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, _needs_gradient(query, key, value), dropout, causal, scale=scale
    )[0]
    return done


def _aligned(bias: Tensor) -> Tensor:
    """Rows that begin at multiples of 16 bytes or so; copied into longer ones where they don't."""
    if bias.stride(-1) == 1 and all(stride % 8 == 0 for stride in bias.stride()[:-1]):
        return bias
    length = bias.size(-1)
    return functional.pad(bias, (0, 8 - length % 8))[..., :length]


def _by_cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    done: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query,
        key,
        value,
        _as_float(mask, query.dtype),
        _needs_gradient(query, key, value),
        dropout,
        causal,
        False,
        scale=scale,
    )[0]
    return done


DONE_BY: dict[Kernel, Callable[..., Tensor]] = {
    "flash": _by_flash,
    "efficient": _by_efficient,
    "cudnn": _by_cudnn,
}
