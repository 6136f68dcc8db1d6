"""Products with a weight and its low-rank update that keep for backward only what the gradient needs.

Letters: N rows (batch times length), r the rank.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peprof_methods.autocasting import autocast_is_on, backward_once, dtype_of_product
from peprof_methods.quantised import dense, dense_dtype, saved_weight, weight_of


def low_rank_linear(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """W x + bias + scale * B A dropout(x), for each row x.

    One tensor of the output's size is made, the result. Kept for backward are: ``rows``, only if A (or W) is
    trained; N x r numbers, if B is; with dropout a mask of one byte for each number of ``rows``. Dropped
    inputs are made again in backward, and the gradient of ``rows`` is summed up in place. Under autocast W, A
    and B are cast again in backward: plain operators would keep a cast copy of each weight until then.

    Args:
        rows: (N, in_features)
        weight: (out_features, in_features)
        bias: (out_features,) or none.
        a: (r, in_features)
        b: (out_features, r)
        scale: factor of the update.
        dropout: rate on the update's input; the survivors are scaled up by 1 / (1 - rate).

    Returns:
        (N, out_features), in autocast's dtype where that is on.
    """
    result: Tensor = _LowRankLinear.apply(rows, weight, bias, a, b, scale, dropout)  # type: ignore[no-untyped-call]
    return result


def scaled_low_rank_linear(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    factor: Tensor,
    *,
    scale: float,
) -> Tensor:
    """factor * (W x + scale * B A x) + bias, for each row x.

    Kept for backward: ``rows``, N x r numbers, and the result, from which what the factor multiplied is found
    again: attention and activation functions keep that tensor anyway, mostly. An entry of 0 in ``factor``
    gets no gradient.

    Args:
        rows: (N, in_features)
        weight: (out_features, in_features)
        bias: (out_features,) or none.
        a: (r, in_features)
        b: (out_features, r)
        factor: (out_features,)
        scale: factor of the update.

    Returns:
        (N, out_features), in autocast's dtype where that is on.
    """
    result: Tensor = _ScaledLowRankLinear.apply(rows, weight, bias, a, b, factor, scale)  # type: ignore[no-untyped-call]
    return result


def vectors_low_rank_linear(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    inner: Tensor,
    outer: Tensor,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """W x + bias + outer * (B (inner * (A dropout(x)))), for each row x, with A and B frozen.

    Kept for backward: N x r numbers, and dropout's mask of one byte for each number of ``rows``. The vectors'
    gradients come from one product of B's size; nothing of the output's size is kept for them.

    Args:
        rows: (N, in_features)
        weight: (out_features, in_features)
        bias: (out_features,) or none.
        a: (r, in_features); gets no gradient.
        b: (out_features, r); gets no gradient.
        inner: (r,)
        outer: (out_features,)
        dropout: rate on the update's input.

    Returns:
        (N, out_features), in autocast's dtype where that is on.
    """
    result: Tensor = _VectorsLowRankLinear.apply(rows, weight, bias, a, b, inner, outer, dropout)  # type: ignore[no-untyped-call]
    return result


def dropped_rows(rows: Tensor, dropout: float) -> Tensor:
    """Dropout in training, with a mask of one byte an entry kept for backward and nothing else.

    Args:
        rows: (N, in_features)
        dropout: rate; the survivors are scaled up by 1 / (1 - rate).
    """
    return _dropped(rows, _kept(rows, dropout)).mul_(1 / (1 - dropout)) if dropout else rows


@torch.no_grad()
def row_norms(weight: Tensor, a: Tensor, b: Tensor, *, scale: float) -> Tensor:
    """Norms of the rows of W + scale * B A, without making it.

    From ||w + s b A||^2 = ||w||^2 + 2 s (w A^T) b + s^2 b (A A^T) b: the largest tensors have r columns.

    Args:
        weight: (out_features, in_features)
        a: (r, in_features)
        b: (out_features, r)
        scale: s.

    Returns:
        (out_features,), in float32 at least.
    """
    weight = dense(weight, dense_dtype(weight))
    wide = torch.promote_types(weight.dtype, torch.float32)
    with torch.autocast(weight.device.type, enabled=False) if autocast_is_on(weight) else nullcontext():
        own = torch.linalg.vector_norm(weight, dim=1, dtype=wide).square_()
        cross = F.linear(weight, a).to(wide)
        wide_a, wide_b = a.to(wide), b.to(wide)
        inner = torch.addmm(cross, wide_b, wide_a @ wide_a.t(), beta=2 * scale, alpha=scale**2)
        # Rounding may take a row of next to nothing below zero.
        return inner.mul_(wide_b).sum(1).add_(own).clamp_min_(0).sqrt_()


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
        dropout: float,
    ) -> Tensor:
        rows = rows.to(dtype_of_product(rows))
        kept = _kept(rows, dropout)
        low = F.linear(_dropped(rows, kept), a.to(rows.dtype))
        result = _linear(rows, weight, bias)
        ctx.scale = scale / (1 - dropout)
        result.addmm_(low, b.to(rows.dtype).t(), alpha=ctx.scale)
        for_rows, for_weight, _, for_a, for_b, *_ = ctx.needs_input_grad
        ctx.save_for_backward(
            rows if for_a or for_weight else None,
            saved_weight(ctx, weight, needed=for_rows),
            a if for_rows else None,
            b if for_rows or for_a else None,
            low if for_b else None,
            kept if for_rows or for_a else None,
        )
        return result

    @backward_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, saved, a, b, low, kept = ctx.saved_tensors
        weight = weight_of(ctx, saved)
        for_rows, for_weight, for_bias, for_a, for_b, *_ = ctx.needs_input_grad
        grad_rows = grad_a = grad_b = None
        if for_rows or for_a:
            narrow = torch.mm(grad, b.to(grad.dtype)).mul_(ctx.scale)
            if for_a:
                grad_a = torch.mm(narrow.t(), _dropped(rows, kept))
            if for_rows:
                grad_rows = _grad_of_rows(grad, weight, narrow, a, kept)
        if for_b:
            grad_b = torch.mm(grad.t(), low).mul_(ctx.scale)
        grad_weight = torch.mm(grad.t(), rows) if for_weight else None
        return grad_rows, grad_weight, grad.sum(0) if for_bias else None, grad_a, grad_b, None, None


class _ScaledLowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        factor: Tensor,
        scale: float,
    ) -> Tensor:
        rows = rows.to(dtype_of_product(rows))
        low = F.linear(rows, a.to(rows.dtype))
        result = _linear(rows, weight, None)
        result.addmm_(low, b.to(rows.dtype).t(), alpha=scale).mul_(factor.to(rows.dtype))
        if bias is not None:
            result.add_(bias.to(rows.dtype))
        ctx.scale = scale
        saved = saved_weight(ctx, weight, needed=True)
        ctx.save_for_backward(rows, saved, bias, a, b, factor, low, result)
        return result

    @backward_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, saved, bias, a, b, factor, low, result = ctx.saved_tensors
        weight = weight_of(ctx, saved)
        for_rows, for_weight, for_bias, _, for_b, for_factor, _ = ctx.needs_input_grad
        scaled = grad * factor.to(grad.dtype)
        narrow = torch.mm(scaled, b.to(grad.dtype)).mul_(ctx.scale)
        grad_a = torch.mm(narrow.t(), rows)
        grad_b = torch.mm(scaled.t(), low).mul_(ctx.scale) if for_b else None
        grad_weight = torch.mm(scaled.t(), rows) if for_weight else None
        grad_rows = _grad_of_rows(scaled, weight, narrow, a, None) if for_rows else None
        wide = torch.promote_types(grad.dtype, torch.float32)
        summed = grad.sum(0, dtype=wide) if for_bias or (for_factor and bias is not None) else None
        grad_factor = None
        if for_factor:
            # factor * grad_factor = sum of grad * (result - bias); ``scaled`` is of no more use.
            grad_factor = torch.mul(grad, result, out=scaled).sum(0, dtype=wide)
            if bias is not None and summed is not None:
                grad_factor.sub_(bias * summed)
            grad_factor = torch.where(factor == 0, 0.0, grad_factor / factor)
        return grad_rows, grad_weight, summed if for_bias else None, grad_a, grad_b, grad_factor, None


class _VectorsLowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        inner: Tensor,
        outer: Tensor,
        dropout: float,
    ) -> Tensor:
        rows = rows.to(dtype_of_product(rows))
        kept = _kept(rows, dropout)
        low = F.linear(_dropped(rows, kept), a.to(rows.dtype)).mul_(1 / (1 - dropout))
        result = _linear(rows, weight, bias)
        # The vectors go into a matrix of B's size, for a moment: cheaper than N x out_features.
        result.addmm_(low, (b * inner * outer[:, None]).to(rows.dtype).t())
        ctx.dropout = dropout
        for_weight = ctx.needs_input_grad[1]
        saved = saved_weight(ctx, weight, needed=True)
        ctx.save_for_backward(rows if for_weight else None, saved, a, b, inner, outer, low, kept)
        return result

    @backward_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, saved, a, b, inner, outer, low, kept = ctx.saved_tensors
        weight = weight_of(ctx, saved)
        for_rows, for_weight, for_bias, *_ = ctx.needs_input_grad
        grad_rows = None
        if for_rows:
            narrow = torch.mm(grad, (b * inner * outer[:, None]).to(grad.dtype)).mul_(1 / (1 - ctx.dropout))
            grad_rows = _grad_of_rows(grad, weight, narrow, a, kept)
        # b times the gradient that B would have: summed over either side, it gives the vectors' gradients.
        product = torch.mm(grad.t(), low).to(outer.dtype).mul_(b)
        grad_weight = torch.mm(grad.t(), rows) if for_weight else None
        grad_bias = grad.sum(0) if for_bias else None
        return grad_rows, grad_weight, grad_bias, None, None, outer @ product, product @ inner, None


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(rows, dense(weight, rows.dtype), None if bias is None else bias.to(rows.dtype))


def _kept(rows: Tensor, dropout: float) -> Tensor | None:
    """Which entries survive dropout: (N, in_features), of one byte each; none without dropout."""
    return torch.empty_like(rows, dtype=torch.bool).bernoulli_(1 - dropout) if dropout else None


def _dropped(rows: Tensor, kept: Tensor | None, *, out: Tensor | None = None) -> Tensor:
    """The rows with 0 where nothing is kept, not scaled up."""
    if kept is None:
        return rows
    # Not a product: that would first make numbers of the mask, in a tensor as large as the rows.
    return torch.where(kept, rows, rows.new_zeros(()), out=out)


def _grad_of_rows(grad: Tensor, weight: Tensor, narrow: Tensor, a: Tensor, kept: Tensor | None) -> Tensor:
    """grad W + (narrow A, where kept), summed up in one tensor of the rows' size."""
    result = torch.mm(narrow, a.to(grad.dtype))
    if kept is not None:
        _dropped(result, kept, out=result)
    return result.addmm_(grad, dense(weight, grad.dtype))
