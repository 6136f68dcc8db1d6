"""What a device's operators allocate, on tensors without data.

Most operators allocate the same on every device. Where a device has kernels of its own, steps on ``meta``
would take the general ones: a softmax of whole attention maps, masks of dropout as large as its input, loops
over parameters. Here they call what the device would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import optimizer
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from typing_extensions import override

from peprof.estimation.attention_kernels import AMPERES, AttentionCall, GpuKernels, Kernel
from peprof.estimation.attention_operators import DONE_BY, call_of
from peprof.estimation.autocast_on_meta import autocast_on_meta

Kind = Literal["cpu", "cuda"]
aten = torch.ops.aten

_HALF = (torch.float16, torch.bfloat16)
_MATH = 0  # torch.nn.attention.SDPBackend


_ATTENTION, _DROPOUT = F.scaled_dot_product_attention, F.dropout
AttentionCalls = list[tuple[AttentionCall, Kernel]]


@contextmanager
def kernels_of(kind: Kind, kernels: GpuKernels = AMPERES) -> Iterator[AttentionCalls]:
    """Within it, steps on ``meta`` call the operators that they would call on a device.

    The functions themselves are replaced, as modes for functions are off while autograd runs, where
    checkpoints call them again. Tensors elsewhere are left to torch.

    Args:
        kind: of the device.
        kernels: what decides on a GPU's for attention.

    Yields:
        What attention is asked for while it lasts, and a GPU's kernel for it, in order.
    """
    with ExitStack() as stack:
        stack.enter_context(autocast_on_meta(kind))
        attention = _Attention(kind, kernels)
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        if kind == "cuda":
            stack.enter_context(patch.object(F, "dropout", _cuda_dropout))
            stack.enter_context(patch.object(torch, "dropout", _cuda_torch_dropout))
        stack.enter_context(_Operators(kind))
        fused = [*_foreach_utils._get_fused_kernels_supported_devices(), "meta"]
        stack.enter_context(patch.object(optimizer, "_get_fused_kernels_supported_devices", fused.copy))
        # Clipping asks whether the device has operators over lists; both kinds have them.
        for name in ("_has_foreach_support", "_device_has_foreach_support"):
            stack.enter_context(patch.object(clip_grad, name, _has_lists))
        yield attention.calls


def _has_lists(*_: object) -> bool:
    return True


class _Attention:
    """``scaled_dot_product_attention`` with a device's choice of a kernel.

    Attributes:
        calls: what was asked for, and a GPU's kernel for it.
    """

    def __init__(self, kind: Kind, kernels: GpuKernels) -> None:
        self.calls: AttentionCalls = []
        self._kind, self._kernels = kind, kernels
        self._choices: dict[Any, int] = {}

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """query: (batch, heads, length, width); key and value may have another length, and fewer heads."""
        options: dict[str, Any] = {
            "dropout_p": dropout_p,
            "is_causal": is_causal,
            "scale": scale,
            "enable_gqa": enable_gqa,
        }
        if has_torch_function((query, key, value)):  # autocast, whose type decides on the kernel
            done: Tensor = handle_torch_function(
                self, (query, key, value), query, key, value, attn_mask=attn_mask, **options
            )
            return done
        if not query.is_meta:
            return _ATTENTION(query, key, value, attn_mask, **options)
        if self._kind == "cpu":
            if self._cpu_choice(query, key, value, attn_mask, options) != _MATH:
                mask = _as_numbers(attn_mask, query.dtype)
                return _cpu_flash(query, key, value, mask, dropout_p, is_causal, scale)
        elif query.dim() == 4:
            call = call_of(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa=enable_gqa)
            kernel = self._kernels.chosen(call)
            self.calls.append((call, kernel))
            if kernel != "math":
                return DONE_BY[kernel](query, key, value, attn_mask, dropout_p, is_causal, scale)
        return _ATTENTION(query, key, value, attn_mask, **options)

    def _cpu_choice(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
    ) -> int:
        """What torch itself says, asked on the CPU with tensors that nobody fills."""
        given = (query, key, value, mask)
        case = (
            torch.is_grad_enabled(),
            *options.items(),
            *((t.shape, t.stride(), t.dtype, t.requires_grad) for t in given if t is not None),
        )
        if case not in self._choices:
            with _disable_current_modes():
                stand_ins = [None if t is None else _stand_in(t) for t in given]
                self._choices[case] = torch._fused_sdp_choice(*stand_ins, **options)  # type: ignore[arg-type]
        return self._choices[case]


def _stand_in(tensor: Tensor) -> Tensor:
    """On the CPU, with the shape and the strides of one on ``meta``; its pages are never touched."""
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return made.requires_grad_(tensor.requires_grad)


def _as_numbers(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of truths as one that is added, which is what the fused kernels take."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=dtype, device=mask.device))


def _cpu_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    output: Tensor = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale
    )[0]
    return output


def _cuda_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Its mask is of one byte an element."""
    if not input.is_meta or not training or inplace or not 0 < p < 1 or not input.numel():
        return _DROPOUT(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]


def _cuda_torch_dropout(input: Tensor, p: float, train: bool) -> Tensor:
    """As ``torch.dropout`` names its arguments."""
    return _cuda_dropout(input, p, train)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operators whose results differ by device, and those that torch has for real devices alone.

    Layer norms in half precision keep their statistics so on a CPU; a GPU keeps them in float32. Fused
    optimizers change what they are given and return nothing. A mean squared error is written where each
    example's error was, and keeps that place.
    """

    def __init__(self, kind: Kind) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = kind

    @override
    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "aten" and func._opname.startswith("_fused_") and not func._schema.returns:
            return None
        out = func(*args, **(kwargs or {}))
        if self._kind == "cpu" and func is aten.native_layer_norm.default and args[0].dtype in _HALF:
            weight = args[2]
            if weight is None or weight.dtype is args[0].dtype:
                return out[0], out[1].to(args[0].dtype), out[2].to(args[0].dtype)
        if func is aten.mse_loss.default and out.is_meta and out.dim() == 0:
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)  # type: ignore[no-untyped-call]
            out.untyped_storage().resize_(shape.numel() * out.element_size())
        return out
