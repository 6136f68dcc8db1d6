"""A linear layer of which only some entries are trained, without a gradient or state for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.autocasting import backward_once, dtype_of_product
from peprof_methods.linears import AdaptedLinear


class SelectedLinear(AdaptedLinear):
    """y = (W + S) x + b, where S is zero but for k entries, which are trained.

    It takes the given layer's own parameters under their old names; W stays as it is. ``selected: (k,)`` are
    the values of S, zero at first, and ``selected_indices: (k,)`` their places in W, flattened, as int32.

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        indices: (k,) int32, each at most once; those that lie in order are read faster.
    """

    selected_indices: Tensor

    def __init__(self, linear: nn.Linear, indices: Tensor) -> None:
        super().__init__(linear)
        self.selected = nn.Parameter(linear.weight.new_zeros(len(indices)))
        self.register_buffer("selected_indices", indices)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features).

        Saved for backward: the input, and nothing else that wasn't there. Two calls at the same time, from
        two threads, would see each other's weight.
        """
        result: Tensor = _SelectedLinear.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.selected, self.selected_indices
        )
        return result

    def merged(self) -> nn.Linear:
        """A plain layer with the weight W + S."""
        weight = self.weight.detach().clone()
        weight.view(-1).index_add_(0, self.selected_indices, self.selected.detach().to(weight.dtype))
        return self.plain_with(weight)

    def extra_repr(self) -> str:
        """The number of entries, for ``print(model)``."""
        return f"{super().extra_repr()}, selected={len(self.selected)}"


class _SelectedLinear(torch.autograd.Function):
    """Forward and backward with W changed for a moment; the gradient of S through W's, one layer at a time.

    A product with a sparse S, or the dot products of only those columns that S has, take less work on a CPU,
    but either copies of both factors or many small kernels; on a GPU the whole product takes next to nothing.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor, indices: Tensor
    ) -> Tensor:
        dtype = dtype_of_product(input)
        rows = input.to(dtype)
        with _added(weight, values, indices):
            result = F.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
        for_input, for_weight, _, for_values, _ = ctx.needs_input_grad
        ctx.save_for_backward(
            rows if for_values or for_weight else None, weight if for_input else None, values, indices
        )
        return result

    @backward_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        rows, weight, values, indices = ctx.saved_tensors
        for_input, for_weight, for_bias, for_values, _ = ctx.needs_input_grad
        grad_input = grad_weight = grad_bias = grad_values = None
        if for_values or for_weight:
            dense = grad.flatten(end_dim=-2).t() @ rows.flatten(end_dim=-2)
            grad_values = dense.view(-1).index_select(0, indices) if for_values else None
            grad_weight = dense if for_weight else None
            del dense  # before there is a gradient of the input
        if for_input:
            with _added(weight, values, indices):
                grad_input = grad @ weight.to(grad.dtype)
        if for_bias:
            grad_bias = grad.flatten(end_dim=-2).sum(0)
        return grad_input, grad_weight, grad_bias, grad_values, None


@contextmanager
def _added(weight: Tensor, values: Tensor, indices: Tensor) -> Iterator[None]:
    """While it lasts, W + S stands in W's memory; then W again, to the bit.

    The change goes past autograd's count of versions (``.data``): whoever kept W for backward, this layer's
    own earlier call included, will find it as it was.
    """
    flat = weight.data.view(-1)
    places = indices.long()  # index_copy_ takes no other
    before = flat.index_select(0, places)
    flat.index_copy_(0, places, before + values.detach().to(before.dtype))
    try:
        yield
    finally:
        flat.index_copy_(0, places, before)
