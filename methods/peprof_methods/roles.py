"""Parts of a model by their role, whatever its architecture calls them; see ``architectures.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from torch import nn

from peprof_methods.architectures import Architecture, Stack, architecture_of, has_module, join
from peprof_methods.errors import UnknownRoleError, UnsupportedModelError
from peprof_methods.linears import SharingLinear
from peprof_methods.quantised import holds_quantised

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

_UNCHANGED = "a model to which no other method has been applied"


def backbone(model: nn.Module) -> nn.Module:
    """The model without its head; the model itself where that is no part of its own."""
    return model.get_submodule(architecture_of(model).backbone)


def stack_layers(model: nn.Module, stack: Stack) -> nn.ModuleList:
    """The layers of one of the architecture's stacks, first to last.

    Raises:
        UnsupportedModelError: if they aren't there (a ladder has taken their place), or if one layer is used
            in several places: what is done to each layer would be done to it several times.
    """
    whole, path = backbone(model), join(stack.path, stack.layers)
    name = type(model).__name__
    if not has_module(whole, path):
        raise UnsupportedModelError(f"{name} has no layers under {path}: expected {_UNCHANGED}")
    found = whole.get_submodule(path)
    assert isinstance(found, nn.ModuleList)
    if len({id(layer) for layer in found}) < len(found):
        raise UnsupportedModelError(f"{name} uses one layer in several places: expected layers of their own")
    return found


def layers(model: nn.Module) -> list[nn.Module]:
    """All layers, from input to output: an encoder's before a decoder's."""
    return [layer for stack in architecture_of(model).stacks for layer in stack_layers(model, stack)]


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of what is new for the task: the classifier and what pools or projects before it.

    Empty for a language model, whose output layer is as pre-trained as the rest.
    """
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
    every = _all_names(model, architecture, roles)
    return (name for name in dict.fromkeys(every) if has_module(model, name))


def _all_names(model: nn.Module, architecture: Architecture, roles: Sequence[str]) -> Iterator[str]:
    for role in roles:
        for path in architecture.in_backbone.get(role, ()):
            yield join(architecture.backbone, path)
    for stack in architecture.stacks:
        if not any(role in stack.in_layer for role in roles):
            continue
        for index in range(len(stack_layers(model, stack))):
            for role in roles:
                for path in stack.in_layer.get(role, ()):
                    yield join(architecture.backbone, stack.path, stack.layers, str(index), path)
    if "head" in roles:
        yield from architecture.head


def linears_by_role(model: nn.Module, roles: Iterable[str]) -> dict[str, nn.Linear]:
    """As ``modules_by_role``, but every module found must be a plain ``nn.Linear``, or one whose weight is
    held in 4 or 8 bits.

    Raises:
        UnsupportedModelError: if one is something else (an adapter that was applied before), if two of them
            share a weight, or if the architecture has none of the roles.
    """
    wanted = tuple(roles)
    linears: dict[str, nn.Linear] = {}
    for name, module in modules_by_role(model, wanted).items():
        # Exactly nn.Linear: a subclass has a forward of its own, which a replacement would silently drop.
        # Those of quantised weights make them dense, and so does what replaces them.
        plain = type(module) is nn.Linear or (
            holds_quantised(module) and not isinstance(module, SharingLinear)
        )
        if not plain:
            kind = type(module).__name__
            raise UnsupportedModelError(
                f"{name} is of type {kind}: expected torch.nn.Linear, in {_UNCHANGED}"
            )
        assert isinstance(module, nn.Linear)
        linears[name] = module
    if not linears:
        raise lacks(model, wanted, known=LINEAR_ROLES)
    first_with: dict[int, str] = {}
    for name, linear in linears.items():
        # What changes the one's weight for itself, as PiSSA does, would change the other's as well.
        other = first_with.setdefault(id(linear.weight), name)
        if other != name:
            raise UnsupportedModelError(f"{other} and {name} share a weight: expected one for each")
    return linears


def lacks(model: nn.Module, roles: Sequence[str], *, known: Sequence[str]) -> UnsupportedModelError:
    """What to raise for a model that has none of the roles.

    Args:
        model: of a supported architecture.
        roles: that were asked for.
        known: those that might have been asked for.
    """
    has = ", ".join(role for role in known if modules_by_role(model, [role]))
    return UnsupportedModelError(f"{type(model).__name__} has no {' or '.join(roles)}: expected one of {has}")
