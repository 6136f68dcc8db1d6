"""Prefix tuning (Li & Liang 2021, arXiv:2101.00190) and P-tuning v2 (Liu et al. 2022, arXiv:2110.07602)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of
from peprof_methods.errors import require
from peprof_methods.prefix_attention import (
    Prefix,
    ProjectedPrefix,
    check_attention,
    shift_positions,
    use_prefix,
)
from peprof_methods.quantised import beside
from peprof_methods.roles import freeze_backbone, linears_by_role, stack_layers


def _attentions(model: nn.Module, *, encoder: bool) -> Iterator[tuple[str, nn.Module, int]]:
    """Each attention, with its kind (encoder, decoder, or a decoder's to the encoder) and its keys' width."""
    architecture = architecture_of(model)
    linears_by_role(model, ("attention.key", "attention.value"))  # refuses what isn't plain
    for stack in architecture.stacks:
        if stack.name == "encoder" and len(architecture.stacks) > 1 and not encoder:
            continue
        for layer in stack_layers(model, stack):
            for index, path in enumerate(stack.in_layer["attention.key"]):
                key = layer.get_submodule(path)
                assert isinstance(key, nn.Linear)
                kind = stack.name if index == 0 else "cross"
                attention = layer.get_submodule(path.rpartition(".")[0])
                check_attention(attention)
                yield kind, attention, key.out_features


@dataclass(frozen=True, kw_only=True)
class PrefixTuning:
    """Prefix tuning (Li & Liang 2021, arXiv:2101.00190): trained keys and values before each attention's own.

    While training they are made by a small network from a narrower table, which makes it stable:
    [K_l; V_l] = M_l tanh(H P + b) + c_l, with P: (tokens, d_model). Table and H are shared by all layers of a
    kind: encoder, decoder, and a decoder's attention to the encoder. Prefixes have no position in T5, whose
    biases are zero for them; in decoders with rotary positions they stand before the first token. The
    ``peft`` library gives T5's encoder none, and lets a decoder's attentions share them. The head is trained
    too.

    Args:
        tokens: length of each prefix.
        hidden: width of H's result; 512 or 800 in the paper.
        encoder: an encoder-decoder's encoder gets prefixes too, as in the paper.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "Li & Liang 2021, arXiv:2101.00190"
    trains: ClassVar[str] = "keys and values before each attention's, by an MLP"
    unsupported: ClassVar[Mapping[str, str]] = {}

    tokens: int = 20
    hidden: int = 512
    encoder: bool = True

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "tokens", self.tokens, "at least 1")
        require(self.hidden >= 1, "hidden", self.hidden, "at least 1")

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and give each attention a prefix.

        Args:
            model: changed in place.

        Returns:
            The same model, called as before.

        Raises:
            UnsupportedModelError: for an unknown architecture, or attention that is neither eager nor sdpa.
        """
        architecture = architecture_of(model)
        attentions = list(_attentions(model, encoder=self.encoder))
        width = getattr(model.config, architecture.width)
        freeze_backbone(model)
        shared = nn.ModuleDict()
        for kind, attention, keys in attentions:
            like = beside(next(attention.parameters()))
            with torch.device(like.device):
                if kind not in shared:
                    shared[kind] = nn.Sequential(
                        nn.Embedding(self.tokens, width), nn.Linear(width, self.hidden), nn.Tanh()
                    ).to(like.dtype)
                prefix = ProjectedPrefix(shared[kind], nn.Linear(self.hidden, 2 * keys).to(like.dtype))
            use_prefix(attention, prefix.train(model.training))
        model.get_submodule(architecture.backbone).add_module("prefix", shared.train(model.training))
        shift_positions(model, self.tokens)
        return model


@dataclass(frozen=True, kw_only=True)
class PTuningV2:
    """P-tuning v2 (Liu et al. 2022, arXiv:2110.07602): trained keys and values before each attention's own.

    Prefix tuning without the network that makes them: they are trained themselves, and start from normal
    numbers with deviation 0.02. See ``PrefixTuning`` for where they stand. The head is trained too.

    Args:
        tokens: length of each prefix; 20 to 100 in the paper.
        encoder: an encoder-decoder's encoder gets prefixes too.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2110.07602"
    trains: ClassVar[str] = "keys and values before each attention's"
    unsupported: ClassVar[Mapping[str, str]] = {}

    tokens: int = 20
    encoder: bool = True

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "tokens", self.tokens, "at least 1")

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and give each attention a prefix; see ``PrefixTuning.apply``."""
        attentions = list(_attentions(model, encoder=self.encoder))
        freeze_backbone(model)
        for _, attention, keys in attentions:
            prefix = Prefix(beside(next(attention.parameters())).new_empty(self.tokens, keys))
            use_prefix(attention, prefix.train(model.training))
        shift_positions(model, self.tokens)
        return model
