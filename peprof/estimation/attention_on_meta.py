"""Attention on ``meta`` by the kernel that a GPU would take.

On ``meta``, ``scaled_dot_product_attention`` is done in single operators with all probabilities (``math``),
whatever a GPU would do. In this context it calls the GPU's kernel instead, of which torch knows the shapes of
all that comes out and what of it is kept for backward, so that a ledger sees what it would see on the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from peprof.estimation.attention_kernels import (
    CUDNN_OF_TORCH,
    AttentionCall,
    Capability,
    Kernel,
    chosen_kernel,
)

Tensor = torch.Tensor


class AttentionAsOnGpu(TorchFunctionMode):
    """A context in which attention on ``meta`` is done as a GPU would do it.

    Args:
        capability: of the GPU.
        cudnn_version: as ``torch.backends.cudnn.version()`` says it there; ``None`` for no cuDNN.
        deterministic: ``torch.use_deterministic_algorithms(True)`` holds there.

    Attributes:
        calls: what was asked for, and the kernel for it, in order.
    """

    def __init__(
        self,
        capability: Capability,
        *,
        cudnn_version: int | None = CUDNN_OF_TORCH,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        self.calls: list[tuple[AttentionCall, Kernel]] = []
        self._capability = capability
        self._cudnn_version = cudnn_version
        self._deterministic = deterministic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Looks for attention on ``meta``; all else is left as it is."""
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if query.is_meta and query.dim() == 4:
            call = call_of(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa=enable_gqa)
            kernel = chosen_kernel(
                call,
                self._capability,
                cudnn_version=self._cudnn_version,
                deterministic=self._deterministic,
            )
            self.calls.append((call, kernel))
            if kernel != "math":
                return DONE_BY[kernel](query, key, value, attn_mask, dropout_p, is_causal, scale)
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


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
