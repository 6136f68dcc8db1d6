"""VeRA (Kopiczko et al. 2024, arXiv:2310.11454)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.linears import AdaptedLinear
from peprof_methods.low_rank_method import HasRank
from peprof_methods.low_rank_products import vectors_low_rank_linear
from peprof_methods.quantised import beside


class Projections(nn.Module):
    """The frozen random pair that all targets share: A (rank, widest input) and B (widest output, rank).

    A module of its own, so that moving the model moves it once and it stays shared. Both are Kaiming-uniform
    and drawn on the CPU from a seed, the same on every device, so they needn't be saved.

    Args:
        like: a weight with the dtype and device wanted.
        rank: of the pair.
        inputs: width of A.
        outputs: height of B.
        seed: from which both are drawn.
    """

    A: Tensor
    B: Tensor

    def __init__(self, like: Tensor, *, rank: int, inputs: int, outputs: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator(device="cpu").manual_seed(seed)
        for name, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            drawn = like.new_empty(shape, requires_grad=False)
            if not like.is_meta:
                bound = math.sqrt(6 / shape[1])
                drawn.copy_(torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator))
            self.register_buffer(name, drawn, persistent=False)


class VeRALinear(AdaptedLinear):
    """Two trained vectors around a frozen random pair: y = Wx + bias + b * B (d * A dropout(x)).

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        projections: shared with other layers; as much of A and B is used as the layer is wide and high.
        inner_start: first value of d, ``vera_d: (rank,)``; b, ``vera_b: (out_features,)``, is zero.
        dropout: rate on the update's input.
    """

    def __init__(
        self, linear: nn.Linear, projections: Projections, *, inner_start: float, dropout: float
    ) -> None:
        super().__init__(linear)
        self.dropout = dropout
        self.projections = projections
        self.vera_d = nn.Parameter(beside(linear.weight).new_full((projections.A.shape[0],), inner_start))
        self.vera_b = nn.Parameter(beside(linear.weight).new_zeros(linear.out_features))

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        result = vectors_low_rank_linear(
            input.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.projections.A[:, : self.in_features],
            self.projections.B[: self.out_features],
            self.vera_d,
            self.vera_b,
            dropout=self.dropout if self.training else 0.0,
        )
        return result.view(*input.shape[:-1], self.out_features)

    def merged(self) -> nn.Linear:
        """A plain layer with weight W + diag(b) B diag(d) A, in float32 at least; it shares the bias."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        a = self.projections.A[:, : self.in_features].to(wide)
        b = self.projections.B[: self.out_features].to(wide)
        b = b * self.vera_d.detach().to(wide) * self.vera_b.detach().to(wide)[:, None]
        return self.plain_with(torch.addmm(self.weight.detach().to(wide), b, a))


@dataclass(frozen=True, kw_only=True)
class VeRA(HasRank):
    """Random matrix adaptation (Kopiczko et al. 2024, arXiv:2310.11454): y = Wx + b * B (d * A dropout(x)).

    A and B are random, frozen and shared by all targets; each has two trained vectors, d of ``rank`` numbers
    and b of as many as it has outputs, zero at first, so training starts from the backbone's function. Only
    the vectors are saved: A and B follow from the seed. The head is trained too. The authors' learning rates
    are about ten times LoRA's.

    Args:
        rank: of A and B.
        initial_d: first value of d.
        projection_seed: seed of A and B.
    """

    paper: ClassVar[str] = "Kopiczko et al. 2024, arXiv:2310.11454"
    trains: ClassVar[str] = "two vectors of each target, and the head"

    rank: int = 256
    initial_d: float = 0.1
    projection_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        known = math.isfinite(self.initial_d) and self.initial_d != 0
        require(known, "initial_d", self.initial_d, "a number other than 0")
        require(self.projection_seed >= 0, "projection_seed", self.projection_seed, "at least 0")

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], VeRALinear]:
        """See ``AdaptsTargets``."""
        shared = Projections(
            beside(next(iter(linears.values())).weight),
            rank=self.rank,
            inputs=max(linear.in_features for linear in linears.values()),
            outputs=max(linear.out_features for linear in linears.values()),
            seed=self.projection_seed,
        )
        return partial(VeRALinear, projections=shared, inner_start=self.initial_d, dropout=self.dropout)
