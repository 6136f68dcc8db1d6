"""Compacter (Karimi Mahabadi et al. 2021, arXiv:2106.04647)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.errors import UnsupportedModelError, require
from peprof_methods.inserted_linear import ACTIVATIONS, Activation, HasBottleneck, InsertedLinear
from peprof_methods.quantised import beside, product
from peprof_methods.roles import checked_roles, freeze_backbone, linears_by_role

Place = Literal["attention.output", "feedforward.down"]


class CompacterLinear(InsertedLinear):
    """A linear layer with a Kronecker adapter behind it: y = Wx + b, z = y + f(y P + c) Q + e.

    P = sum_i A_i kron (s_i t_i): (width, bottleneck) and Q = sum_i A_i kron (u_i v_i): (bottleneck, width),
    i = 1 ... n. Neither is ever made: with its columns in n blocks, y is first multiplied by s, which leaves
    n * n * rank numbers of a row, and these by a matrix of A and t; upwards the other way round.

    ``down_s: (n, width / n, rank)``, ``down_t: (n, rank, bottleneck / n)``, ``up_u: (n, bottleneck / n,
    rank)``, ``up_v: (n, rank, width / n)``; v and the biases c and e are zero at first, so that the layer
    starts as it was.

    Args:
        linear: the layer; its parameters are shared, not copied.
        rule: A: (n, n, n), shared by all layers.
        bottleneck: width of the adapter.
        rank: of each s_i t_i and u_i v_i.
        activation: f.
    """

    def __init__(
        self, linear: nn.Linear, rule: nn.Parameter, *, bottleneck: int, rank: int, activation: Activation
    ) -> None:
        super().__init__(linear)
        width, n, like = linear.out_features, len(rule), beside(linear.weight)
        self.activation = activation
        self.rule = rule
        # With A of variance 1/n, elements of P have variance 1/width, those of Q would have 1/bottleneck.
        self.down_s = _normal(like, n, width // n, rank, variance=1 / width)
        self.down_t = _normal(like, n, rank, bottleneck // n, variance=1 / rank)
        self.down_c = nn.Parameter(like.new_zeros(bottleneck))
        self.up_u = _normal(like, n, bottleneck // n, rank, variance=1 / bottleneck)
        self.up_v = nn.Parameter(like.new_zeros(n, rank, width // n))
        self.up_e = nn.Parameter(like.new_zeros(width))

    def forward(self, input: Tensor) -> Tensor:
        """Apply layer and adapter.

        Saved for backward: y, which the gradient of s needs, n * n * (2 rank + 1) numbers a row, and f's
        result (of GELU and SiLU its argument too).

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        n, rank, bottleneck = len(self.rule), self.up_v.shape[1], len(self.down_c)
        rows = product(input.reshape(-1, self.in_features), self.weight, self.bias)
        blocks = rows.view(-1, self.out_features // n)  # a row for each of the n blocks of each row

        first = self.down_s.transpose(0, 1).reshape(-1, n * rank)
        second = torch.einsum("iab,irq->bqair", self.rule, self.down_t).reshape(bottleneck, -1)
        # Under autocast a product has its dtype, whatever the parameters have.
        low = (blocks @ first).view(len(rows), n * n * rank)
        low = ACTIVATIONS[self.activation](F.linear(low, second, self.down_c))

        # Beside what is multiplied by v, each block carries which one it is, and that is multiplied by e: so
        # the bias is added within the product, where adding it to the result would make another one of it.
        third = torch.einsum("iab,ipr->birap", self.rule, self.up_u).reshape(n, n * rank, bottleneck)
        third = torch.cat([third, third.new_zeros(n, n, bottleneck)], dim=1).view(-1, bottleneck)
        which = torch.cat(
            [third.new_zeros(n, n * rank), torch.eye(n, dtype=third.dtype, device=third.device)], dim=1
        )
        fourth = torch.cat([self.up_v.reshape(n * rank, -1), self.up_e.view(n, -1)])
        high = F.linear(low, third, which.view(-1)).view(-1, n * rank + n)
        result = torch.addmm(blocks, high, fourth)
        return result.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        options = f"n={len(self.rule)}, rank={self.up_v.shape[1]}, bottleneck={len(self.down_c)}"
        return f"{super().extra_repr()}, {options}, activation={self.activation}"


def _normal(like: Tensor, *shape: int, variance: float) -> nn.Parameter:
    """A parameter of the other tensor's dtype and device."""
    values = like.new_empty(shape)
    return nn.Parameter(nn.init.normal_(values, std=math.sqrt(variance)))


@dataclass(frozen=True, kw_only=True)
class Compacter(HasBottleneck):
    """Compacter (Karimi Mahabadi et al. 2021, arXiv:2106.04647): adapters of Kronecker products.

    z = y + f(y P + c) Q + e, where P and Q are sums over i = 1 ... n of A_i kron B_i with B_i of low rank.
    The n matrices A_i: (n, n) are shared by all adapters, downwards and upwards. Where Houlsby's adapter has
    2 * width * bottleneck weights, this has 2 * rank * (width + bottleneck). The factor nearest to the output
    is zero at first, so training starts from the backbone's function. Being nonlinear, it can't be merged.
    The head is trained too.

    Args:
        bottleneck: width of each adapter, a multiple of n; the paper's is 24 for T5-base.
        n: how many Kronecker products are summed; must divide the model's width.
        rank: of each B_i.
        places: roles behind which adapters are put; ``["feedforward.down"]`` is the paper's Compacter++.
    """

    paper: ClassVar[str] = "Karimi Mahabadi et al. 2021, arXiv:2106.04647"
    trains: ClassVar[str] = "adapters of Kronecker products, and biases"
    variants: ClassVar[Mapping[str, tuple[str, str]]] = {
        "Compacter++": ('places = ["feedforward.down"]', "Karimi Mahabadi et al. 2021, arXiv:2106.04647"),
    }

    bottleneck: int = 48
    n: int = 4
    rank: int = 1
    activation: Activation = "gelu"
    places: tuple[Place, ...] = ("attention.output", "feedforward.down")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n >= 1, "n", self.n, "at least 1")
        require(self.bottleneck % self.n == 0, "bottleneck", self.bottleneck, f"a multiple of n={self.n}")
        require(self.rank >= 1, "rank", self.rank, "at least 1")
        known = ("attention.output", "feedforward.down")
        object.__setattr__(self, "places", checked_roles(self.places, known=known, option="places"))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the adapters in.

        Args:
            model: changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, a layer that isn't a plain linear one, or a
                width that isn't a multiple of ``n``.
        """
        linears = linears_by_role(model, self.places)
        for name, linear in linears.items():
            if linear.out_features % self.n:
                raise UnsupportedModelError(
                    f"{name} has {linear.out_features} outputs; expected a multiple of n={self.n}"
                )
        freeze_backbone(model)
        like = beside(next(iter(linears.values())).weight)
        rule = _normal(like, self.n, self.n, self.n, variance=1 / self.n)
        for name, linear in linears.items():
            inserted = CompacterLinear(
                linear, rule, bottleneck=self.bottleneck, rank=self.rank, activation=self.activation
            )
            model.set_submodule(name, inserted.train(linear.training))
        return model
