"""Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522) and its variants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of
from peprof_methods.errors import require
from peprof_methods.fisher import empirical_fisher
from peprof_methods.ladder import Ladder
from peprof_methods.ladder_fusions import FusionName
from peprof_methods.ladder_plan import StackPlan
from peprof_methods.ladder_pruning import embedding_columns
from peprof_methods.quantised import refuse_quantised
from peprof_methods.roles import freeze_backbone


@dataclass(frozen=True, kw_only=True)
class LadderSideTuning:
    """Ladder Side-Tuning (Sung et al. 2022, arXiv:2206.06522): a narrow network beside a frozen backbone.

    The backbone runs without gradient, so backward touches only the side network, which takes the
    downsampled hidden states: s_0 = down_0(embeddings), x_i = mu_i s_(i-1) + (1 - mu_i) down_i(h_i) with
    mu_i = sigmoid(alpha_i / temperature), s_i = side_layer_i(x_i); the last one is upsampled and goes through
    the model's own pooling and head, which is trained too. Side layers are the architecture's own, with
    d_model and d_ff divided by ``reduction``. The authors train with ten times the learning rate of other
    methods (3e-3).

    T5 has two ladders, of which the decoder's attends to the encoder's output. Where the backbone ends with a
    norm (T5, Llama), so does the side network, before it is upsampled. A language model's output layer stays
    frozen. It generates without a cache of keys and values, which ``apply`` switches off in the model's
    configuration.

    Args:
        reduction: divides d_model and d_ff of the backbone; both must be multiples of it.
        side_heads: attention heads of a side layer; ``None`` for as many as the backbone has. Where attention
            isn't fused, fewer heads make smaller attention maps.
        temperature: of the gates of the static fusion.
        dropout: rate inside the side layers; ``None`` for the backbone's own rates.
        fusion: how a side layer's input x_i is made: "static", as above; "dynamic", where mu_i is the sigmoid
            of a linear of the mean of down_i(h_i) over the real positions (where positions may not see later
            ones, over those up to each); "attention", x_i = s_(i-1) + a multi-head attention of s_(i-1) to
            down_i(h_i); "window", as "attention", but at each position to its states of the ``window``
            nearest backbone layers (k-LST, with dropout 0.2 and learning rate 2e-4).
        window: how many backbone layers the fusion "window" sees, an odd number.
        embeddings_to_every_layer: adds s_0 to the input of every later side layer, too.
        fused_last_layers: so many of the last backbone layers feed one side layer together, with the mean of
            their outputs, so that one hidden state is kept instead of several.
        backbone_layers: backbone layers, from 0, that have a side layer, ``None`` for all; the others' side
            layers are dropped. With T5 for encoder and decoder alike; the authors keep 1 2 3 5 6 7 9 10 11 of
            T5-base.
        downsample_rank: each down_i as a product of two matrices of this rank (as QST does, Zhang et al.
            2024, arXiv:2401.07004); ``None`` for one matrix.
        init: where side layers' weights come from: "random", or "pruned": from the backbone layer beside
            each, of whose matrices the rows that matter most are kept, by squared gradients of the loss.
        importance_examples: how many training examples "pruned" looks at.
    """

    family: ClassVar[str] = "side network"
    paper: ClassVar[str] = "Sung et al. 2022, arXiv:2206.06522"
    trains: ClassVar[str] = "a narrow network beside the backbone, and the head"
    unsupported: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[Mapping[str, tuple[str, str]]] = {
        "k-LST": ('fusion = "window", dropout = 0.2', "Say, Coşlu, Gudelj 2023, TUM student project"),
    }

    reduction: int = 8
    side_heads: int | None = None
    temperature: float = 0.1
    dropout: float | None = None
    fusion: FusionName = "static"
    window: int = 9
    embeddings_to_every_layer: bool = False
    fused_last_layers: int = 1
    backbone_layers: tuple[int, ...] | None = None
    downsample_rank: int | None = None
    init: Literal["random", "pruned"] = "random"
    importance_examples: int = 1024

    def __post_init__(self) -> None:
        require(self.reduction >= 1, "reduction", self.reduction, "at least 1")
        if self.side_heads is not None:
            require(self.side_heads >= 1, "side_heads", self.side_heads, "at least 1, or none")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "a positive number")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1, or none")
        fusions = get_args(FusionName)
        require(self.fusion in fusions, "fusion", self.fusion, f"one of {', '.join(fusions)}")
        require(
            self.window >= 1 and self.window % 2 == 1, "window", self.window, "an odd number of at least 1"
        )
        require(self.fused_last_layers >= 1, "fused_last_layers", self.fused_last_layers, "at least 1")
        if self.backbone_layers is not None:
            chosen = tuple(self.backbone_layers)
            rising = chosen == tuple(sorted(set(chosen))) and chosen != () and chosen[0] >= 0
            require(rising, "backbone_layers", chosen, "different layers in rising order, from 0, or none")
        if self.downsample_rank is not None:
            require(self.downsample_rank >= 1, "downsample_rank", self.downsample_rank, "at least 1, or none")
        require(self.init in ("random", "pruned"), "init", self.init, "random or pruned")
        require(self.importance_examples >= 1, "importance_examples", self.importance_examples, "at least 1")

    def examples_needed(self) -> int:
        """How many training examples ``apply_with_data`` looks at."""
        return self.importance_examples if self.init == "pruned" else 0

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and put a ladder beside it, whose weights are random.

        Args:
            model: changed in place: a ``Ladder`` holding a stack of layers replaces the stack.

        Returns:
            The same model, called as before.

        Raises:
            ValueError: if a width of the backbone isn't a multiple of ``reduction``, or the side width not of
                the number of heads, or there is no such backbone layer.
            UnsupportedModelError: for an unknown architecture.
        """
        self._build(model, self._plans(model))
        return model

    def apply_with_data(self, model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> nn.Module:
        """As ``apply``, with side layers that descend from the backbone's where ``init`` says so.

        Args:
            model: changed in place, as ``apply`` does.
            batches: the model's keyword arguments, labels included, on the model's device.

        Returns:
            The same model, called as before.

        Raises:
            ValueError: as ``apply``, or if there is no example.
            UnsupportedModelError: for an unknown architecture.
        """
        if self.init == "random":
            return self.apply(model)
        plans = self._plans(model)
        embedding = model.get_input_embeddings().weight
        assert isinstance(embedding, Tensor)
        weights = {"embedding": embedding}
        for plan in plans:
            weights |= plan.weights()
        importance = empirical_fisher(model, weights, batches, examples=self.importance_examples)
        first = embedding_columns(importance["embedding"].sum(0), embedding.shape[1] // self.reduction)
        last: Tensor | None = None
        for plan, ladder in zip(plans, self._build(model, plans), strict=True):
            last = plan.prune(ladder, importance, columns=first, encoder_columns=last)
        return model

    def _plans(self, model: PreTrainedModel) -> list[StackPlan]:
        architecture = architecture_of(model)
        if self.init == "pruned":
            refuse_quantised(model.named_parameters(), wanted="pruned")
        return [StackPlan.of(self, model, architecture, stack) for stack in architecture.stacks]

    def _build(self, model: PreTrainedModel, plans: list[StackPlan]) -> list[Ladder]:
        freeze_backbone(model)
        ladders = [plan.ladder(self) for plan in plans]
        for plan, ladder in zip(plans, ladders, strict=True):
            model.set_submodule(plan.path, ladder)
            ladder.train(model.training)
        if plans[0].architecture.family in ("t5", "llama"):
            model.config.use_cache = False
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.use_cache = False
        return ladders
