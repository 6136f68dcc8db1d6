"""Full fine-tuning: the yardstick that every other method is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peprof_methods.quantised import refuse_quantised


@dataclass(frozen=True, kw_only=True)
class Full:
    """Full fine-tuning: every parameter of backbone and head is trained. It has no options."""

    family: ClassVar[str] = "whole model"
    paper: ClassVar[str] = ""
    trains: ClassVar[str] = "every parameter"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        """Make every parameter trainable.

        Args:
            model: of any architecture; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: if weights are held in 4 or 8 bits.
        """
        refuse_quantised(model.named_parameters(), wanted="trained")
        return model.requires_grad_(True)
