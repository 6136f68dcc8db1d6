"""A method by its name, and what it trains of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from peprof_methods.errors import UnsupportedModelError
from peprof_methods.roles import head_parameters
from torch import nn
from transformers import PreTrainedModel

from peprof.results.record import ParameterCounts
from peprof.suite.catalogue import known_methods
from peprof.suite.schema import MethodConfig


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
    """What a method made of a backbone, and the numbers of parameters."""

    model: nn.Module
    counts: ParameterCounts


def apply_method(method: Method, model: PreTrainedModel) -> Applied:
    """Applies a method and counts what is trained, backbone and head apart.

    Raises:
        UnsupportedModelError: the method doesn't know the architecture.
    """
    head = {id(parameter): parameter for parameter in _head(model)}
    backbone = {id(p): p for p in model.parameters() if id(p) not in head}
    size_of_backbone = sum(p.numel() for p in backbone.values())
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
    )


def _head(model: PreTrainedModel) -> list[nn.Parameter]:
    try:
        return head_parameters(model)
    except UnsupportedModelError:
        # An architecture that the roles don't know: what transformers itself puts outside the base model.
        base = {id(parameter) for parameter in model.base_model.parameters()}
        return [parameter for parameter in model.parameters() if id(parameter) not in base]
