"""LoRA-FA (Zhang et al. 2023, arXiv:2308.03303)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peprof_methods.lora import LoRALinear
from peprof_methods.low_rank_method import ScalesUpdate


@dataclass(frozen=True, kw_only=True)
class LoRAFA(ScalesUpdate):
    """LoRA with A frozen (Zhang et al. 2023, arXiv:2308.03303): y = Wx + (alpha/rank) B A dropout(x).

    A stays what it was drawn as, so its input isn't needed in backward: of each target only A x is kept, of
    ``rank`` columns. B is zero at first, so training starts from the backbone's function. The head is trained
    too. A is saved with what is trained.
    """

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv:2308.03303"
    trains: ClassVar[str] = "B of each target, and the head"

    def maker(self, linears: Mapping[str, nn.Linear]) -> Callable[[nn.Linear], LoRALinear]:
        """See ``AdaptsTargets``."""

        def make(linear: nn.Linear) -> LoRALinear:
            adapted = LoRALinear(linear, rank=self.rank, scale=self.scale, dropout=self.dropout)
            adapted.lora_A.requires_grad_(False)
            return adapted

        return make

    def adapter_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What is trained and each A, which can't be drawn again."""
        return {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or name.endswith(".lora_A")
        }
