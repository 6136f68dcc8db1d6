"""Autocast on ``meta`` as a device would do it.

``torch.autocast`` can't be had there: it refuses ``meta``, casts no tensor of ``meta`` where it is on for
``cpu``, and switches itself off for ``cuda`` without a GPU. While ``autocast_on_meta`` lasts, ``meta`` is a
device that autocast knows: ``torch.autocast("meta", dtype)`` gives the functions that autocast looks at their
tensors in the type that it would give them, above autograd as it does, so that a ledger sees copies of
weights, activations in 16 bits and what is kept in 32 bits. As torch itself answers for ``meta`` then,
checkpoints save what autocast is and enter it anew where backward runs them forward again, and methods that
ask whether it is on are told so.

Functions are looked at where Python calls them: what is called inside of another isn't seen, which of all
that is listed concerns ``cross_entropy`` (treated as its parts are) and a CPU's ``einsum`` (as its product).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch.amp import autocast_mode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.checkpoint import DefaultDeviceType
from transformers.utils import generic

from peprof.estimation.autocast_lists import LISTS, Lists

_is_available, _is_enabled, _dtype_of = (
    torch.amp.is_autocast_available, torch.is_autocast_enabled, torch.get_autocast_dtype,
)  # fmt: skip
_autocast, _maybe_autocast = torch.autocast, generic.maybe_autocast


@contextmanager
def autocast_on_meta(kind: Literal["cpu", "cuda"]) -> Iterator[None]:
    """Within it, autocast for ``meta`` is what it is on a device.

    Args:
        kind: of the device.
    """
    state = _State(LISTS[kind])
    with ExitStack() as stack:
        stack.callback(_give_back, state)

        def put(place: Any, **replaced: Any) -> None:
            for name, value in replaced.items():
                stack.enter_context(patch.object(place, name, value))

        put(torch, is_autocast_enabled=state.is_enabled, get_autocast_dtype=state.dtype_of)
        put(torch, autocast=state.autocast)
        put(torch.amp, autocast=state.autocast, is_autocast_available=_is_available_or_meta)
        put(autocast_mode, autocast=state.autocast, is_autocast_available=_is_available_or_meta)
        put(DefaultDeviceType, _default_device_type="meta")  # of checkpoints that get tensors by name alone
        for module in _users_of_maybe_autocast():
            put(module, maybe_autocast=state.maybe_autocast)
        yield


def _is_available_or_meta(device_type: str) -> bool:
    return device_type == "meta" or _is_available(device_type)


def _users_of_maybe_autocast() -> list[Any]:
    """Modules that took transformers' function, which never asks autocast about ``meta``, by its name."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("transformers.") and vars(module).get("maybe_autocast") is _maybe_autocast
    ]


def _give_back(state: _State) -> None:
    """To modules that were imported meanwhile, and took the function from one that had it replaced."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get("maybe_autocast") == state.maybe_autocast:
            module.maybe_autocast = _maybe_autocast  # type: ignore[attr-defined]


class _State:
    """What torch keeps of autocast for a device, kept for ``meta``.

    Args:
        lists: which functions it looks at.
    """

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.enabled, self.dtype = False, torch.bfloat16
        self.nesting = 0
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def is_enabled(self, device_type: str | None = None) -> bool:
        """As ``torch.is_autocast_enabled``."""
        if device_type == "meta":
            return self.enabled
        return _is_enabled() if device_type is None else _is_enabled(device_type)

    def dtype_of(self, device_type: str) -> torch.dtype:
        """As ``torch.get_autocast_dtype``."""
        return self.dtype if device_type == "meta" else _dtype_of(device_type)

    def autocast(
        self,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> Any:
        """As ``torch.autocast``."""
        if device_type != "meta":
            return _autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)
        return _AutocastOnMeta(self, dtype, enabled, cache_enabled)

    def maybe_autocast(self, device_type: str, *arguments: Any, **options: Any) -> Any:
        """As transformers' function of this name is on a device."""
        if device_type != "meta":
            return _maybe_autocast(device_type, *arguments, **options)
        return self.autocast(device_type, *arguments, **options)


class _AutocastOnMeta(ContextDecorator):
    """One context, as of ``torch.autocast``: copies of weights live until the outermost one ends."""

    def __init__(
        self, state: _State, dtype: torch.dtype | None, enabled: bool, cache_enabled: bool | None
    ) -> None:
        self._state = state
        self._set = (enabled, state.dtype if dtype is None else dtype)
        caches = torch.is_autocast_cache_enabled()
        self._caches = caches if cache_enabled is None else cache_enabled
        self._casts = _Casts(state)

    def __enter__(self) -> None:
        state = self._state
        self._before = (state.enabled, state.dtype, torch.is_autocast_cache_enabled())
        state.enabled, state.dtype = self._set
        torch.set_autocast_cache_enabled(self._caches)
        state.nesting += 1
        self._casts.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._casts.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        state = self._state
        state.nesting -= 1
        if state.nesting == 0:
            state.kept.clear()
        state.enabled, state.dtype, caches = self._before
        torch.set_autocast_cache_enabled(caches)


class _Casts(TorchFunctionMode):
    """Gives functions their tensors in the types that they are to have; twice does no more than once.

    Copies of weights that get a gradient are made once and kept until the outermost context ends; those of
    others are made for each use.
    """

    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function with tensors of the types that it is to have."""
        kwargs = kwargs or {}
        if not self._state.enabled:
            return func(*args, **kwargs)
        lists, short = self._state.lists, self._state.dtype
        if func in lists.short or func is functional.scaled_dot_product_attention:  # by a device's kernels
            args, kwargs = _cast_all(self._short, args, kwargs)
        elif func in lists.inner_short:
            if func is not torch.einsum or _contracts(args[0]):
                args, kwargs = _cast_all(self._short_unkept, args, kwargs)
        elif func in lists.float:
            args, kwargs = _cast_all(_float, args, kwargs)
        elif func in lists.widest:
            if any(tensor.dtype != short for tensor in _cast_ones((args, kwargs))):
                args, kwargs = _cast_all(_float, args, kwargs)
        elif func in lists.with_dtype and kwargs.get("dtype") is None and any(map(_is_cast, args[:1])):
            fused = _FROM_HALF.get(getattr(func, "__name__", ""))
            if fused is not None and args[0].dtype == torch.float16:
                return fused(args[0], _dim(*args[1:], **kwargs), True)
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)

    def _short(self, given: Any) -> Any:
        dtype, kept = self._state.dtype, self._state.kept
        if not _is_cast(given) or given.dtype == dtype:
            return given
        keeps = given.dtype == torch.float32 and given.requires_grad and given.is_leaf
        if not keeps or given._is_view() or not torch.is_autocast_cache_enabled():
            return given.to(dtype)
        if id(given) not in kept:
            with torch.enable_grad():  # who comes next may need the gradient
                kept[id(given)] = (given, given.to(dtype))
        return kept[id(given)][1]

    def _short_unkept(self, given: Any) -> Any:
        return given.to(self._state.dtype) if _is_cast(given) else given


def _cast_all(cast: Callable[[Any], Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Casts arguments from the last to the first, as compiled by GCC: backward casts gradients in turn."""
    named = {name: tree_map(cast, kwargs[name]) for name in reversed(kwargs)}
    placed = [tree_map(cast, given) for given in reversed(args)]
    return placed[::-1], {name: named[name] for name in kwargs}


_FROM_HALF: dict[str, Callable[..., Any]] = {"softmax": torch._softmax, "log_softmax": torch._log_softmax}
"""What on a GPU reads float16 and answers in float32 without a copy; bfloat16 has no such form."""


def _dim(dim: int, *_: Any, **__: Any) -> int:
    return dim


def _contracts(equation: Any) -> bool:
    """Whether ``einsum`` sums over products: otherwise it multiplies entries, which autocast leaves alone.

    Args:
        equation: as it is given first.
    """
    if not isinstance(equation, str):
        return True
    given, _, kept = equation.replace(" ", "").partition("->")
    factors = [set(labels) for labels in given.split(",")]
    shared = {label for label in given if label.isalpha() and sum(label in one for one in factors) > 1}
    return bool(shared - set(kept))


def _is_cast(given: Any) -> bool:
    """Whether autocast looks at it at all."""
    return (
        isinstance(given, torch.Tensor)
        and given.is_meta
        and given.is_floating_point()
        and given.dtype != torch.float64
    )


def _cast_ones(given: Any) -> Iterable[torch.Tensor]:
    return (item for item in tree_iter(given) if _is_cast(item))


def _float(given: Any) -> Any:
    return given.to(torch.float32) if _is_cast(given) else given
