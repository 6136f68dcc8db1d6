"""What each architecture calls its parts, so that a method is written once for all of them.

A new architecture is one more row in ``ARCHITECTURES``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from peprof_methods.errors import UnknownRoleError, UnsupportedModelError

# A literal type, so that a misspelt target is seen while a suite is read, before torch is imported.
LinearRole = Literal[
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.up",
    "feedforward.gate",
    "feedforward.down",
]
LINEAR_ROLES: tuple[LinearRole, ...] = get_args(LinearRole)
ROLES = (*LINEAR_ROLES, "layernorm", "embedding", "head")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The names of one architecture.

    Args:
        backbone: path of the encoder without the head.
        layers: path of the list of layers, below ``backbone``.
        in_layer: role -> paths below one layer.
        in_backbone: role -> paths below ``backbone``, outside the layers.
        head: paths, from the top, of everything after the encoder; one that a model lacks is skipped.
        width: the configuration's name for d_model.
        feedforward_width: its name for d_ff.
        attention_heads: its name for the number of attention heads.
        layer_dropouts: its names for the dropout rates used inside a layer.
        head_reads_first: the head reads the first position of the sequence and no other.
    """

    backbone: str
    layers: str
    in_layer: Mapping[str, tuple[str, ...]]
    in_backbone: Mapping[str, tuple[str, ...]]
    head: tuple[str, ...]
    width: str
    feedforward_width: str
    attention_heads: str
    layer_dropouts: tuple[str, ...]
    head_reads_first: bool


def _bert_like(backbone: str, head: tuple[str, ...]) -> Architecture:
    return Architecture(
        backbone=backbone,
        layers="encoder.layer",
        in_layer={
            "attention.query": ("attention.self.query",),
            "attention.key": ("attention.self.key",),
            "attention.value": ("attention.self.value",),
            "attention.output": ("attention.output.dense",),
            "feedforward.up": ("intermediate.dense",),
            "feedforward.down": ("output.dense",),
            "layernorm": ("attention.output.LayerNorm", "output.LayerNorm"),
        },
        in_backbone={
            "layernorm": ("embeddings.LayerNorm",),
            "embedding": (
                "embeddings.word_embeddings",
                "embeddings.position_embeddings",
                "embeddings.token_type_embeddings",
            ),
        },
        head=head,
        width="hidden_size",
        feedforward_width="intermediate_size",
        attention_heads="num_attention_heads",
        layer_dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        head_reads_first=True,
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "DistilBertForSequenceClassification": Architecture(
        backbone="distilbert",
        layers="transformer.layer",
        in_layer={
            "attention.query": ("attention.q_lin",),
            "attention.key": ("attention.k_lin",),
            "attention.value": ("attention.v_lin",),
            "attention.output": ("attention.out_lin",),
            "feedforward.up": ("ffn.lin1",),
            "feedforward.down": ("ffn.lin2",),
            "layernorm": ("sa_layer_norm", "output_layer_norm"),
        },
        in_backbone={
            "layernorm": ("embeddings.LayerNorm",),
            "embedding": ("embeddings.word_embeddings", "embeddings.position_embeddings"),
        },
        head=("pre_classifier", "classifier"),
        width="dim",
        feedforward_width="hidden_dim",
        attention_heads="n_heads",
        layer_dropouts=("dropout", "attention_dropout"),
        head_reads_first=True,
    ),
    # The pooler is the analogue of the other two's dense layer, and random in a checkpoint of a masked
    # language model: it is head, not backbone.
    "BertForSequenceClassification": _bert_like("bert", ("bert.pooler", "classifier")),
    "RobertaForSequenceClassification": _bert_like("roberta", ("classifier",)),
}


def architecture_of(model: nn.Module) -> Architecture:
    """The row of ``ARCHITECTURES`` for a model, found by its class or one that it is derived from.

    Raises:
        UnsupportedModelError: for any other architecture.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in ARCHITECTURES:
            return ARCHITECTURES[kind.__name__]
    raise UnsupportedModelError(
        f"{type(model).__name__} is not supported; the methods know {', '.join(ARCHITECTURES)}"
    )


def backbone(model: nn.Module) -> nn.Module:
    """The encoder without the head."""
    return model.get_submodule(architecture_of(model).backbone)


def layers(model: nn.Module) -> nn.ModuleList:
    """The encoder's layers, first to last."""
    found = backbone(model).get_submodule(architecture_of(model).layers)
    assert isinstance(found, nn.ModuleList)
    return found


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of everything after the encoder: the classifier and what pools or projects before it."""
    return [p for module in modules_by_role(model, ["head"]).values() for p in module.parameters()]


def freeze_backbone(model: nn.Module) -> None:
    """Leave only the head trainable: it is new for the task, so every method trains it."""
    head = head_parameters(model)  # first: an unknown model is refused before anything is changed
    model.requires_grad_(False)
    for parameter in head:
        parameter.requires_grad_(True)


def checked_roles(
    roles: Iterable[str], *, known: Sequence[str] = ROLES, option: str = "roles"
) -> tuple[str, ...]:
    """The roles as a tuple, if each of them is known and there is at least one.

    Args:
        roles: names of roles.
        known: those allowed.
        option: name of the option that holds them, for the message.

    Raises:
        UnknownRoleError: for the first that isn't allowed; it suggests the nearest name.
        ValueError: if it isn't a list of names, is empty, or names one twice.
    """
    given = (roles,) if isinstance(roles, str) else tuple(roles)
    for role in given:
        if role not in known:
            raise UnknownRoleError(role, known, option=option)
    if isinstance(roles, str) or not given or len(set(given)) != len(given):
        raise ValueError(f"{option}={roles!r}: expected a list of one or more different roles")
    return given


def modules_by_role(model: nn.Module, roles: Iterable[str]) -> dict[str, nn.Module]:
    """The modules that play any of the roles, by qualified name, from input to output.

    A known role that an architecture lacks (``feedforward.gate`` where nothing is gated) adds nothing.

    Args:
        model: of a supported architecture.
        roles: names out of ``ROLES``.

    Raises:
        UnknownRoleError: for a name that isn't a role.
        UnsupportedModelError: for an unknown architecture.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> model = BertForSequenceClassification(BertConfig(num_hidden_layers=1))
        >>> list(modules_by_role(model, ["attention.query", "feedforward.down"]))
        ['bert.encoder.layer.0.attention.self.query', 'bert.encoder.layer.0.output.dense']
    """
    wanted = checked_roles(roles)
    architecture = architecture_of(model)
    return {name: model.get_submodule(name) for name in _names(model, architecture, wanted)}


def _names(model: nn.Module, architecture: Architecture, roles: Sequence[str]) -> Iterator[str]:
    for role in roles:
        for path in architecture.in_backbone.get(role, ()):
            yield f"{architecture.backbone}.{path}"
    if any(role in architecture.in_layer for role in roles):
        for index in range(len(layers(model))):
            for role in roles:
                for path in architecture.in_layer.get(role, ()):
                    yield f"{architecture.backbone}.{architecture.layers}.{index}.{path}"
    if "head" in roles:
        yield from architecture.head


def linears_by_role(model: nn.Module, roles: Iterable[str]) -> dict[str, nn.Linear]:
    """As ``modules_by_role``, but every module found must be a plain ``nn.Linear``.

    Raises:
        UnsupportedModelError: if one is something else (an adapter that was applied before, a quantised
            layer), or if the architecture has none of the roles.
    """
    wanted = tuple(roles)
    linears: dict[str, nn.Linear] = {}
    for name, module in modules_by_role(model, wanted).items():
        # Exactly nn.Linear: a subclass has a forward of its own, which a replacement would silently drop.
        if type(module) is not nn.Linear:
            raise UnsupportedModelError(f"{name} is a {type(module).__name__}; expected torch.nn.Linear")
        linears[name] = module
    if not linears:
        raise UnsupportedModelError(f"{type(model).__name__} has no module for {', '.join(wanted)}")
    return linears


def shrunken_config(
    model: PreTrainedModel, *, reduction: int, attention_heads: int | None, dropout: float | None
) -> Any:
    """The model's configuration with d_model and d_ff divided, for layers of a side network.

    Args:
        model: whose configuration is copied, attention implementation included.
        reduction: divides d_model and d_ff.
        attention_heads: of the shrunken layers; ``None`` keeps the backbone's number.
        dropout: rate inside the shrunken layers; ``None`` keeps the backbone's rates.

    Raises:
        ValueError: if a width isn't a multiple of ``reduction``, or the new one not of the heads.
    """
    architecture = architecture_of(model)
    config: Any = copy.deepcopy(model.config)
    for name in (architecture.width, architecture.feedforward_width):
        full = getattr(config, name)
        if full % reduction:
            raise ValueError(f"reduction={reduction}: expected a divisor of the backbone's {name}, {full}")
        setattr(config, name, full // reduction)
    if attention_heads is not None:
        setattr(config, architecture.attention_heads, attention_heads)
    width, heads = getattr(config, architecture.width), getattr(config, architecture.attention_heads)
    if width % heads:
        raise ValueError(
            f"side_heads={attention_heads}: expected a divisor of the side width {width}, "
            f"found {heads} heads; the backbone's width is divided by reduction={reduction}"
        )
    if dropout is not None:
        for name in architecture.layer_dropouts:
            setattr(config, name, dropout)
    return config


def new_layer(model: nn.Module, config: Any) -> nn.Module:
    """A new layer of the model's own class, built from another configuration."""
    layer: nn.Module = type(layers(model)[0])(config)
    return layer
