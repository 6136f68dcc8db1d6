"""Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522) and its variants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from peprof_methods.architectures import Architecture, Stack, architecture_of, join
from peprof_methods.errors import require
from peprof_methods.fusions import AttentionFusion, DynamicFusion, Fusion, StaticFusion, WindowFusion
from peprof_methods.ladder import EncoderLadder, Ladder, Rungs
from peprof_methods.ladder_causal import CausalLadder
from peprof_methods.ladder_t5 import T5DecoderLadder, T5EncoderLadder
from peprof_methods.roles import freeze_backbone, stack_layers
from peprof_methods.side_layers import initialise, new_layer, shrunken_config


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
        backbone_layers: backbone layers, from 0, that have a side layer; the others' side layers are dropped.
            ``None`` for all. With T5 for encoder and decoder alike; the authors keep 1 2 3 5 6 7 9 10 11 of
            T5-base.
        downsample_rank: each down_i as a product of two matrices of this rank (as QST does, Zhang et al.
            2024, arXiv:2401.07004); ``None`` for one matrix.
    """

    family: ClassVar[str] = "side network"
    paper: ClassVar[str] = "Sung et al. 2022, arXiv:2206.06522"
    trains: ClassVar[str] = "a narrow network beside the backbone, and the head"
    unsupported: ClassVar[Mapping[str, str]] = {}

    reduction: int = 8
    side_heads: int | None = None
    temperature: float = 0.1
    dropout: float | None = None
    fusion: Literal["static", "dynamic", "attention", "window"] = "static"
    window: int = 9
    embeddings_to_every_layer: bool = False
    fused_last_layers: int = 1
    backbone_layers: tuple[int, ...] | None = None
    downsample_rank: int | None = None

    def __post_init__(self) -> None:
        require(self.reduction >= 1, "reduction", self.reduction, "at least 1")
        if self.side_heads is not None:
            require(self.side_heads >= 1, "side_heads", self.side_heads, "at least 1, or none")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "a positive number")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1, or none")
        fusions = ("static", "dynamic", "attention", "window")
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

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and put a ladder beside it.

        Args:
            model: changed in place: a ``Ladder`` holding a stack of layers replaces the stack.

        Returns:
            The same model, called as before.

        Raises:
            ValueError: if a width of the backbone isn't a multiple of ``reduction``, or the side width not of
                the number of heads, or there is no such backbone layer.
            UnsupportedModelError: for an unknown architecture.
        """
        architecture = architecture_of(model)
        plans = [_StackPlan.of(self, model, architecture, stack) for stack in architecture.stacks]
        freeze_backbone(model)
        for plan in plans:
            ladder = plan.ladder(self)
            model.set_submodule(plan.path, ladder)
            ladder.train(model.training)
        if architecture.family in ("t5", "llama"):
            model.config.use_cache = False
            if getattr(model, "generation_config", None) is not None:
                model.generation_config.use_cache = False
        return model


@dataclass(frozen=True, kw_only=True)
class _StackPlan:
    """What a ladder beside one stack will look like; nothing of the model is changed by making a plan.

    Args:
        architecture: of the model.
        name: ``encoder`` or ``decoder``.
        path: of the module that the ladder replaces.
        module: that it replaces.
        layers_path: of its layers.
        layers: of the backbone.
        feeds: which of them feed which side layer.
        config: of the side layers.
        full: the stack's own configuration.
    """

    architecture: Architecture
    name: str
    path: str
    module: nn.Module
    layers_path: str
    layers: nn.ModuleList
    feeds: tuple[tuple[int, ...], ...]
    config: Any
    full: Any

    @classmethod
    def of(
        cls, method: LadderSideTuning, model: PreTrainedModel, architecture: Architecture, stack: Stack
    ) -> _StackPlan:
        layers = stack_layers(model, stack)
        # An encoder's embeddings stand beside its stack, those of the others are part of it.
        whole = architecture.family in ("t5", "llama")
        path = join(architecture.backbone, stack.path) if whole else architecture.backbone
        module = model.get_submodule(path)
        full = module.config
        return cls(
            architecture=architecture,
            name=stack.name,
            path=path,
            module=module,
            layers_path=stack.layers if whole else join(stack.path, stack.layers),
            layers=layers,
            feeds=_feeds(method, len(layers), stack.name),
            config=shrunken_config(
                architecture,
                full,
                reduction=method.reduction,
                attention_heads=method.side_heads,
                dropout=method.dropout,
            ),
            full=full,
        )

    def ladder(self, method: LadderSideTuning) -> Ladder:
        """Make it, with random weights, of the backbone's dtype and on its device."""
        like = next(self.layers[0].parameters())
        with torch.device(like.device):
            ladder = self._ladder(self._rungs(method))
        for name, child in ladder.named_children():
            if name not in ("backbone", "rotary"):  # the first may have several dtypes, the other is exact
                child.to(like.dtype)
        return ladder

    def _rungs(self, method: LadderSideTuning) -> Rungs:
        side_layers = []
        for rung, fed_by in enumerate(self.feeds):
            layer = new_layer(type(self.layers[0]), self.config, index=fed_by[-1], first=rung == 0)
            initialise(self.architecture, layer, self.config, reduction=method.reduction)
            side_layers.append(layer)
        return Rungs(
            feeds=self.feeds,
            side_layers=side_layers,
            fusion=self._fusion(method),
            width=getattr(self.full, self.architecture.width),
            side_width=getattr(self.config, self.architecture.width),
            downsample_rank=method.downsample_rank,
            embeddings_to_every_layer=method.embeddings_to_every_layer,
        )

    def _fusion(self, method: LadderSideTuning) -> Fusion:
        count, width = len(self.feeds), getattr(self.config, self.architecture.width)
        causal = self.name == "decoder"
        heads = getattr(self.config, self.architecture.attention_heads)
        dropout = getattr(self.config, self.architecture.layer_dropouts[-1])
        if method.fusion == "static":
            return StaticFusion(len(self.layers), [fed_by[-1] for fed_by in self.feeds], method.temperature)
        if method.fusion == "dynamic":
            return DynamicFusion(count, width, causal=causal)
        if width % heads:
            raise ValueError(
                f"fusion={method.fusion!r}: expected a side width, {width}, of {heads} equal heads"
            )
        if method.fusion == "attention":
            return AttentionFusion(count, width, heads=heads, dropout=dropout, causal=causal)
        return WindowFusion(count, width, window=method.window, heads=heads, dropout=dropout)

    def _ladder(self, rungs: Rungs) -> Ladder:
        common: dict[str, Any] = {"layers_path": self.layers_path, "rungs": rungs}
        width = rungs.side_width
        kind_of_norm: Any
        if self.architecture.family == "t5":
            kind_of_norm = type(self.module.final_layer_norm)
            common["final_norm"] = kind_of_norm(width, eps=self.config.layer_norm_epsilon)
            kind = T5EncoderLadder if self.name == "encoder" else T5DecoderLadder
            return kind(self.module, dropout=self.config.dropout_rate, **common)
        if self.architecture.family == "llama":
            kind_of_norm = type(self.module.norm)
            kind_of_rotary: Any = type(self.module.rotary_emb)
            common["final_norm"] = kind_of_norm(width, eps=self.config.rms_norm_eps)
            return CausalLadder(self.module, rotary=kind_of_rotary(self.config), **common)
        return EncoderLadder(self.module, head_reads_first=self.architecture.head_reads == "first", **common)


def _feeds(method: LadderSideTuning, depth: int, name: str) -> tuple[tuple[int, ...], ...]:
    """For each side layer the backbone layers that feed it."""
    chosen = tuple(range(depth)) if method.backbone_layers is None else tuple(method.backbone_layers)
    if chosen[-1] >= depth:
        raise ValueError(
            f"backbone_layers={chosen}: expected layers from 0 to {depth - 1}, which the {name} has"
        )
    count = method.fused_last_layers
    if count > len(chosen):
        raise ValueError(
            f"fused_last_layers={count}: expected at most {len(chosen)}, the side layers of the {name}"
        )
    return (*((index,) for index in chosen[:-count]), chosen[-count:])
