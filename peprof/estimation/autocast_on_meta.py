"""Autocast on ``meta`` as a GPU would do it.

``torch.autocast`` can't be had there: it refuses ``meta``, casts no tensor of ``meta`` where it is on for
``cpu``, and switches itself off for ``cuda`` without a GPU. In this context the functions that autocast looks
at get their tensors in the type that autocast would give them, above autograd as it does, so that a ledger
sees copies of weights, activations in 16 bits and what is kept in 32 bits.

The lists are those of aten/src/ATen/autocast_mode.h of torch 2.11 to 2.13, for CUDA. Functions are looked at
where Python calls them: what a C++ operator calls inside of another isn't seen, which of all that is listed
concerns ``cross_entropy`` alone (it is treated as its parts are).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import linalg
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

_IN_SHORT = (
    "conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution prelu "
    "addmm addmv addr matmul __matmul__ __rmatmul__ einsum mm mv vecdot linear addbmm baddbmm bmm "
    "chain_matmul multi_dot scaled_dot_product_attention"
)
_IN_FLOAT = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ "
    "softplus layer_norm native_layer_norm rms_norm group_norm cosine_similarity poisson_nll_loss "
    "cosine_embedding_loss nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss "
    "margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss "
    "binary_cross_entropy_with_logits cross_entropy dist pdist cdist renorm logsumexp"
)
_WITH_DTYPE = "prod softmax log_softmax cumprod cumsum vector_norm matrix_norm norm sum"
_IN_WIDEST = "addcdiv addcmul atan2 bilinear cross dot vdot grid_sample index_put tensordot scatter_add"


def _functions(names: str) -> frozenset[Callable[..., Any]]:
    """All that Python calls by these names."""
    places: tuple[Any, ...] = (torch, functional, torch.Tensor, linalg, torch._C._nn)
    found = (getattr(place, name, None) for name in names.split() for place in places)
    return frozenset(function for function in found if callable(function))


_SHORT, _FLOAT, _DTYPE, _WIDEST = map(_functions, (_IN_SHORT, _IN_FLOAT, _WITH_DTYPE, _IN_WIDEST))


class AutocastAsOnGpu(TorchFunctionMode):
    """A context around the forward of a step on ``meta``, as ``torch.autocast("cuda", dtype)`` is on a GPU.

    Copies of weights that get a gradient are made once and kept until the context ends; those of others are
    made for each use.

    Args:
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Lets go of the copies."""
        self._kept.clear()
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function with tensors of the types that it is to have."""
        kwargs = kwargs or {}
        if func in _SHORT or func is functional.scaled_dot_product_attention:  # by a device's kernels
            args, kwargs = tree_map(self._short, (args, kwargs))
        elif func in _FLOAT:
            args, kwargs = tree_map(_float, (args, kwargs))
        elif func in _WIDEST:
            cast = self._short if all(t.dtype == self._dtype for t in _cast_ones((args, kwargs))) else _float
            args, kwargs = tree_map(cast, (args, kwargs))
        elif func in _DTYPE and kwargs.get("dtype") is None and any(_is_cast(given) for given in args[:1]):
            fused = _FROM_HALF.get(getattr(func, "__name__", ""))
            if fused is not None and args[0].dtype == torch.float16:
                return fused(args[0], _dim(*args[1:], **kwargs), True)
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)

    def _short(self, given: Any) -> Any:
        if not _is_cast(given) or given.dtype == self._dtype:
            return given
        keeps = (
            given.dtype == torch.float32 and given.requires_grad and given.is_leaf and not given._is_view()
        )
        if not keeps:
            return given.to(self._dtype)
        if id(given) not in self._kept:
            self._kept[id(given)] = (given, given.to(self._dtype))
        return self._kept[id(given)][1]


_FROM_HALF: dict[str, Callable[..., Any]] = {"softmax": torch._softmax, "log_softmax": torch._log_softmax}
"""What reads float16 and answers in float32 without a copy, which has no such form for bfloat16."""


def _dim(dim: int, *_: Any, **__: Any) -> int:
    return dim


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
