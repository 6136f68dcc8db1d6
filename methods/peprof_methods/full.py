"""Full fine-tuning: the yardstick that every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Full:
    """Full fine-tuning: every parameter of backbone and head is trained. It has no options."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Make every parameter trainable.

        Args:
            model: a sequence classifier; changed in place.

        Returns:
            The same model.
        """
        return model.requires_grad_(True)
