"""DoRA (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peprof_methods.lora import LoRALinear
from peprof_methods.low_rank_method import LearnsBFaster
from peprof_methods.low_rank_products import dropped_rows, row_norms, scaled_low_rank_linear
from peprof_methods.quantised import dense_dtype, product


class DoRALinear(LoRALinear):
    """A linear layer whose rows have a trained magnitude and a low-rank update of their direction.

    ``magnitude: (out_features,)`` is the norm of W's rows at first.

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        rank: of the update.
        scale: factor of the update.
        dropout: rate on the update's input.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__(linear, rank=rank, scale=scale, dropout=dropout)
        self.magnitude = nn.Parameter(self.norms().to(dense_dtype(linear.weight)))

    def norms(self) -> Tensor:
        """Norms of the rows of W + scale * B A, without a gradient: (out_features,), in float32 at least."""
        return row_norms(self.weight, self.lora_A, self.lora_B, scale=self.scale)

    def factor(self) -> Tensor:
        """magnitude / norm: (out_features,). A row of zeros keeps its zeros."""
        norms = self.norms()
        return self.magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer; see ``scaled_low_rank_linear`` for what it makes and keeps.

        With dropout, y = factor * (W + scale * B A) d + W (x - d) + b with d = dropout(x), as in the authors'
        code: what is dropped passes W as it was.

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        rows = input.reshape(-1, self.in_features)
        result: Tensor
        if self.dropout and self.training:
            dropped = dropped_rows(rows, self.dropout)
            result = product(rows - dropped, self.weight, self.bias).add_(self._adapted(dropped, None))
        else:
            result = self._adapted(rows, self.bias)
        return result.view(*input.shape[:-1], self.out_features)

    def _adapted(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        return scaled_low_rank_linear(
            rows, self.weight, bias, self.lora_A, self.lora_B, self.factor(), scale=self.scale
        )

    def adapted_weight(self, dtype: torch.dtype) -> Tensor:
        """factor * (W + scale * B A): (out_features, in_features)."""
        return super().adapted_weight(dtype).mul_(self.factor().detach().to(dtype)[:, None])


@dataclass(frozen=True, kw_only=True)
class DoRA(LearnsBFaster):
    """Magnitude and direction (Liu et al. 2024, arXiv:2402.09353): y = m (W + s B A) x / ||W + s B A|| + b.

    The norm is that of each row (the weights of one output), m a trained vector that is the norm of W at
    first, s = alpha / rank. As in the paper's section 4.3 the norm passes no gradient. It is found from
    W A^T, B and A A^T, so that W + s B A is never made. A and B start as LoRA's. The head is trained too.

    Args:
        dropout: rate on the update's input; above 0 each target takes a second product with W.
    """

    paper: ClassVar[str] = "Liu et al. 2024, arXiv:2402.09353"
    trains: ClassVar[str] = "A, B and magnitudes of each target, and the head"

    dropout: float = 0.0

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], DoRALinear]:
        """See ``AdaptsTargets``."""
        return partial(DoRALinear, rank=self.rank, scale=self.scale, dropout=self.dropout)
