"""What each architecture calls its parts, so that a method is written once for all of them.

A new architecture is one more row in ``ARCHITECTURES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from peprof_methods.errors import UnsupportedModelError

Paths = tuple[str, ...]
HeadReads = Literal["first", "last", "every"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One pile of layers of one kind.

    Args:
        name: ``encoder`` or ``decoder``.
        path: of the module that runs the layers, below the backbone; empty for the backbone itself.
        layers: path of the list of layers, below ``path``.
        in_layer: role -> paths below one layer; one that a layer lacks is skipped.
    """

    name: Literal["encoder", "decoder"]
    path: str
    layers: str
    in_layer: Mapping[str, Paths]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The names of one architecture.

    Args:
        family: of architectures that differ in their head only: ``bert``, ``t5`` ...
        backbone: path of the backbone without the head; empty where the model is its own backbone.
        stacks: from input to output: one, or an encoder and a decoder.
        in_backbone: role -> paths below ``backbone``, outside the layers; one that a model lacks is skipped.
        head: paths, from the top, of what is new for the task; one that a model lacks is skipped. Empty where
            the output layer is as pre-trained as the rest, as in a language model.
        head_reads: the positions of the last layer's output that the head (or the loss) reads.
        width: the configuration's name for d_model.
        feedforward_width: its name for d_ff.
        attention_heads: its name for the number of attention heads.
        head_width: its name for the width of an attention head; ``None`` where that follows from the others.
        layer_dropouts: its names for the dropout rates used inside a layer.
    """

    family: str
    backbone: str
    stacks: tuple[Stack, ...]
    in_backbone: Mapping[str, Paths]
    head: Paths
    head_reads: HeadReads
    width: str
    feedforward_width: str
    attention_heads: str
    head_width: str | None = None
    layer_dropouts: Paths = ()


def join(*parts: str) -> str:
    """Parts of a qualified name, of which any may be empty.

    >>> join("", "encoder", "block")
    'encoder.block'
    """
    return ".".join(part for part in parts if part)


def has_module(model: nn.Module, name: str) -> bool:
    """Whether there is a module of that qualified name."""
    try:
        return isinstance(model.get_submodule(name), nn.Module)
    except AttributeError:  # no such name, or ``None`` under it
        return False


def _bert_like(family: str, head: Paths) -> Architecture:
    return Architecture(
        family=family,
        backbone=family,
        stacks=(
            Stack(
                name="encoder",
                path="encoder",
                layers="layer",
                in_layer={
                    "attention.query": ("attention.self.query",),
                    "attention.key": ("attention.self.key",),
                    "attention.value": ("attention.self.value",),
                    "attention.output": ("attention.output.dense",),
                    "feedforward.up": ("intermediate.dense",),
                    "feedforward.down": ("output.dense",),
                    "layernorm": ("attention.output.LayerNorm", "output.LayerNorm"),
                },
            ),
        ),
        in_backbone={
            "layernorm": ("embeddings.LayerNorm",),
            "embedding": (
                "embeddings.word_embeddings",
                "embeddings.position_embeddings",
                "embeddings.token_type_embeddings",
            ),
        },
        head=head,
        head_reads="first",
        width="hidden_size",
        feedforward_width="intermediate_size",
        attention_heads="num_attention_heads",
        layer_dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    )


def _t5_stack(name: Literal["encoder", "decoder"]) -> Stack:
    # The query, key ... of a decoder's attention to the encoder play the same roles as its own. In a gated
    # feed-forward (v1.1) wi_0 goes through the activation, wi_1 doesn't.
    attentions = ("layer.0.SelfAttention", *(("layer.1.EncDecAttention",) if name == "decoder" else ()))
    last = f"layer.{len(attentions)}"
    return Stack(
        name=name,
        path=name,
        layers="block",
        in_layer={
            **{
                f"attention.{role}": tuple(f"{attention}.{letter}" for attention in attentions)
                for role, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o"))
            },
            "feedforward.up": (f"{last}.DenseReluDense.wi", f"{last}.DenseReluDense.wi_1"),
            "feedforward.gate": (f"{last}.DenseReluDense.wi_0",),
            "feedforward.down": (f"{last}.DenseReluDense.wo",),
            "layernorm": tuple(f"layer.{index}.layer_norm" for index in range(len(attentions) + 1)),
            "embedding": ("layer.0.SelfAttention.relative_attention_bias",),
        },
    )


def _t5(*, backbone: str, head: Paths, head_reads: HeadReads) -> Architecture:
    return Architecture(
        family="t5",
        backbone=backbone,
        stacks=(_t5_stack("encoder"), _t5_stack("decoder")),
        in_backbone={
            "layernorm": ("encoder.final_layer_norm", "decoder.final_layer_norm"),
            "embedding": ("shared", "lm_head"),
        },
        head=head,
        head_reads=head_reads,
        width="d_model",
        feedforward_width="d_ff",
        attention_heads="num_heads",
        head_width="d_kv",
        layer_dropouts=("dropout_rate",),
    )


def _llama_like(*, language_model: bool) -> Architecture:
    # A language model is its own backbone: its output layer is no less pre-trained than the rest.
    below = "model" if language_model else ""
    return Architecture(
        family="llama",
        backbone="" if language_model else "model",
        stacks=(
            Stack(
                name="decoder",
                path=below,
                layers="layers",
                in_layer={
                    "attention.query": ("self_attn.q_proj",),
                    "attention.key": ("self_attn.k_proj",),
                    "attention.value": ("self_attn.v_proj",),
                    "attention.output": ("self_attn.o_proj",),
                    "feedforward.up": ("mlp.up_proj",),
                    "feedforward.gate": ("mlp.gate_proj",),
                    "feedforward.down": ("mlp.down_proj",),
                    "layernorm": ("input_layernorm", "post_attention_layernorm"),
                },
            ),
        ),
        in_backbone={
            "layernorm": (join(below, "norm"),),
            "embedding": (join(below, "embed_tokens"), *(("lm_head",) if language_model else ())),
        },
        head=() if language_model else ("score",),
        head_reads="every" if language_model else "last",
        width="hidden_size",
        feedforward_width="intermediate_size",
        attention_heads="num_attention_heads",
        head_width="head_dim",
        layer_dropouts=("attention_dropout",),
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "DistilBertForSequenceClassification": Architecture(
        family="distilbert",
        backbone="distilbert",
        stacks=(
            Stack(
                name="encoder",
                path="transformer",
                layers="layer",
                in_layer={
                    "attention.query": ("attention.q_lin",),
                    "attention.key": ("attention.k_lin",),
                    "attention.value": ("attention.v_lin",),
                    "attention.output": ("attention.out_lin",),
                    "feedforward.up": ("ffn.lin1",),
                    "feedforward.down": ("ffn.lin2",),
                    "layernorm": ("sa_layer_norm", "output_layer_norm"),
                },
            ),
        ),
        in_backbone={
            "layernorm": ("embeddings.LayerNorm",),
            "embedding": ("embeddings.word_embeddings", "embeddings.position_embeddings"),
        },
        head=("pre_classifier", "classifier"),
        head_reads="first",
        width="dim",
        feedforward_width="hidden_dim",
        attention_heads="n_heads",
        layer_dropouts=("dropout", "attention_dropout"),
    ),
    # The pooler is the analogue of the other two's dense layer, and random in a checkpoint of a masked
    # language model: it is head, not backbone.
    "BertForSequenceClassification": _bert_like("bert", ("bert.pooler", "classifier")),
    "RobertaForSequenceClassification": _bert_like("roberta", ("classifier",)),
    "T5ForSequenceClassification": _t5(
        backbone="transformer", head=("classification_head",), head_reads="last"
    ),
    "T5ForConditionalGeneration": _t5(backbone="", head=(), head_reads="every"),
    **{
        f"{name}ForSequenceClassification": _llama_like(language_model=False)
        for name in ("Llama", "Mistral", "Qwen2")
    },
    **{f"{name}ForCausalLM": _llama_like(language_model=True) for name in ("Llama", "Mistral", "Qwen2")},
}

FAMILIES = tuple(dict.fromkeys(row.family for row in ARCHITECTURES.values()))
"""Families of architectures, as methods name those that they don't work on."""


def architecture_of(model: nn.Module) -> Architecture:
    """The row of ``ARCHITECTURES`` for a model, found by its class or one that it is derived from.

    Raises:
        UnsupportedModelError: for any other architecture.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in ARCHITECTURES:
            return ARCHITECTURES[kind.__name__]
    raise UnsupportedModelError(f"{type(model).__name__} is not supported: expected {_known()}")


def _known() -> str:
    """The known classes, in words: ``T5 or Llama ForCausalLM, ...``."""
    by_task: dict[str, list[str]] = {}
    for name in ARCHITECTURES:
        family, _, task = name.partition("For")
        by_task.setdefault(task, []).append(family)
    return "; or ".join(f"{', '.join(families)} For{task}" for task, families in by_task.items())


def refuse_unsupported(model: nn.Module, unsupported: Mapping[str, str]) -> None:
    """Refuse a model that a method says it can't do.

    Args:
        model: of a known architecture.
        unsupported: family of architectures, or name of a class -> the reason.

    Raises:
        UnsupportedModelError: with that reason; or for an unknown architecture.
    """
    family = architecture_of(model).family
    for name in (*(kind.__name__ for kind in type(model).__mro__), family):
        if name in unsupported:
            raise UnsupportedModelError(f"{type(model).__name__}: {unsupported[name]}")
