"""Autocast on meta, against torch's own autocast for CUDA on tensors that only say they are on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from peprof.estimation.autocast_on_meta import AutocastAsOnGpu
from peprof.estimation.kernels import kernels_of
from peprof.estimation.quantised import autocast_weight_bytes
from tests.estimation.test_attention_kernels import kept

HALVES = [torch.bfloat16, torch.float16]

# Of x (2, 3, 8) in float32, y of its shape in 16 bits, weights w (4, 8) in float32, and labels (2, 8).
FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda x, y, w, labels: functional.linear(x, w),
    "matmul": lambda x, y, w, labels: x @ x.mT,
    "torch.matmul": lambda x, y, w, labels: torch.matmul(x, y.mT),
    "method": lambda x, y, w, labels: x.matmul(x.mT),
    "bmm": lambda x, y, w, labels: torch.bmm(x, x.mT),
    "einsum": lambda x, y, w, labels: torch.einsum("bij,bkj->bik", x, y),
    "layer_norm": lambda x, y, w, labels: functional.layer_norm(y, (8,)),
    "rms_norm": lambda x, y, w, labels: functional.rms_norm(y, (8,)),
    "softmax": lambda x, y, w, labels: functional.softmax(y, -1),
    "softmax method": lambda x, y, w, labels: y.softmax(-1),
    "softmax with a type": lambda x, y, w, labels: functional.softmax(y, -1, dtype=y.dtype),
    "log_softmax": lambda x, y, w, labels: torch.log_softmax(y, -1),
    "sum": lambda x, y, w, labels: y.sum(),
    "sum over some": lambda x, y, w, labels: torch.sum(y, -1),
    "cumsum": lambda x, y, w, labels: y.cumsum(-1),
    "mean": lambda x, y, w, labels: y.mean(-1),
    "norm": lambda x, y, w, labels: y.norm(),
    "vector_norm": lambda x, y, w, labels: torch.linalg.vector_norm(y),
    "pow": lambda x, y, w, labels: y.pow(2),
    "**": lambda x, y, w, labels: y**2,
    "** of a number": lambda x, y, w, labels: 2**y,
    "rsqrt": lambda x, y, w, labels: y.rsqrt(),
    "exp": lambda x, y, w, labels: torch.exp(y),
    "log": lambda x, y, w, labels: y.log(),
    "gelu": lambda x, y, w, labels: functional.gelu(y),
    "relu": lambda x, y, w, labels: functional.relu(y),
    "silu": lambda x, y, w, labels: functional.silu(x),
    "tanh": lambda x, y, w, labels: torch.tanh(y),
    "sigmoid": lambda x, y, w, labels: y.sigmoid(),
    "mse_loss": lambda x, y, w, labels: functional.mse_loss(y, y),
    "with logits": lambda x, y, w, labels: functional.binary_cross_entropy_with_logits(y, y),
    "transpose": lambda x, y, w, labels: y.transpose(0, 1),
    "masked_fill": lambda x, y, w, labels: y.masked_fill(y.bool(), 0.0),
    "clamp": lambda x, y, w, labels: x.clamp(0, 1),
    "to double": lambda x, y, w, labels: x.double() @ x.double().mT,
    "mm": lambda x, y, w, labels: torch.mm(w, w.T),
    "cross_entropy": lambda x, y, w, labels: functional.cross_entropy(x, labels),
    "cross_entropy in 16 bits": lambda x, y, w, labels: functional.cross_entropy(y, labels),
}


@contextmanager
def autocast_of_cuda(dtype: torch.dtype) -> Iterator[None]:
    """As ``torch.autocast("cuda", dtype)``, which switches itself off where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class Casts(TorchDispatchMode):
    """The types and elements of copies in another type, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype != done.dtype:
            self.seen.append((done.dtype, done.numel()))
        return done


def given(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty(2, 3, 8, device=device),
        torch.empty(2, 3, 8, device=device, dtype=dtype),
        torch.empty(4, 8, device=device),
        torch.empty(2, 8, device=device, dtype=torch.long),
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_answers_in_the_type_of_cudas_autocast(name: str, dtype: torch.dtype) -> None:
    """And makes the same copies."""
    function = FUNCTIONS[name]
    with torch.no_grad(), FakeTensorMode():
        tensors = given("cuda", dtype)
        with autocast_of_cuda(dtype), Casts() as expected:
            of_cuda = function(*tensors)
    with torch.no_grad(), AutocastAsOnGpu(dtype), Casts() as casts:
        of_meta = function(*given("meta", dtype))
    assert (of_meta.dtype, of_meta.shape) == (of_cuda.dtype, of_cuda.shape)
    assert sorted(map(str, casts.seen)) == sorted(map(str, expected.seen))


def test_copies_of_trained_weights_are_made_once_and_kept_till_the_end() -> None:
    trained, frozen = nn.Linear(8, 8, device="meta"), nn.Linear(8, 8, device="meta").requires_grad_(False)
    given = torch.empty(2, 8, device="meta", dtype=torch.bfloat16)
    context = AutocastAsOnGpu(torch.bfloat16)
    with context:
        with Casts() as casts:
            for _ in range(3):
                trained(given)
        assert sum(2 * count for _, count in casts.seen) == autocast_weight_bytes([64, 8])
        with Casts() as casts:
            for _ in range(3):
                frozen(given)
        assert sum(2 * count for _, count in casts.seen) == 3 * autocast_weight_bytes([64, 8])
    with context, Casts() as casts:
        trained(given)
    assert len(casts.seen) == 2  # anew in the next step


def test_gradients_of_weights_are_in_their_own_type() -> None:
    layer = nn.Linear(8, 4, device="meta")
    with AutocastAsOnGpu(torch.bfloat16):
        done = layer(torch.empty(2, 8, device="meta"))
    assert done.dtype == torch.bfloat16
    done.sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad.dtype, layer.weight.grad.shape) == (torch.float32, layer.weight.shape)


def test_attention_under_autocast_takes_the_kernel_of_the_shorter_type() -> None:
    given = torch.empty(2, 4, 16, 64, device="meta", requires_grad=True)
    for context, kernel in ((AutocastAsOnGpu(torch.bfloat16), "flash"), (nullcontext(), "efficient")):
        with kernels_of("cuda", (8, 0)) as calls, context:
            functional.scaled_dot_product_attention(given, given, given)
        assert [found for _, found in calls] == [kernel]


def test_attention_under_autocast_keeps_its_inputs_and_its_mask_in_the_shorter_type() -> None:
    given = torch.empty(2, 4, 16, 64, device="meta", requires_grad=True)
    mask = torch.empty(2, 1, 16, 16, device="meta")
    with kernels_of("cuda", (8, 0)) as calls, AutocastAsOnGpu(torch.bfloat16):
        found = kept(
            lambda: functional.scaled_dot_product_attention(given, given, given, attn_mask=mask),
            [given, mask],
        )
    [(call, kernel)] = calls
    assert (call.dtype, kernel) == ("bfloat16", "efficient")
    sums_and_seeds = 2 * 4 * 32 * 4 + 16  # a float32 a row, of which there are multiples of 32
    assert found == sums_and_seeds + 2 * (2 * 4 * 16 * 64) + 2 * (2 * 16 * 16)


def test_tensors_elsewhere_are_left_as_they_are() -> None:
    with AutocastAsOnGpu(torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.ones(2, dtype=torch.bfloat16).softmax(0).dtype == torch.bfloat16
