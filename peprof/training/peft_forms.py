"""What a method's trained values are called in the ``peft`` library's files, and what its configuration says.

The names are those of peft 0.17 to 0.21: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from peprof_methods.roles import LINEAR_ROLES, ROLES, modules_by_role
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A method's result, to be written.

    Args:
        model: as ``apply`` returned it, trained.
        method: the method.
        backbone: the model as it was before, for methods that change its weights; ``None`` if not at hand.
    """

    model: nn.Module
    method: Any
    backbone: PreTrainedModel | None = None

    def renamed(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """The parameters whose names end on a key, each with the value for an ending: they match whole parts.

        Args:
            names: ending here -> ending in the library's file: ``lora_A`` -> ``lora_A.weight``.
        """
        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            module, _, last = name.rpartition(".")
            if last in names:
                found[f"{module}.{names[last]}"] = parameter.detach()
        return found


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What the library has written, to be read.

    Args:
        origin: the directory, for messages.
        model: the plain backbone.
        config: ``adapter_config.json``.
        tensors: those of the file but for the head's, by their names below the model.
    """

    origin: str
    model: PreTrainedModel
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def option(self, name: str, default: Any) -> Any:
        """An option of the configuration; an absent or null one is the library's default."""
        value = self.config.get(name)
        return default if value is None else value

    def only(self, **allowed: Collection[Any]) -> None:
        """Refuses options that have no counterpart here.

        Args:
            allowed: option -> the values that it may have besides being absent, null or empty.

        Raises:
            UsageError: one has another value.
        """
        for name, values in allowed.items():
            value = self.config.get(name)
            if value in (None, {}, []) or any(value is known or value == known for known in values):
                continue
            expected = " or ".join(repr(known) for known in values) or "none"
            raise UsageError(
                f"{self.origin}: {name} = {value!r} has no counterpart here; expected {expected}",
                hint="Load it with the peft library, or train it anew as one of 'peprof methods'.",
            )

    def without(self, names: Collection[str]) -> Saved:
        """The same without some tensors."""
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        return replace(self, tensors=kept)

    def by_module(self, names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
        """The tensors by module, then by our name for them.

        Args:
            names: ending in the library's file -> ending here; each module must have all of them.

        Raises:
            UsageError: there is none, one is of another kind, or a module lacks some.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            for ending, ours in names.items():
                if name.endswith(f".{ending}"):
                    found.setdefault(name.removesuffix(f".{ending}"), {})[ours] = tensor
                    break
            else:
                raise UsageError(
                    f"{self.origin}: '{name}' has no counterpart here; expected names that end on "
                    f"{' or '.join(names)}, or a part of the head"
                )
        if not found:
            raise UsageError(f"{self.origin}: the file holds no {' or '.join(names)}")
        for module, tensors in found.items():
            for ending, ours in names.items():
                if ours not in tensors:
                    raise UsageError(f"{self.origin}: the file holds no '{module}.{ending}'")
        return found

    def roles(self, modules: Iterable[str]) -> tuple[str, ...]:
        """The roles that the named linear modules play, if they are all that play them.

        Raises:
            UsageError: they can't be named by role.
        """
        wanted = set(modules)
        roles, played = [], set()
        for role in LINEAR_ROLES:
            players = set(modules_by_role(self.model, [role]))
            if players & wanted:
                roles.append(role)
                played |= players
        if wanted != played:
            self.refuse_targets(wanted, played)
        return tuple(roles)

    def refuse_targets(self, found: set[str], expected: set[str]) -> None:
        """Says which modules are too many or missing.

        Raises:
            UsageError: always.
        """
        if found - expected:
            first = min(found - expected)
            roles = [role for role in ROLES if first in modules_by_role(self.model, [role])]
            problem = f"'{first}' is adapted, {_reason(roles)}"
        else:
            problem = f"'{min(expected - found)}' isn't adapted, others with its role are"
        raise UsageError(
            f"{self.origin}: what is adapted can't be named by role: {problem}",
            hint="Load it with the peft library, or train it with the same roles in every layer.",
        )


def _reason(roles: list[str]) -> str:
    return (
        f"which this method doesn't do for {roles[0]}" if roles else "which plays no role that is known here"
    )


class Writer(Protocol):
    """How one kind of method is written.

    Attributes:
        trains: parts of the names of what is written, besides the head; ``None`` where the library knows.
    """

    @property
    def trains(self) -> frozenset[str] | None:
        """See above."""

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The library's configuration (``peft_type`` and what isn't the same for all), and tensors.

        Raises:
            UsageError: the library has no counterpart for this method on this model.
        """


class Form(Writer, Protocol):
    """How one kind of method is written and read."""

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """Name and options of the method here.

        Raises:
            UsageError: there is no counterpart.
        """

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """Values for the parameters and buffers of the applied method, by name.

        Raises:
            UsageError: they don't fit.
        """


def targets_of(tensors: Iterable[str], endings: Iterable[str]) -> list[str]:
    """The modules that tensors of the library's names belong to, from input to output.

    >>> targets_of(["a.q.lora_A.weight", "a.q.lora_B.weight"], ["lora_A.weight", "lora_B.weight"])
    ['a.q']
    """
    found = {
        name.removesuffix(f".{ending}"): None
        for name in tensors
        for ending in endings
        if name.endswith(f".{ending}")
    }
    return list(found)


BELOW_MODEL, BELOW_TUNER = "base_model.model.", "base_model."
"""What the library puts before the names of what lies below the model, and beside it."""


def below_model(name: str) -> str:
    """A name in the library's file without what it puts before.

    >>> below_model("base_model.model.classifier.weight"), below_model("base_model.vera_A")
    ('classifier.weight', 'vera_A')
    """
    return name.removeprefix(BELOW_MODEL).removeprefix(BELOW_TUNER)
