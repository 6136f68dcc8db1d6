"""Weights in 4 or 8 bits, as bitsandbytes holds them: what methods need beside or in place of them.

Such a weight is a parameter that isn't a floating-point one. It can't be trained or changed, but it can be
made dense again, for each product anew: nothing of that size is kept for backward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.autocasting import backward_once, dtype_of_product
from peprof_methods.errors import UnsupportedModelError


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is held in 4 or 8 bits."""
    return not weight.is_floating_point()


def elements(weight: Tensor) -> int:
    """The numbers that a weight stands for: two to a byte in 4 bits."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None or not is_quantised(weight) else math.prod(state.shape)


def beside(weight: Tensor) -> Tensor:
    """A tensor of the type and on the device that a parameter beside the weight is to have."""
    if not is_quantised(weight):
        return weight
    return torch.empty(0, dtype=dense_dtype(weight), device=weight.device)


def dense_dtype(weight: Tensor) -> torch.dtype:
    """The type that a weight had before it was quantised.

    One in 8 bits doesn't say, unless ``dense_dtype`` was set on it; bitsandbytes' products of such are in
    float16.
    """
    if not is_quantised(weight):
        return weight.dtype
    state = getattr(weight, "quant_state", None)
    found: torch.dtype = state.dtype if state is not None else getattr(weight, "dense_dtype", torch.float16)
    return found


def dense(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in some type: a quantised one as a new matrix, without a gradient.

    Args:
        weight: (out_features, in_features) where it is dense.
        dtype: wanted.

    Returns:
        (out_features, in_features)
    """
    if not is_quantised(weight):
        return weight.to(dtype)
    packed: Any = weight
    if hasattr(packed, "made_dense"):
        made: Tensor = packed.made_dense()
        return made.to(dtype)
    if getattr(packed, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        made = dequantize_4bit(packed.data, packed.quant_state)
        return made.to(dtype)
    if getattr(packed, "SCB", None) is None:
        raise UnsupportedModelError(f"a weight of {weight.dtype} doesn't say how it is made dense again")
    return dense_8bit(packed, dtype)


def dense_8bit(weight: Any, dtype: torch.dtype) -> Tensor:
    """A weight in 8 bits as bitsandbytes' products make it dense.

    Args:
        weight: (out_features, in_features) in int8, with its rows' scales as ``SCB``.
        dtype: wanted.

    Returns:
        (out_features, in_features)
    """
    made: Tensor = weight.data.to(dtype, copy=True).mul_(weight.SCB.unsqueeze(1).mul(1 / 127))
    return made


def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b as ``F.linear`` has it; a quantised W is made dense once more in backward.

    Args:
        input: (..., in_features)
        weight: (out_features, in_features) where it is dense.
        bias: (out_features,) or none.
    """
    if not is_quantised(weight):
        return F.linear(input, weight, bias)
    result: Tensor = _QuantisedLinear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _QuantisedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = dtype_of_product(input)
        ctx.weight = weight
        return F.linear(input.to(dtype), dense(weight, dtype), None if bias is None else bias.to(dtype))

    @backward_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        for_input, _, for_bias = ctx.needs_input_grad
        grad_bias = grad.flatten(end_dim=-2).sum(0) if for_bias else None
        return grad @ dense(ctx.weight, grad.dtype) if for_input else None, None, grad_bias


def saved_weight(ctx: Any, weight: Tensor, *, needed: bool) -> Tensor | None:
    """What a Function saves of a weight; ``weight_of`` finds it in backward.

    A quantised one is kept as the object that it is: what is saved comes back without the attributes that say
    how to make it dense, where anybody looks on. It can't change meanwhile.
    """
    ctx.quantised = weight if needed and is_quantised(weight) else None
    return weight if needed and ctx.quantised is None else None


def weight_of(ctx: Any, saved: Tensor | None) -> Any:
    """The weight that ``saved_weight`` was given; ``None`` where it wasn't needed."""
    return saved if ctx.quantised is None else ctx.quantised


def refuse_quantised(
    named: Iterable[tuple[str, Tensor]],
    *,
    wanted: str,
    of: Iterable[nn.Module] | None = None,
) -> None:
    """Raises UnsupportedModelError if one of the weights, by name, is quantised.

    Args:
        named: what a method would train or change.
        wanted: what it would do with them, for the message.
        of: only what these modules hold; ``None`` for all.
    """
    inside = None if of is None else {id(p) for module in of for p in module.parameters()}
    for name, weight in named:
        if is_quantised(weight) and (inside is None or id(weight) in inside):
            raise UnsupportedModelError(
                f"{name} is held in {'4' if hasattr(weight, 'quant_state') else '8'} bits, and quantised "
                f"weights have no gradient and can't be {wanted}: expected a model without quantization, "
                "or a method that trains something beside the weights"
            )


def holds_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear layer of a quantised weight, from bitsandbytes or alike."""
    return isinstance(module, nn.Linear) and is_quantised(module.weight)


def keep_scales(linear: nn.Linear) -> None:
    """Lets an 8-bit weight know its rows' scales again, which bitsandbytes' layer takes when it runs."""
    weight: Any = linear.weight
    if is_quantised(weight) and getattr(weight, "SCB", 0) is None:
        state: Any = linear.state
        weight.SCB = state.SCB
