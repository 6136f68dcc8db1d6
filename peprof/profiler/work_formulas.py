"""What one operator has to do, by its arguments' shapes: floating-point operations, and bytes it touches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from peprof.profiler.operators import operator_name
from peprof.profiler.step import tensors_in

aten = torch.ops.aten


def flops_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Floating-point operations of one call; ``None`` where there is no formula.

    Args:
        func: the operator.
        args, kwargs: what it was called with.
        out: what it returned.
    """
    formula = _formula_of(func)
    return None if formula is None else int(formula(*args, **kwargs, out_val=out))


def has_formula(func: Any) -> bool:
    """Whether ``flops_of`` knows the operator."""
    return _formula_of(func) is not None


def name_of(func: Any) -> str:
    """``aten.mm``; higher-order operators have names of their own."""
    return operator_name(func) if isinstance(func, torch._ops.OpOverload) else str(func)


@cache
def _formula_of(func: Any) -> Callable[..., int] | None:
    found = _FORMULAS.get(_family(func))
    if found is None and isinstance(func, torch._ops.OpOverload):
        return _OF_LIBRARIES.get(func._schema.name)
    return found


def _family(func: Any) -> Any:
    """All overloads of an operator, which have one formula; a higher-order operator has no overloads."""
    return getattr(func, "_overloadpacket", func)


def _product(left: torch.Tensor, right: torch.Tensor, *_: Any, **__: Any) -> int:
    """(..., m, k) by (..., k, n), or by (k,): as many multiplications and additions as ``left`` times n."""
    return 2 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)


def _added_product(_added: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *_: Any, **__: Any) -> int:
    return _product(left, right)


def _products(lefts: Iterable[torch.Tensor], rights: Iterable[torch.Tensor], *_: Any, **__: Any) -> int:
    return sum(_product(left, right) for left, right in zip(lefts, rights, strict=True))


def _outer(_added: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *_: Any, **__: Any) -> int:
    return 2 * left.numel() * right.numel()


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)  # type: ignore[no-any-return, no-untyped-call]


def _attention_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(  # type: ignore[no-any-return, no-untyped-call]
        grad.shape, query.shape, key.shape, value.shape
    )


# torch's own formulas, and those that it lacks: in-place products, products with vectors, CPUs' attention.
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten.addbmm: _added_product,
    aten.addbmm_: _added_product,
    aten.addmv: _added_product,
    aten.addmv_: _added_product,
    aten.addr: _outer,
    aten.addr_: _outer,
    aten.mv: _product,
    aten.dot: _product,
    aten.vdot: _product,
    aten._int_mm: _product,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_fused_attention_overrideable_backward: _attention_backward,
}
# By name, as they exist once their library is imported. Weights are made dense, and states of 8 bits stepped,
# element by element.
_OF_LIBRARIES: dict[str, Callable[..., int]] = {
    "bitsandbytes::gemm_4bit": lambda rows, _packed, shape, *_, **__: 2 * rows.numel() * shape[0],
    "bitsandbytes::int8_scaled_mm": lambda rows, weight, *_, **__: 2 * rows.numel() * weight.shape[0],
    "bitsandbytes::int8_mixed_scaled_mm": lambda rows, _, weight, *__, **___: (
        2 * rows.numel() * weight.shape[0]
    ),
    "bitsandbytes::dequantize_4bit": lambda *_, **__: 0,
    "bitsandbytes::optimizer_update_8bit_blockwise": lambda *_, **__: 0,
}
if hasattr(aten, "_foreach_mm"):  # of later versions of torch
    _FORMULAS[aten._foreach_mm] = _products

_WORKS = re.compile(
    r"attention|attn|gemm|gemv|matmul|conv(?!ert)|(?<!_thnn_fused_)(rnn|lstm|gru)|cdist|4bit|8bit"
    r"|(mm|mv|dot|linear)_?(_v\d+)?(_backward\w*)?$"
    r"|^_?linalg_(?!vector_norm|check_errors|cross|diagonal)|^(geqrf|ormqr|orgqr|cholesky\w*)$"
)


@cache
def may_be_work(func: Any) -> bool:
    """Whether an operator without a formula looks, by its name, as if it had floating-point work to count.

    Products in other number formats, recurrent layers, decompositions of matrices, other libraries' kernels.
    """
    name = func._schema.name.rpartition("::")[2] if isinstance(func, torch._ops.OpOverload) else str(func)
    return _WORKS.search(name) is not None


_GATHERS = frozenset(
    {aten.embedding.default, aten.index_select.default, aten.gather.default, aten.index.Tensor}
)
"""Read of their first input no more than what they return."""

_PLACES = frozenset(
    {
        aten.index_put_.default,
        aten._index_put_impl_.default,
        aten.index_copy_.default,
        aten.index_add_.default,
        aten.scatter_.src,
        aten.scatter_add_.default,
    }
)
"""Read and write of their first input no more than what they are given to put there."""

_MAKES_NOTHING = frozenset(
    {
        aten.empty.memory_format,
        aten.empty_like.default,
        aten.empty_strided.default,
        aten.new_empty.default,
        aten.new_empty_strided.default,
        aten.resize_.default,
    }
)
"""Neither read nor write what they return."""

_ONLY_WRITES = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_", "set_"})
"""Their first input is what they write, and its old values don't matter."""


def bytes_accessed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Bytes that one call reads and writes, if each input is read once and each output written once."""
    if not isinstance(func, torch._ops.OpOverload):
        return _touched(args) + _touched(kwargs) + _touched(out)
    if func in _MAKES_NOTHING or _only_views(func):
        return 0
    if func in _GATHERS:
        return 2 * _touched(out) + _touched(args[1:])
    if func in _PLACES:
        # Values and indices are read; places are read and written, which is as much as the values twice.
        return _touched(args[1:]) + 2 * _touched(args[-1])
    read = written = 0
    for argument, value in _bound(func, args, kwargs):
        size = _touched(value)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        written += size if writes else 0
        read += 0 if writes and (argument.is_out or _overwrites(func)) else size
    # What is written in place is often also what is returned: once is enough.
    aliased = all(item.alias_info is not None for item in func._schema.returns)
    return read + written + (0 if aliased else _touched(out))


@cache
def _only_views(func: Any) -> bool:
    """Whether an operator returns what it was given, or a view of it, and writes nothing."""
    returns, arguments = func._schema.returns, func._schema.arguments
    written = any(item.alias_info is not None and item.alias_info.is_write for item in arguments)
    return not written and all(item.alias_info is not None for item in returns)


@cache
def _overwrites(func: Any) -> bool:
    return func._schema.name.rpartition("::")[2].removeprefix("_foreach_") in _ONLY_WRITES


def _bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        yield argument, value
    named = {argument.name: argument for argument in func._schema.arguments}
    for name, value in kwargs.items():
        yield named[name], value


def _touched(value: Any) -> int:
    """Bytes of the elements of all tensors in a value; what is repeated by a stride of 0 counts once."""
    total = 0
    for tensor in tensors_in(value):
        if tensor.layout is not torch.strided:
            total += tensor._nnz() * tensor.element_size() if tensor.layout is torch.sparse_coo else 0
            continue
        elements = 1 if tensor.numel() else 0
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            elements *= size if stride else 1
        total += elements * tensor.element_size()
    return total
