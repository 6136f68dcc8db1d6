"""PiSSA (Meng et al. 2024, arXiv:2404.02948) and SiVA: what starts at the top singular triplets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.linears import AdaptedLinear
from peprof_methods.lora import LoRALinear
from peprof_methods.low_rank_method import HasRank, check_alpha, check_sides
from peprof_methods.low_rank_products import low_rank_linear
from peprof_methods.quantised import refuse_quantised


def top_triplets(weight: Tensor, rank: int, iterations: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values of a weight, with their vectors: W is about U diag(S) V.

    The same weight gives the same triplets each time.

    Args:
        weight: (out_features, in_features)
        rank: how many.
        iterations: none for the exact decomposition; otherwise power iterations of a randomised one (Halko et
            al. 2009, arXiv:0909.4061), which is done on the CPU, so that every device gets the same.

    Returns:
        U (out_features, rank), S (rank,) and V (rank, in_features), on the weight's device, float32 at least.
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if iterations is None or weight.is_meta:
        u, s, v = torch.linalg.svd(wide, full_matrices=False)
        return u[:, :rank], s[:rank], v[:rank]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        u, s, v = torch.svd_lowrank(wide.cpu(), rank, niter=iterations)
    return u.to(weight.device), s.to(weight.device), v.t().to(weight.device)


def _subtract(weight: Tensor, b: Tensor, a: Tensor) -> None:
    """W - B A in W's place, so that modules which share it see the same."""
    with torch.no_grad():
        weight.copy_(torch.addmm(weight.to(b.dtype), b, a, alpha=-1.0))


class PiSSALinear(LoRALinear):
    """A LoRA layer that starts with the top singular triplets of W in A and B, and the rest in W.

    Args:
        linear: the layer to be adapted; its weight is changed.
        rank: of A and B.
        scale: factor of B A.
        dropout: rate on the input of A.
        iterations: see ``top_triplets``.
    """

    def __init__(
        self, linear: nn.Linear, *, rank: int, scale: float, dropout: float, iterations: int | None
    ) -> None:
        super().__init__(linear, rank=rank, scale=scale, dropout=dropout)
        u, s, v = top_triplets(self.weight, rank, iterations)
        root = (s / scale).sqrt()
        with torch.no_grad():
            self.lora_B.copy_(u * root)
            self.lora_A.copy_(root[:, None] * v)
            # What A and B are after rounding to their dtype, so that W + scale * B A is W again.
            wide_b, wide_a = self.lora_B.to(s.dtype), self.lora_A.to(s.dtype)
        _subtract(self.weight, scale * wide_b, wide_a)


class SiVALinear(AdaptedLinear):
    """A linear layer with its top singular triplets beside its weight, vectors trained and values frozen.

    y = W' x + U diag(S) V dropout(x) + b, where ``siva_U: (out_features, rank)``, ``siva_S: (rank,)`` and
    ``siva_V: (rank, in_features)`` are W's top triplets at first and W' is the rest.

    Args:
        linear: the layer to be adapted; its weight is changed.
        rank: number of triplets.
        dropout: rate on the input of V.
        iterations: see ``top_triplets``.
    """

    siva_S: Tensor

    def __init__(self, linear: nn.Linear, *, rank: int, dropout: float, iterations: int | None) -> None:
        super().__init__(linear)
        self.dropout = dropout
        u, s, v = top_triplets(self.weight, rank, iterations)
        self.siva_U = nn.Parameter(
            u.to(linear.weight.dtype, copy=True, memory_format=torch.contiguous_format)
        )
        self.siva_V = nn.Parameter(
            v.to(linear.weight.dtype, copy=True, memory_format=torch.contiguous_format)
        )
        # Not saved: it follows from the weight, as W' does.
        self.register_buffer("siva_S", s.to(linear.weight.dtype, copy=True), persistent=False)
        _subtract(self.weight, *self._wide_factors())

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        result = low_rank_linear(
            input.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.siva_S[:, None] * self.siva_V,
            self.siva_U,
            scale=1.0,
            dropout=self.dropout if self.training else 0.0,
        )
        return result.view(*input.shape[:-1], self.out_features)

    def merged(self) -> nn.Linear:
        """A plain layer with weight W' + U diag(S) V, computed in float32 at least; it shares the bias."""
        u, v = self._wide_factors()
        return self.plain_with(torch.addmm(self.weight.detach().to(u.dtype), u, v))

    def _wide_factors(self) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        u, s, v = (tensor.detach().to(wide) for tensor in (self.siva_U, self.siva_S, self.siva_V))
        return u, s[:, None] * v


@dataclass(frozen=True, kw_only=True)
class StartsAtTriplets(HasRank):
    """A method that takes the top singular triplets out of each target's weight.

    Args:
        rank: number of triplets of each target.
        dropout: rate on the update's input; it drops part of what the backbone computed.
        svd_iterations: none for the exact decomposition; a number of power iterations (4, say) for the fast
            randomised one.
    """

    rank: int = 8
    dropout: float = 0.0
    svd_iterations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        iterations = self.svd_iterations
        require(iterations is None or iterations >= 0, "svd_iterations", iterations, "at least 0, or none")

    def check_targets(self, linears: Mapping[str, nn.Linear]) -> None:
        """Raises ValueError if a weight can't have this rank, or can't have anything taken out of it."""
        check_sides(self.rank, linears)
        named = ((f"{name}.weight", linear.weight) for name, linear in linears.items())
        refuse_quantised(named, wanted="changed")


@dataclass(frozen=True, kw_only=True)
class PiSSA(StartsAtTriplets):
    """Principal singular triplets (Meng et al. 2024, arXiv:2404.02948): y = W' x + (alpha/rank) B A x.

    LoRA that starts elsewhere: B and A hold the top singular triplets of W, each with the root of the
    singular values (over alpha/rank), and W' = W - (alpha/rank) B A is frozen. Training starts from the
    backbone's function. Each target's weight is changed, so what is saved fits the same backbone with the
    same options only. The head is trained too.

    Args:
        alpha: the update is scaled by alpha / rank; none for the rank itself, a scale of 1, as in the paper.
    """

    paper: ClassVar[str] = "Meng et al. 2024, arXiv:2404.02948"
    trains: ClassVar[str] = "A and B of each target, and the head"

    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            check_alpha(self.alpha)

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], PiSSALinear]:
        """See ``AdaptsTargets``."""
        self.check_targets(linears)
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        return partial(
            PiSSALinear, rank=self.rank, scale=scale, dropout=self.dropout, iterations=self.svd_iterations
        )


@dataclass(frozen=True, kw_only=True)
class SiVA(StartsAtTriplets):
    """Singular vectors adapted: y = W' x + U diag(S) V x, U and V trained, S frozen.

    As PiSSA, but the top singular values stay as they are and their vectors are trained (Say, Coşlu, Gudelj
    2023, a student project at TUM). W' = W - U diag(S) V is frozen. Training starts from the
    backbone's function. Each target's weight is changed, so what is saved fits the same backbone with the
    same options only. The head is trained too.
    """

    paper: ClassVar[str] = "Say, Coşlu, Gudelj 2023, TUM student project"
    trains: ClassVar[str] = "top singular vectors of each target, and the head"

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], SiVALinear]:
        """See ``AdaptsTargets``."""
        self.check_targets(linears)
        return partial(SiVALinear, rank=self.rank, dropout=self.dropout, iterations=self.svd_iterations)
