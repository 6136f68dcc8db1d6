"""Tensors -> the untyped storages that hold their bytes, for plain tensors and for those made of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from peprof.profiler.errors import ProfileError

_PARTS_BY_LAYOUT: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
"""Classes of tensors that have one storage, if they aren't sparse."""


def parts_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors with storages of their own that make up a tensor; mostly itself.

    Raises:
        ProfileError: it is of a subclass that has no storage and doesn't say what it is made of.
    """
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from parts_of(getattr(tensor, name))
    elif tensor.layout in _PARTS_BY_LAYOUT:
        for name in _PARTS_BY_LAYOUT[tensor.layout]:
            yield getattr(tensor, name)()
    elif _hides_its_storage(tensor):
        raise ProfileError(
            f"a tensor of class {type(tensor).__module__}.{type(tensor).__qualname__} has no storage of its "
            "own and doesn't say which tensors it wraps",
            hint="Give the class __tensor_flatten__ and __tensor_unflatten__, or profile without it.",
        )
    else:
        yield tensor


def _hides_its_storage(tensor: torch.Tensor) -> bool:
    """Whether the bytes lie elsewhere: a wrapper made by ``_make_wrapper_subclass``, or no storage at all."""
    kind = type(tensor)
    if kind in PLAIN:
        return tensor.layout is not torch.strided and not tensor.is_mkldnn
    if kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__:
        return False  # a subclass by name only, such as a buffer
    try:
        storage = tensor.untyped_storage()
        # A wrapper claims a size but owns nothing: it has no address, or a null pointer for one.
        return tensor.device.type != "meta" and storage.nbytes() > 0 and storage.data_ptr() == 0
    except (NotImplementedError, RuntimeError):
        return True


def storages_of(tensor: torch.Tensor) -> Iterable[torch.UntypedStorage]:
    """The storages of a tensor.

    Raises:
        ProfileError: see ``parts_of``.
    """
    if tensor.__class__ in PLAIN and tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    return [part.untyped_storage() for part in parts_of(tensor)]
