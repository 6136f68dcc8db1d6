"""Bottleneck adapters: Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2021 (arXiv:2005.00247) and
the parallel one of He et al. 2022 (arXiv:2110.04366)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peprof_methods.errors import require
from peprof_methods.inserted_linear import ACTIVATIONS, Activation, HasBottleneck, InsertedLinear
from peprof_methods.quantised import beside, product
from peprof_methods.roles import LinearRole, freeze_backbone, linears_by_role, modules_by_role


class AdapterLinear(InsertedLinear):
    """A linear layer with an adapter behind it: y = Wx + b, z = y + U f(D y + c) + e.

    ``adapter_D: (bottleneck, out_features)`` is Kaiming-uniform (sqrt 5); ``adapter_U: (out_features,
    bottleneck)`` and the biases ``adapter_c: (bottleneck,)`` and ``adapter_e: (out_features,)`` are zero.

    Args:
        linear: the layer; its parameters are shared, not copied.
        bottleneck: width of the adapter.
        activation: f.
    """

    def __init__(self, linear: nn.Linear, *, bottleneck: int, activation: Activation) -> None:
        super().__init__(linear)
        self.activation = activation
        self.adapter_D, self.adapter_c = new_down(linear, linear.out_features, bottleneck)
        self.adapter_U, self.adapter_e = new_up(linear, bottleneck)

    def forward(self, input: Tensor) -> Tensor:
        """Apply layer and adapter.

        Saved for backward: y, which D's gradient needs, and f's result (of GELU and SiLU its argument too).
        The layer's own input isn't, and the result is the only other tensor of that size that is made.

        Args:
            input: (..., in_features)

        Returns:
            (..., out_features)
        """
        # Two dimensions: with more, a linear call returns a view, on which in-place work costs autograd more.
        rows = product(input.reshape(-1, self.in_features), self.weight, self.bias)
        low = ACTIVATIONS[self.activation](F.linear(rows, self.adapter_D, self.adapter_c))
        result = torch.addmm(rows, low, self.adapter_U.t()).add_(self.adapter_e)
        return result.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"{super().extra_repr()}, bottleneck={len(self.adapter_D)}, activation={self.activation}"


class _Passed:
    """What the lower half of a parallel adapter hands to its upper half within one forward."""

    low: Tensor | None = None


class ParallelDownLinear(InsertedLinear):
    """The first layer of a feed-forward, and beside it the lower half of a parallel adapter: f(D x + c).

    Args:
        linear: the layer; its parameters are shared, not copied.
        bottleneck: width of the adapter.
        activation: f.
        passed: where the result is left for the upper half.
    """

    def __init__(
        self, linear: nn.Linear, *, bottleneck: int, activation: Activation, passed: _Passed
    ) -> None:
        super().__init__(linear)
        self.activation = activation
        self.passed = passed
        self.adapter_D, self.adapter_c = new_down(linear, linear.in_features, bottleneck)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features). The input is saved for backward."""
        rows = input.reshape(-1, self.in_features)
        self.passed.low = ACTIVATIONS[self.activation](F.linear(rows, self.adapter_D, self.adapter_c))
        return product(input, self.weight, self.bias)


class ParallelUpLinear(InsertedLinear):
    """The last layer of a feed-forward and a parallel adapter's upper half: Wh + b + scale (U low + e).

    Args:
        linear: the layer; its parameters are shared, not copied.
        bottleneck: width of the adapter.
        scale: of what the adapter adds.
        passed: where the lower half leaves its result.
    """

    def __init__(self, linear: nn.Linear, *, bottleneck: int, scale: float, passed: _Passed) -> None:
        super().__init__(linear)
        self.scale = scale
        self.passed = passed
        self.adapter_U, self.adapter_e = new_up(linear, bottleneck)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features). Only ``low`` is saved for backward."""
        # Taken away before it is used: a recomputing backward may stop at the last tensor that it needs.
        low, self.passed.low = self.passed.low, None
        assert low is not None, "the feed-forward's first layer runs before its last"
        rows = product(input.reshape(-1, self.in_features), self.weight, self.bias)
        # In place, as nobody needs the layer's own result. Under autocast the linear calls return its dtype,
        # while an in-place product isn't cast.
        rows = rows.addmm_(low.to(rows.dtype), self.adapter_U.to(rows.dtype).t(), alpha=self.scale)
        rows = rows.add_(self.adapter_e, alpha=self.scale)
        return rows.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"{super().extra_repr()}, bottleneck={self.adapter_U.shape[1]}, scale={self.scale}"


def new_down(linear: nn.Linear, width: int, bottleneck: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A down-projection (bottleneck, width), Kaiming-uniform (sqrt 5), and its bias (bottleneck,), zero."""
    weight = nn.Parameter(beside(linear.weight).new_empty(bottleneck, width))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight, nn.Parameter(beside(linear.weight).new_zeros(bottleneck))


def new_up(linear: nn.Linear, bottleneck: int) -> tuple[nn.Parameter, nn.Parameter]:
    """An up-projection (out_features, bottleneck) and its bias (out_features,), both zero."""
    width = linear.out_features
    zeros = beside(linear.weight).new_zeros
    return nn.Parameter(zeros(width, bottleneck)), nn.Parameter(zeros(width))


def _insert(
    model: nn.Module, roles: tuple[LinearRole, ...], *, bottleneck: int, activation: Activation
) -> nn.Module:
    linears = linears_by_role(model, roles)
    freeze_backbone(model)
    for name, linear in linears.items():
        inserted = AdapterLinear(linear, bottleneck=bottleneck, activation=activation)
        model.set_submodule(name, inserted.train(linear.training))
    return model


@dataclass(frozen=True, kw_only=True)
class Houlsby(HasBottleneck):
    """Adapters (Houlsby et al. 2019, arXiv:1902.00751): z = y + U f(D y + c) + e behind every sublayer.

    One acts on what each attention projects out (a decoder's attention to the encoder included) and one on
    what each feed-forward projects down, before the residual is added. In the paper dropout comes before the
    adapter, here after it. U is zero at first, so training starts from the backbone's function; D is
    Kaiming-uniform (sqrt 5). Being nonlinear, adapters can't be merged. The head is trained too. The authors'
    own activation is GELU.

    Args:
        bottleneck: width of each adapter; the paper's are 2 to 256.
        layernorms: whether the backbone's normalisations are trained too, as in the paper.
    """

    paper: ClassVar[str] = "Houlsby et al. 2019, arXiv:1902.00751"
    trains: ClassVar[str] = "bottlenecks after attention and feed-forward"

    bottleneck: int = 48
    layernorms: bool = False

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the adapters in.

        Args:
            model: changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a layer that isn't a plain linear one.
        """
        roles: tuple[LinearRole, ...] = ("attention.output", "feedforward.down")
        _insert(model, roles, bottleneck=self.bottleneck, activation=self.activation)
        for norm in modules_by_role(model, ["layernorm"]).values() if self.layernorms else ():
            norm.requires_grad_(True)
        return model


@dataclass(frozen=True, kw_only=True)
class Pfeiffer(HasBottleneck):
    """Adapters behind the feed-forward only (Pfeiffer et al. 2021, arXiv:2005.00247): half of Houlsby's.

    z = y + U f(D y + c) + e on what each feed-forward projects down, before the residual is added. U is zero
    at first; D is Kaiming-uniform (sqrt 5). Being nonlinear, adapters can't be merged. The head is trained
    too.
    """

    paper: ClassVar[str] = "Pfeiffer et al. 2021, arXiv:2005.00247"
    trains: ClassVar[str] = "bottlenecks after the feed-forward"

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the adapters in; see ``Houlsby.apply``."""
        return _insert(model, ("feedforward.down",), bottleneck=self.bottleneck, activation=self.activation)


@dataclass(frozen=True, kw_only=True)
class ParallelAdapter(HasBottleneck):
    """Adapters beside the feed-forward (He et al. 2022, arXiv:2110.04366): ffn(x) + scale (U f(D x + c) + e).

    They read what the feed-forward reads (behind its norm, where the norm comes first). As the feed-forward's
    own result is read by nobody else, it isn't saved. U is zero at first; D is Kaiming-uniform (sqrt 5).
    Being nonlinear, adapters can't be merged. The head is trained too.

    Args:
        scale: of what an adapter adds; 4 in the paper's experiments.
    """

    paper: ClassVar[str] = "He et al. 2022, arXiv:2110.04366"
    trains: ClassVar[str] = "bottlenecks beside the feed-forward"

    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.scale < math.inf, "scale", self.scale, "a positive number")

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the two halves of each adapter in; see ``Houlsby.apply``."""
        ups = linears_by_role(model, ("feedforward.up",))
        downs = linears_by_role(model, ("feedforward.down",))
        freeze_backbone(model)
        for (first, up), (last, down) in zip(ups.items(), downs.items(), strict=True):
            passed = _Passed()
            lower = ParallelDownLinear(
                up, bottleneck=self.bottleneck, activation=self.activation, passed=passed
            )
            upper = ParallelUpLinear(down, bottleneck=self.bottleneck, scale=self.scale, passed=passed)
            model.set_submodule(first, lower.train(up.training))
            model.set_submodule(last, upper.train(down.training))
        return model
