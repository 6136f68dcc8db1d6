"""AdaLoRA (Zhang et al. 2023, arXiv:2303.10512)."""

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
from peprof_methods.low_rank_method import AdaptsTargets, check_alpha
from peprof_methods.low_rank_products import low_rank_linear
from peprof_methods.quantised import beside

_FACTORS = ("lora_A", "lora_E", "lora_B")


class AdaLoRALinear(AdaptedLinear):
    """A linear layer with an update shaped as a singular value decomposition: y = Wx + b + s P diag(E) Q x.

    ``lora_A: (rank, in_features)`` is Q, ``lora_E: (rank,)`` the values, zero at first, and ``lora_B:
    (out_features, rank)`` is P. Pruning a rank sets its value to zero.

    Args:
        linear: the layer to be adapted; its parameters are shared, not copied.
        rank: at first.
        alpha: s = alpha / rank, with the rank of the beginning.
        dropout: rate on the update's input.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, dropout: float) -> None:
        super().__init__(linear)
        weight = beside(linear.weight)
        self.scale = alpha / (rank + 1e-5)  # the constant is the authors' code's
        self.dropout = dropout
        self.lora_A = nn.Parameter(weight.new_empty(rank, linear.in_features))
        self.lora_E = nn.Parameter(weight.new_zeros(rank))
        self.lora_B = nn.Parameter(weight.new_empty(linear.out_features, rank))
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)
        # Of training only, so not saved.
        for name in _FACTORS:
            like = self.get_parameter(name).detach()
            self.register_buffer(f"{name}_sensitivity", torch.zeros_like(like), persistent=False)
            self.register_buffer(f"{name}_uncertainty", torch.zeros_like(like), persistent=False)
        kept = torch.ones(rank, dtype=torch.bool, device=weight.device)
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) -> (..., out_features)."""
        result = low_rank_linear(
            input.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.lora_E[:, None] * self.lora_A,
            self.lora_B,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return result.view(*input.shape[:-1], self.out_features)

    def departure(self) -> Tensor:
        """How far P and Q are from orthogonal: ||Q Q^T - I|| + ||P^T P - I||, Frobenius norms."""
        one = torch.eye(self.lora_E.shape[0], dtype=self.lora_E.dtype, device=self.lora_E.device)
        q, p = self.lora_A @ self.lora_A.t() - one, self.lora_B.t() @ self.lora_B - one
        departure: Tensor = torch.linalg.matrix_norm(q) + torch.linalg.matrix_norm(p)
        return departure

    def learn_importance(self, beta1: float, beta2: float) -> None:
        """Takes the present gradients into the running averages of sensitivity |p g| and its uncertainty."""
        for name in _FACTORS:
            parameter = self.get_parameter(name)
            assert parameter.grad is not None, "importance is learned between backward and zero_grad"
            now = (parameter.detach() * parameter.grad).abs_()
            sensitivity = self.get_buffer(f"{name}_sensitivity")
            sensitivity.mul_(beta1).add_(now, alpha=1 - beta1)
            deviation = now.sub_(sensitivity).abs_()
            self.get_buffer(f"{name}_uncertainty").mul_(beta2).add_(deviation, alpha=1 - beta2)

    def importance(self) -> Tensor:
        """Of each rank: that of its value and the means of those of its two vectors. (rank,)"""
        a, e, b = (
            self.get_buffer(f"{name}_sensitivity") * self.get_buffer(f"{name}_uncertainty")
            for name in _FACTORS
        )
        return e + a.mean(1) + b.mean(0)

    def prune(self) -> None:
        """Sets the values of the ranks that aren't kept to zero."""
        with torch.no_grad():
            self.lora_E.masked_fill_(~self.get_buffer("kept"), 0.0)

    def merged(self) -> nn.Linear:
        """A plain layer with weight W + s P diag(E) Q, computed in float32 at least; it shares the bias."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        weight, a, e, b = (t.detach().to(wide) for t in (self.weight, self.lora_A, self.lora_E, self.lora_B))
        return self.plain_with(torch.addmm(weight, b * e, a, alpha=self.scale))


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(AdaptsTargets):
    """Adaptive budget (Zhang et al. 2023, arXiv:2303.10512): y = Wx + (alpha/initial_rank) P diag(E) Q x.

    All targets start with ``initial_rank``; while training goes on, the ranks that matter least over all
    targets lose their value E, until ``target_rank`` of them are left on average. How much a rank matters is
    the running sensitivity |parameter * gradient| of its entries, times how uncertain that is. The loss has a
    term that keeps P and Q orthogonal. Pruned ranks are zeros and still hold memory. The head is trained too.

    Args:
        initial_rank: of each target at first.
        target_rank: of the targets at last, on average.
        alpha: the update is scaled by alpha / initial_rank.
        initial_steps: steps before the first rank is pruned.
        final_steps: steps at the end in which the ranks stay as they are.
        interval_steps: steps between two allocations of the budget.
        beta1: decay of the running sensitivity.
        beta2: decay of the running uncertainty.
        orthogonality_weight: factor of the loss's term.
    """

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2303.10512"
    trains: ClassVar[str] = "P, E and Q of each target, and the head"

    initial_rank: int = 12
    target_rank: int = 8
    alpha: float = 16.0
    initial_steps: int = 0
    final_steps: int = 0
    interval_steps: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.initial_rank >= 1, "initial_rank", self.initial_rank, "at least 1")
        expected = f"at least 1 and at most initial_rank, {self.initial_rank}"
        require(1 <= self.target_rank <= self.initial_rank, "target_rank", self.target_rank, expected)
        check_alpha(self.alpha)
        require(self.initial_steps >= 0, "initial_steps", self.initial_steps, "at least 0")
        require(self.final_steps >= 0, "final_steps", self.final_steps, "at least 0")
        require(self.interval_steps >= 1, "interval_steps", self.interval_steps, "at least 1")
        require(0 < self.beta1 < 1, "beta1", self.beta1, "above 0 and below 1")
        require(0 < self.beta2 < 1, "beta2", self.beta2, "above 0 and below 1")
        known = 0 <= self.orthogonality_weight < math.inf
        require(known, "orthogonality_weight", self.orthogonality_weight, "at least 0")

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], AdaLoRALinear]:
        """See ``AdaptsTargets``."""
        return partial(AdaLoRALinear, rank=self.initial_rank, alpha=self.alpha, dropout=self.dropout)

    def loss_term(self, model: nn.Module) -> Tensor:
        """``orthogonality_weight`` times the mean departure from orthogonality of all P and Q."""
        found = [layer.departure() for layer in _layers(model)]
        return torch.stack(found).sum() * (self.orthogonality_weight / (2 * len(found)))

    def budget(self, step: int, total_steps: int, ranks: int) -> int:
        """How many ranks all targets together may have after a step; it falls with the cube of what is left.

        Args:
            step: steps done before it.
            total_steps: of the whole training.
            ranks: that all targets together had at first.

        Example:
            >>> method = AdaLoRA(initial_steps=10, final_steps=20)
            >>> [method.budget(step, 100, 48) for step in (10, 45, 80, 99)]
            [48, 34, 32, 32]
        """
        last = total_steps - self.final_steps
        target = ranks // self.initial_rank * self.target_rank
        if step >= min(last, total_steps - 1):
            return target
        if step <= self.initial_steps:
            return ranks
        left = 1 - (step - self.initial_steps) / (last - self.initial_steps)
        return int((ranks - target) * left**3 + target)

    def after_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Learns what matters from the gradients and prunes ranks down to the budget.

        Args:
            model: as returned by ``apply``, with the gradients of this step.
            step: steps done before this one, from 0.
            total_steps: that the training is planned to have.

        Raises:
            ValueError: the training is so short that no rank would ever be pruned.
        """
        expected = f"together less than the {total_steps} steps of the training"
        fits = self.initial_steps + self.final_steps < total_steps
        require(fits, "initial_steps + final_steps", self.initial_steps + self.final_steps, expected)
        layers = _layers(model)
        last = total_steps - self.final_steps
        if step < last:
            for layer in layers:
                layer.learn_importance(self.beta1, self.beta2)
        # With no final steps the last one allocates, whatever the interval: there is no other to end with.
        ends = step == min(last, total_steps - 1)
        if ends or (self.initial_steps < step < last and step % self.interval_steps == 0):
            self._allocate(layers, self.budget(step, total_steps, len(layers) * self.initial_rank))
        elif step > last:
            for layer in layers:
                layer.prune()

    def _allocate(self, layers: list[AdaLoRALinear], budget: int) -> None:
        scores = torch.cat([layer.importance() for layer in layers])
        surplus = scores.numel() - budget
        if surplus == 0:
            return
        # Compared on the device: nothing waits for it.
        kept = scores > torch.kthvalue(scores, surplus).values
        for layer, mask in zip(layers, kept.view(len(layers), -1), strict=True):
            layer.get_buffer("kept").copy_(mask)
            layer.prune()


def _layers(model: nn.Module) -> list[AdaLoRALinear]:
    return [module for module in model.modules() if isinstance(module, AdaLoRALinear)]
