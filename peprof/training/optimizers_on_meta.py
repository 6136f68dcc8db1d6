"""bitsandbytes' optimizers where tensors have no data: their states; their kernels need nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from typing_extensions import override

LEAST_ELEMENTS, STATE_BLOCK, VALUES = 4096, 256, 256


class _In8bit(Optimizer):
    """States of one byte each with a maximum in float32 a block; of small parameters, states in float32."""

    states: ClassVar[int]

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        min_8bit_size: int,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"invalid value among lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._least = min_8bit_size
        self._tables: list[Tensor] = []

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes the states that aren't there yet."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._new_state(parameter)

    def _new_state(self, parameter: Tensor) -> dict[str, Any]:
        numbers = range(1, self.states + 1)
        if parameter.numel() < self._least:
            return {f"state{n}": torch.zeros_like(parameter, dtype=torch.float32) for n in numbers}
        if not self._tables:
            self._tables = [torch.zeros(VALUES, device=parameter.device) for _ in numbers]
        state: dict[str, Any] = {}
        for number in numbers:
            state[f"state{number}"] = torch.zeros_like(parameter, dtype=torch.uint8)
            blocks = -(-parameter.numel() // STATE_BLOCK)
            state[f"absmax{number}"] = torch.zeros(blocks, device=parameter.device)
            state[f"qmap{number}"] = self._tables[number - 1]
        return state


class AdamW8bitOnMeta(_In8bit):
    """Stands for ``bitsandbytes.optim.AdamW8bit``."""

    states = 2

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        min_8bit_size: int = LEAST_ELEMENTS,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, min_8bit_size=min_8bit_size
        )


class Lion8bitOnMeta(_In8bit):
    """Stands for ``bitsandbytes.optim.Lion8bit``."""

    states = 1

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        min_8bit_size: int = LEAST_ELEMENTS,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=0.0, weight_decay=weight_decay, min_8bit_size=min_8bit_size
        )
