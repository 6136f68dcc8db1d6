"""Any set of the backbone's parameters: by role, or by a pattern of their names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, get_args

from torch import nn

from peprof_methods.errors import require
from peprof_methods.quantised import refuse_quantised
from peprof_methods.roles import checked_roles, freeze_backbone, lacks, modules_by_role

# A literal type, so that a misspelt role is seen while a suite is read, before torch is imported.
BackboneRole = Literal[
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.up",
    "feedforward.gate",
    "feedforward.down",
    "layernorm",
    "embedding",
]
ATTENTION: tuple[BackboneRole, ...] = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
)


@dataclass(frozen=True, kw_only=True)
class SomeParameters:
    """Any set of the backbone's parameters is trained, and the head; the others are frozen.

    A parameter is trained if a module of one of the roles holds it, or one of the patterns matches its name.
    If neither is given, it is the attention's linear layers, which are said to be enough for vision
    transformers (Touvron et al. 2022, arXiv:2203.09795).

    Args:
        roles: of modules all of whose parameters are trained; the head is trained anyway.
        patterns: of qualified names, as in a shell: ``*.layer.11.*`` or ``*.bias``; each must match one.
    """

    roles: tuple[BackboneRole, ...] = ()
    patterns: tuple[str, ...] = ()

    family: ClassVar[str] = "parts of the model"
    paper: ClassVar[str] = ""
    trains: ClassVar[str] = "what the roles or patterns name; attention by default"
    unsupported: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        if self.roles:
            roles = checked_roles(self.roles, known=get_args(BackboneRole))
            object.__setattr__(self, "roles", roles)
        named = not isinstance(self.patterns, str) and all(isinstance(p, str) and p for p in self.patterns)
        require(named, "patterns", self.patterns, "a list of patterns")
        object.__setattr__(self, "patterns", tuple(self.patterns))

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze all of the backbone but the chosen parameters.

        Args:
            model: of a known architecture; changed in place.

        Returns:
            The same model.

        Raises:
            ValueError: if a pattern matches no parameter.
            UnsupportedModelError: for an unknown architecture, one that has none of the roles, or if a chosen
                weight is held in 4 or 8 bits.
        """
        roles = self.roles or (() if self.patterns else ATTENTION)
        modules = modules_by_role(model, roles) if roles else {}
        if roles and not modules:
            raise lacks(model, roles, known=get_args(BackboneRole))
        # With their second names too: a tied output layer may be named as such.
        parameters = dict(model.named_parameters(remove_duplicate=False))
        chosen = [p for module in modules.values() for p in module.parameters()]
        for pattern in self.patterns:
            matching = [p for name, p in parameters.items() if fnmatchcase(name, pattern)]
            if not matching:
                raise ValueError(_no_match(pattern, list(parameters), type(model).__name__))
            chosen += matching
        ids = {id(parameter) for parameter in chosen}
        named = ((name, p) for name, p in parameters.items() if id(p) in ids)
        refuse_quantised(named, wanted="trained")
        freeze_backbone(model)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return model


def _no_match(pattern: str, names: list[str], model: str) -> str:
    message = f"patterns: {pattern!r} matches no parameter of {model}"
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
    return f"{message}; the nearest names are {', '.join(near)}" if near else message
