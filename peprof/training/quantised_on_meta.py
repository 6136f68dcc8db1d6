"""What stands for bitsandbytes' layers where tensors have no data: the same tensors, born and gone as theirs.

By arithmetic, from the source of bitsandbytes 0.50, whose own types quantise when they are moved: that needs
data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peprof_methods.quantised import dense_8bit
from torch import Tensor, nn
from typing_extensions import override

BLOCK, DOUBLE_BLOCK = 64, 256
FUSED_ROWS = 1536
"""Products of more rows than these (batch times length) make their weight dense on every GPU."""
_NF4_VALUES, _VALUES = 16, 256


@dataclass(kw_only=True)
class QuantStateOnMeta:
    """What bitsandbytes keeps of a weight beside its numbers, under its own names.

    Args:
        absmax: a block's largest number, or, if that is quantised itself, its place among ``state2.code``.
        code: the values that numbers stand for.
        shape: of the weight.
        dtype: of the weight before.
        offset: mean of the maxima, where they are quantised.
        state2: of the maxima, where they are quantised.
    """

    absmax: Tensor
    code: Tensor
    shape: torch.Size | None = None
    dtype: torch.dtype = torch.float32
    offset: Tensor | None = None
    state2: QuantStateOnMeta | None = None


class Packed4bit(nn.Parameter):
    """Numbers of 4 bits, two a byte, on ``meta``."""

    quant_state: QuantStateOnMeta

    def made_dense(self) -> Tensor:
        """As ``bitsandbytes.functional.dequantize_4bit``: maxima in float32 live as long as it works."""
        state = self.quant_state
        assert state.shape is not None
        maxima = torch.empty_like(state.absmax, dtype=torch.float32) if state.state2 else None
        made = torch.empty(state.shape, dtype=state.dtype, device="meta")
        del maxima
        return made


class Packed8bit(nn.Parameter):
    """Numbers of 8 bits on ``meta``."""

    SCB: Tensor
    dense_dtype: torch.dtype

    def made_dense(self) -> Tensor:
        """As bitsandbytes makes them floating-point numbers again, with their rows' scales."""
        return dense_8bit(self, self.dense_dtype)


def packed_4bit(weight: Tensor, *, double: bool) -> Packed4bit:
    """What a weight becomes.

    Args:
        weight: on ``meta``.
        double: whether the maxima are quantised as well.
    """
    blocks = -(-weight.numel() // BLOCK)

    def empty(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    packed = Packed4bit(empty(-(-weight.numel() // 2), torch.uint8)[:, None], requires_grad=False)
    packed.quant_state = QuantStateOnMeta(
        absmax=empty(blocks, torch.uint8 if double else torch.float32),
        code=empty(_NF4_VALUES),
        shape=weight.shape,
        dtype=weight.dtype,
        offset=torch.empty((), device="meta") if double else None,
        state2=QuantStateOnMeta(absmax=empty(-(-blocks // DOUBLE_BLOCK)), code=empty(_VALUES))
        if double
        else None,
    )
    return packed


class _OnMeta(nn.Linear):
    """A quantised linear layer without data.

    Attributes:
        kind: of the device that it stands for. On a CPU bitsandbytes' products are operators inside which no
            ledger sees, on a GPU they call the allocator.
    """

    kind: Literal["cpu", "cuda"] = "cpu"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.bias = linear.bias
        self.compute_dtype = linear.weight.dtype

    def output_of(self, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An empty tensor of the output's shape: not a product, which autocast would cast."""
        return rows.new_empty((*rows.shape[:-1], self.out_features), dtype=dtype or rows.dtype)


def stand_for_kernels(model: nn.Module, kind: Literal["cpu", "cuda"]) -> None:
    """Lets all quantised layers of a model stand for those on a kind of device."""
    for module in model.modules():
        if isinstance(module, _OnMeta):
            module.kind = kind


class Linear4bitOnMeta(_OnMeta):
    """Stands for ``bitsandbytes.nn.Linear4bit``, its weight made dense for each product.

    Args:
        linear: on ``meta``; its bias is shared.
        double: whether the maxima are quantised as well.
    """

    def __init__(self, linear: nn.Linear, *, double: bool) -> None:
        super().__init__(linear)
        self.weight = packed_4bit(linear.weight, double=double)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        given = input.dtype
        rows = input.to(self.compute_dtype)
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        result: Tensor = _Product4bit.apply(rows, self, bias)  # type: ignore[no-untyped-call]
        return result.to(given)


class _Product4bit(torch.autograd.Function):
    """``MatMul4Bit`` with the kernels of many rows: up to ``FUSED_ROWS`` may have one without."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: Linear4bitOnMeta, bias: Tensor | None) -> Tensor:
        weight = layer.weight
        assert isinstance(weight, Packed4bit)
        ctx.weight = weight
        ctx.dtype_of_bias = None if bias is None else bias.dtype
        if layer.kind == "cpu":
            return layer.output_of(rows)
        state = weight.quant_state
        nested = [
            torch.empty_like(state.absmax, dtype=torch.float32) for _ in range(2 if state.state2 else 0)
        ]
        made = torch.empty(math.prod(state.shape or ()), dtype=rows.dtype, device="meta")
        result = layer.output_of(rows)
        del nested, made
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        for_rows, _, for_bias = ctx.needs_input_grad
        grad_bias = grad.sum(0, dtype=ctx.dtype_of_bias) if for_bias else None
        grad_rows = torch.matmul(grad, ctx.weight.made_dense().to(grad.dtype)) if for_rows else None
        return grad_rows, None, grad_bias


class Linear8bitOnMeta(_OnMeta):
    """Stands for ``bitsandbytes.nn.Linear8bitLt`` with weights that are quantised once.

    Args:
        linear: on ``meta``; its bias is shared.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        packed = Packed8bit(torch.empty_like(linear.weight, dtype=torch.int8), requires_grad=False)
        packed.SCB = torch.empty(linear.out_features, device="meta")
        packed.dense_dtype = linear.weight.dtype
        self.weight = packed

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        result: Tensor = _Product8bit.apply(input, self, self.bias)  # type: ignore[no-untyped-call]
        return result


class _Product8bit(torch.autograd.Function):
    """``MatMul8bitFp`` on a CPU, which keeps its input, ``MatMul8bitLt`` on a GPU: only for a gradient."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: Linear8bitOnMeta, bias: Tensor | None) -> Tensor:
        weight = layer.weight
        assert isinstance(weight, Packed8bit)
        ctx.weight, ctx.shape, ctx.dtype = weight, input.shape, input.dtype
        ctx.input = input if layer.kind == "cpu" or ctx.needs_input_grad[0] else None
        ctx.dtype_of_bias = None if bias is None else bias.dtype
        if layer.kind == "cpu":
            made = dense_8bit(weight, input.dtype)
            result = layer.output_of(input)
            del made
            return result
        rows = input.reshape(-1, input.shape[-1])
        short, scales = _rows_in_8bit(rows)
        summed = layer.output_of(rows, torch.int32)
        result = layer.output_of(rows, torch.float16).to(input.dtype)
        del short, scales, summed
        return result.view(*input.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        for_input, _, for_bias = ctx.needs_input_grad
        grad_bias = grad.sum(0, dtype=ctx.dtype_of_bias) if for_bias else None
        if not for_input:
            return None, None, grad_bias
        dtype = ctx.dtype
        grad = grad.reshape(-1, grad.shape[-1]).contiguous()
        made = dense_8bit(ctx.weight, dtype)
        return torch.matmul(grad.to(dtype), made).view(ctx.shape), None, grad_bias


def _rows_in_8bit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``int8_vectorwise_quant`` of rows without outliers: their number depends on the data."""
    half = rows.to(torch.float16)
    scales = torch.empty(len(rows), device="meta")
    short = torch.empty_like(rows, dtype=torch.int8)
    outliers = half.abs() >= 1
    del outliers, half
    return short, scales
