"""The last layers only: backward stops where the frozen part begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peprof_methods.errors import require
from peprof_methods.quantised import refuse_quantised
from peprof_methods.roles import freeze_backbone, layers


@dataclass(frozen=True, kw_only=True)
class LastLayers:
    """The last ``count`` layers and the head are trained; embeddings and earlier layers are frozen.

    Layers are counted from the model's output: of an encoder and a decoder, the decoder's come first. A
    normalisation after the last layer, as T5 and Llama have it, stays frozen, as does a language model's
    output layer.

    Args:
        count: how many layers, counted from the end.
    """

    family: ClassVar[str] = "parts of the model"
    paper: ClassVar[str] = ""
    trains: ClassVar[str] = "the last layers and the head"
    unsupported: ClassVar[Mapping[str, str]] = {}

    count: int = 1

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "at least 1")

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all but the last layers and the head.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            ValueError: if the model has fewer layers than ``count``.
            UnsupportedModelError: for an unknown architecture, or if the layers' weights are held in 4 or 8
                bits.
        """
        found = layers(model)
        require(self.count <= len(found), "count", self.count, f"at most the model's {len(found)} layers")
        last = found[len(found) - self.count :]
        refuse_quantised(model.named_parameters(), of=last, wanted="trained")
        freeze_backbone(model)
        for layer in last:
            layer.requires_grad_(True)
        return model
