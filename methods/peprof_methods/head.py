"""Head only, also called linear probing: what a frozen backbone already knows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from peprof_methods.errors import UnsupportedModelError
from peprof_methods.roles import freeze_backbone, head_parameters


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
            UnsupportedModelError: for an unknown architecture, or a language model: its output layer is as
                pre-trained as the rest.
        """
        if not head_parameters(model):
            raise UnsupportedModelError(f"{type(model).__name__} has no head that is new for the task")
        freeze_backbone(model)
        return model
