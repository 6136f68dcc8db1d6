"""Head only, also called linear probing: what a frozen backbone already knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peprof_methods.architectures import refuse_unsupported
from peprof_methods.roles import freeze_backbone


@dataclass(frozen=True, kw_only=True)
class Head:
    """Only the head is trained, on a frozen backbone. It has no options.

    The head is everything after the encoder: the classifier and the dense layer or pooler before it. Nothing
    of the backbone is saved for backward, since autograd finds no input there that requires a gradient. A
    model that generates has none: its output layer is as pre-trained as the rest.
    """

    family: ClassVar[str] = "parts of the model"
    paper: ClassVar[str] = ""
    trains: ClassVar[str] = "the head only"
    unsupported: ClassVar[Mapping[str, str]] = {
        "T5ForConditionalGeneration": "it has no head that is new for the task",
        "LlamaForCausalLM": "it has no head that is new for the task",
        "MistralForCausalLM": "it has no head that is new for the task",
        "Qwen2ForCausalLM": "it has no head that is new for the task",
    }

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone.

        Args:
            model: a sequence classifier; changed in place.

        Returns:
            The same model.

        Raises:
            UnsupportedModelError: for an unknown architecture, or a model that generates.
        """
        refuse_unsupported(model, self.unsupported)
        freeze_backbone(model)
        return model
