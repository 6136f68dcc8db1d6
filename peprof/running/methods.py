"""A method by its name, and what it trains of a model."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.quantised import elements
from peprof_methods.roles import head_parameters
from torch import nn
from transformers import PreTrainedModel

from peprof.results.record import ParameterCounts
from peprof.suite.catalogue import known_methods
from peprof.suite.schema import MethodConfig
from peprof.training.protocols import LearnsFromData


class Method(Protocol):
    """What every method has; see DESIGN for what it may have besides."""

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Turns a backbone into what is trained; says by ``requires_grad`` what that is."""


def make_method(config: MethodConfig) -> Method:
    """Makes a method with its options.

    Raises:
        UsageError: there is no such method, or it has no such option.
        ValueError: an option's value makes no sense.
    """
    method: Method = known_methods()[config.name].construct(config.options)
    return method


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a method made of a backbone.

    Args:
        model: to be trained.
        counts: numbers of parameters.
        owners: backbone, adapter or head, by qualified name of each module and parameter. A module that the
            method made is the adapter's, also where it holds a parameter of the backbone.
    """

    model: nn.Module
    counts: ParameterCounts
    owners: Mapping[str, str]


def apply_method(
    method: Method, model: PreTrainedModel, batches: Iterable[Mapping[str, torch.Tensor]] | None = ()
) -> Applied:
    """Applies a method and counts what is trained, backbone and head apart.

    Args:
        method: the method.
        model: changed in place.
        batches: for a method that learns from data with its present options; ``None`` leaves out what data
            would tell, where there are none.

    Raises:
        UnsupportedModelError: the method doesn't know the architecture.
    """
    head = {id(parameter): parameter for parameter in _head(model)}
    backbone = {id(p): p for p in model.parameters() if id(p) not in head}
    modules = dict(model.named_modules())  # kept, so that no id is given again
    size_of_backbone = sum(elements(p) for p in backbone.values())
    if batches is not None and isinstance(method, LearnsFromData) and method.examples_needed():
        applied = method.apply_with_data(model, batches)
    else:
        applied = method.apply(model)
    trained = {id(p): p for p in applied.parameters() if p.requires_grad}
    return Applied(
        model=applied,
        counts=ParameterCounts(
            backbone=size_of_backbone,
            head=sum(p.numel() for p in head.values()),
            trainable_backbone=sum(p.numel() for key, p in trained.items() if key not in head),
            trainable_head=sum(p.numel() for key, p in trained.items() if key in head),
        ),
        owners=_owners(applied, modules.values(), backbone, head),
    )


def enable_checkpointing(model: nn.Module) -> None:
    """Lets each layer run forward again in backward instead of keeping its activations.

    Works also where the inputs of the first layer need no gradient, as with a frozen backbone.

    Raises:
        UnsupportedModelError: the model has no layers that can.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
            enable: Any = getattr(
                module, "activation_checkpointing_enable", module.gradient_checkpointing_enable
            )  # renamed within transformers 5
            enable({"use_reentrant": False})
            return
    raise UnsupportedModelError(f"{type(model).__name__} has no layers that can be checkpointed")


def _owners(
    applied: nn.Module, before: Iterable[nn.Module], backbone: Container[int], head: Container[int]
) -> dict[str, str]:
    """Who owns each module and parameter, by its name.

    Args:
        applied: what the method made.
        before: the modules that were there before.
        backbone, head: ids of the parameters that were there before.
    """
    old = {id(module) for module in before}
    owners: dict[str, str] = {}
    for name, module in applied.named_modules():
        parameters = list(module.parameters())
        if id(module) not in old:
            owners[name] = "adapter"
        else:
            owners[name] = "head" if parameters and all(id(p) in head for p in parameters) else "backbone"
    for name, parameter in applied.named_parameters():
        known = "head" if id(parameter) in head else "backbone" if id(parameter) in backbone else "adapter"
        owners[name] = known
    return owners


def _head(model: PreTrainedModel) -> list[nn.Parameter]:
    try:
        return head_parameters(model)
    except UnsupportedModelError:
        # An architecture that the roles don't know: what transformers itself puts outside the base model.
        base = {id(parameter) for parameter in model.base_model.parameters()}
        return [parameter for parameter in model.parameters() if id(parameter) not in base]
