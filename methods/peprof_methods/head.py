"""Head only, also called linear probing: what a frozen backbone already knows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peprof_methods.roles import freeze_backbone


@dataclass(frozen=True, kw_only=True)
class Head:
    """Only the head is trained, on a frozen backbone. It has no options.

    The head is everything after the encoder: the classifier and the dense layer or pooler before it. Nothing
    of the backbone is saved for backward, since autograd finds no input there that requires a gradient.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone.

        Args:
            model: a sequence classifier; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture.
        """
        freeze_backbone(model)
        return model
