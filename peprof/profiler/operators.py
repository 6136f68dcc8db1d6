"""What an operator can do to memory, told once from its schema and then looked up."""

from __future__ import annotations

from enum import IntEnum

import torch

aten = torch.ops.aten


class Effect(IntEnum):
    """What the ledger has to do for an operator."""

    NOTHING = 0
    """Returns no tensor."""
    ALIAS = 1
    """Returns what it was given or a view of it: memory that isn't known yet was there before."""
    FRESH = 2
    """Returns new memory."""
    CAST = 3
    """As ``FRESH``, a copy of its first argument in another dtype or on another device."""
    NORM = 4
    """As ``FRESH``; of gradients, it is how clipping begins."""
    RESIZE = 5
    """As ``ALIAS``, but a storage's size may have changed."""
    SCALAR = 6
    """Asks for a value, which a tensor without data can't answer."""


_SPECIAL: dict[object, Effect] = {
    aten._to_copy.default: Effect.CAST,
    aten.linalg_vector_norm.default: Effect.NORM,
    aten._foreach_norm.Scalar: Effect.NORM,
    aten._local_scalar_dense.default: Effect.SCALAR,
    aten.resize_.default: Effect.RESIZE,
    aten.resize_as_.default: Effect.RESIZE,
    aten.lift_fresh.default: Effect.FRESH,  # torch.tensor(...): an alias by its schema, and yet new
}


def effect_of(operator: torch._ops.OpOverload) -> Effect:
    """What an operator can do to memory."""
    if operator in _SPECIAL:
        return _SPECIAL[operator]
    schema = operator._schema
    if any(argument.is_out for argument in schema.arguments):
        return Effect.RESIZE
    tensors = [item for item in schema.returns if "Tensor" in str(item.type)]
    if not tensors:
        return Effect.NOTHING
    return Effect.ALIAS if all(item.alias_info is not None for item in tensors) else Effect.FRESH


def operator_name(operator: torch._ops.OpOverload | None) -> str:
    """``aten.mm``, ``aten.add.Tensor``: the default overload isn't said."""
    return "(before the step)" if operator is None else str(operator).removesuffix(".default")
