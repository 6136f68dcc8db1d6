"""Which functions autocast looks at on which device, by what it does to their tensors.

The lists are those of torch 2.11 to 2.13: of CUDA in aten/src/ATen/autocast_mode.h, of CPUs in
aten/src/ATen/autocast_mode.cpp. What was added between them is decided by the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fft, linalg
from torch.nn import functional

from peprof.estimation.torch_version import TorchVersion, installed_torch

Functions = frozenset[Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Functions as Python calls them.

    Args:
        short: get all in autocast's type, weights by copies that are kept.
        inner_short: call what gets all in autocast's type with views, of which no copy is kept.
        float: get all in float32.
        with_dtype: get what they are given, and are told to answer in float32.
        widest: get all in the widest type among them.
    """

    short: Functions
    inner_short: Functions
    float: Functions
    with_dtype: Functions
    widest: Functions


def _functions(names: str) -> Functions:
    """All that Python calls by these names."""
    places: tuple[Any, ...] = (torch, functional, torch.Tensor, linalg, fft, torch._C._nn)
    found = (getattr(place, name, None) for name in names.split() for place in places)
    return frozenset(function for function in found if callable(function))


_BOTH_SHORT = (
    "conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm "
    "matmul __matmul__ __rmatmul__ mm vecdot linear addbmm baddbmm bmm scaled_dot_product_attention"
)
_BOTH_FLOAT = (
    "poisson_nll_loss cosine_embedding_loss nll_loss hinge_embedding_loss kl_div l1_loss smooth_l1_loss "
    "huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss "
    "multi_margin_loss binary_cross_entropy_with_logits cross_entropy cdist"
)
_CUDA_FLOAT = (
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow __pow__ __rpow__ "
    "softplus layer_norm native_layer_norm group_norm cosine_similarity dist pdist renorm logsumexp"
)


def cuda_lists(version: TorchVersion) -> Lists:
    """CUDA's lists in a version of torch, which got ``rms_norm`` with 2.12 (pytorch#174824)."""
    return Lists(
        short=_functions(f"{_BOTH_SHORT} convolution addmv addr einsum mv chain_matmul multi_dot"),
        inner_short=frozenset(),
        float=_functions(f"{_BOTH_FLOAT} {_CUDA_FLOAT}{' rms_norm' if version >= (2, 12) else ''}"),
        with_dtype=_functions("prod softmax log_softmax cumprod cumsum vector_norm matrix_norm norm sum"),
        widest=_functions(
            "addcdiv addcmul atan2 bilinear cross dot vdot grid_sample index_put tensordot scatter_add"
        ),
    )


_CPU = Lists(
    short=_functions(_BOTH_SHORT),
    inner_short=_functions("einsum tensordot chain_matmul multi_dot"),
    float=_functions(
        f"{_BOTH_FLOAT} binary_cross_entropy ctc_loss prod trace quantile nanquantile polar "
        "view_as_complex stft avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d max_pool3d max_unpool2d "
        "max_unpool3d fractional_max_pool2d fractional_max_pool3d grid_sample cholesky cholesky_ex "
        "cholesky_inverse cholesky_solve cond eig eigh eigvals eigvalsh householder_product inv inv_ex "
        "inverse lstsq lu_solve matrix_rank ormqr orgqr geqrf pinverse qr solve svd svdvals tensorinv "
        "tensorsolve triangular_solve fft fft2 fftn hfft ifft ifft2 ifftn ihfft irfft irfft2 irfftn rfft "
        "rfft2 rfftn"
    ),
    with_dtype=frozenset(),
    widest=_functions("cat concat concatenate stack hstack vstack index_copy"),
)
LISTS: Mapping[Literal["cpu", "cuda"], Lists] = {
    "cuda": cuda_lists(installed_torch()),
    "cpu": _CPU,
}
