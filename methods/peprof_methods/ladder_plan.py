"""What a ladder beside one stack of a model will look like, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof_methods.architectures import Architecture, Stack, join
from peprof_methods.ladder import EncoderLadder, Ladder, Rungs
from peprof_methods.ladder_causal import CausalLadder
from peprof_methods.ladder_fusions import AttentionFusion, DynamicFusion, Fusion, StaticFusion, WindowFusion
from peprof_methods.ladder_pruning import Pruning, fill, fill_position_bias
from peprof_methods.ladder_side_layers import heads_of, initialise, new_layer, shrunken_config
from peprof_methods.ladder_t5 import T5DecoderLadder, T5EncoderLadder
from peprof_methods.quantised import is_quantised
from peprof_methods.roles import stack_layers

if TYPE_CHECKING:
    from peprof_methods.lst import LadderSideTuning


@dataclass(frozen=True, kw_only=True)
class StackPlan:
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
        pruning: how side layers descend from backbone layers; ``None`` where their weights are random.
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
    pruning: Pruning | None

    @classmethod
    def of(
        cls, method: LadderSideTuning, model: PreTrainedModel, architecture: Architecture, stack: Stack
    ) -> StackPlan:
        """The plan for one of the model's stacks.

        Raises:
            ValueError: if a width or the number of layers doesn't fit the method's options.
        """
        layers = stack_layers(model, stack)
        # An encoder's embeddings stand beside its stack, those of the others are part of it.
        whole = architecture.family in ("t5", "llama")
        path = join(architecture.backbone, stack.path) if whole else architecture.backbone
        module = model.get_submodule(path)
        full = module.config
        config = shrunken_config(
            architecture,
            full,
            reduction=method.reduction,
            attention_heads=method.side_heads,
            dropout=method.dropout,
        )
        pruning = (
            Pruning(
                stack=stack,
                norm_first=whole,
                rotary=architecture.family == "llama",
                full=heads_of(architecture, full),
                small=heads_of(architecture, config),
            )
            if method.init == "pruned"
            else None
        )
        return cls(
            architecture=architecture,
            name=stack.name,
            path=path,
            module=module,
            layers_path=stack.layers if whole else join(stack.path, stack.layers),
            layers=layers,
            feeds=_feeds(method, len(layers), stack.name),
            config=config,
            full=full,
            pruning=pruning,
        )

    def ladder(self, method: LadderSideTuning) -> Ladder:
        """Make it, with random weights, of the backbone's dtype and on its device."""
        like = next(p for p in self.layers[0].parameters() if not is_quantised(p))
        with torch.device(like.device):
            ladder = self._ladder(self._rungs(method))
        for name, child in ladder.named_children():
            if name not in ("backbone", "rotary"):  # the first may have several dtypes, the other is exact
                child.to(like.dtype)
        return ladder

    def weights(self) -> dict[str, Tensor]:
        """The backbone's matrices whose importance ``prune`` needs, by name."""
        if self.pruning is None:
            return {}
        return {
            f"{self.name}.{name}": weight
            for index in self._ancestors
            for name, weight in self.pruning.weights(index, self.layers[index]).items()
        }

    def prune(
        self,
        ladder: Ladder,
        importance: Mapping[str, Tensor],
        *,
        columns: Tensor,
        encoder_columns: Tensor | None,
    ) -> Tensor:
        """Fill the side layers, and the norm that follows them, from the backbone.

        Args:
            ladder: that this plan made.
            importance: of what ``weights`` names.
            columns: kept dimensions of the embeddings.
            encoder_columns: kept dimensions of the encoder's output; ``None`` where nothing attends to it.

        Returns:
            Kept dimensions of the last side layer's output.
        """
        assert self.pruning is not None
        mine = f"{self.name}."
        columns = self.pruning.into(
            list(ladder.side_layers),
            {index: self.layers[index] for index in self._ancestors},
            {name.removeprefix(mine): found for name, found in importance.items() if name.startswith(mine)},
            columns=columns,
            encoder_columns=encoder_columns,
        )
        with torch.no_grad():
            if self.architecture.family == "t5":
                fill(
                    ladder.get_submodule("final_norm"), self.module.get_submodule("final_layer_norm"), columns
                )
                table = "layer.0.SelfAttention.relative_attention_bias"
                sides, full = ladder.side_layers[0].get_submodule(table), self.layers[0].get_submodule(table)
                assert isinstance(sides, nn.Embedding) and isinstance(full, nn.Embedding)
                fill_position_bias(sides, full)
            elif self.architecture.family == "llama":
                fill(ladder.get_submodule("final_norm"), self.module.get_submodule("norm"), columns)
        return columns

    @property
    def _ancestors(self) -> list[int]:
        """The backbone layer from which each side layer descends: the last that feeds it."""
        return [fed_by[-1] for fed_by in self.feeds]

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
                f"fusion={method.fusion!r} with {heads} side heads: expected side_heads that divide the side "
                f"width, {width}"
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
