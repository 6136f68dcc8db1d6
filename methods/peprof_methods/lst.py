"""Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of, join
from peprof_methods.errors import UnsupportedModelError, require
from peprof_methods.ladder import Ladder, StaticFusion
from peprof_methods.roles import freeze_backbone, layers
from peprof_methods.side_layers import new_layer, shrunken_config


@dataclass(frozen=True, kw_only=True)
class LadderSideTuning:
    """Ladder Side-Tuning (Sung et al. 2022, arXiv:2206.06522): a narrow network beside a frozen backbone.

    The backbone runs without gradient, so backward touches only the side network, which takes the
    downsampled hidden states: s_0 = down_0(embeddings), x_i = mu_i s_(i-1) + (1 - mu_i) down_i(h_i) with
    mu_i = sigmoid(alpha_i / temperature), s_i = side_layer_i(x_i); the last one is upsampled and goes through
    the model's own pooling and head, which is trained too. Side layers are the architecture's own, with
    d_model and d_ff divided by ``reduction``, and start from random weights. The authors train with ten times
    the learning rate of other methods (3e-3).

    Args:
        reduction: divides d_model and d_ff of the backbone; both must be multiples of it.
        side_heads: attention heads of a side layer; ``None`` for as many as the backbone has. Where attention
            isn't fused, fewer heads make smaller attention maps.
        temperature: of the gates.
        dropout: rate inside the side layers; ``None`` for the backbone's own rates.
    """

    reduction: int = 8
    side_heads: int | None = None
    temperature: float = 0.1
    dropout: float | None = None

    def __post_init__(self) -> None:
        require(self.reduction >= 1, "reduction", self.reduction, "at least 1")
        if self.side_heads is not None:
            require(self.side_heads >= 1, "side_heads", self.side_heads, "at least 1, or none")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "a positive number")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1, or none")

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and put a ladder beside it.

        Args:
            model: a sequence classifier; changed in place: a ``Ladder`` holding the backbone replaces it.

        Returns:
            The same model, called as before.

        Raises:
            ValueError: if a width of the backbone isn't a multiple of ``reduction``, or the side width not of
                the number of heads.
            UnsupportedModelError: for an unknown architecture.
        """
        architecture = architecture_of(model)
        if architecture.head_reads != "first":
            raise UnsupportedModelError(f"the ladder doesn't know {type(model).__name__} yet")
        (stack,) = architecture.stacks
        config = shrunken_config(
            model, reduction=self.reduction, attention_heads=self.side_heads, dropout=self.dropout
        )
        freeze_backbone(model)
        backbone = model.get_submodule(architecture.backbone)
        backbone_layers = layers(model)
        like = next(backbone_layers[0].parameters())
        with torch.device(like.device):
            ladder = Ladder(
                backbone,
                layers_path=join(stack.path, stack.layers),
                side_layers=[self._side_layer(model, config) for _ in backbone_layers],
                fusion=StaticFusion(len(backbone_layers), self.temperature),
                width=getattr(model.config, architecture.width),
                side_width=getattr(config, architecture.width),
                head_reads_first=True,
            )
        for child in ladder.children():
            if child is not backbone:  # whose parameters may well have several dtypes
                child.to(like.dtype)
        model.set_submodule(architecture.backbone, ladder)
        ladder.train(model.training)
        return model

    def _side_layer(self, model: nn.Module, config: Any) -> nn.Module:
        """A side layer with random weights.

        Their deviation is the architecture's own times sqrt(reduction): with 1/reduction of the inputs, a
        projection's output then varies as much as the backbone's does at its initialisation.
        """
        layer = new_layer(model, config)
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range * math.sqrt(self.reduction))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return layer
