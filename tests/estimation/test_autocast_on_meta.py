"""Autocast on meta, against torch's own: on the CPU, and on tensors that only say they are on a GPU."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import generic

from peprof.estimation.attention_kernels import AMPERES
from peprof.estimation.autocast_lists import LISTS, cuda_lists
from peprof.estimation.autocast_on_meta import autocast_on_meta
from peprof.estimation.kernels import kernels_of
from peprof.estimation.quantised import autocast_weight_bytes
from peprof.estimation.torch_version import TorchVersion
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


OF_CPUS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "cat": lambda x, y, w, labels: torch.cat([x, y], -1),
    "cat in 16 bits": lambda x, y, w, labels: torch.cat([y, y], -1),
    "stack": lambda x, y, w, labels: torch.stack([x, y]),
    "prod": lambda x, y, w, labels: y.prod(-1),
    "einsum of entries": lambda x, y, w, labels: torch.einsum("bij,bij->bij", x, y),
    "einsum summed": lambda x, y, w, labels: torch.einsum("bij,kj", x, w),
    "baddbmm": lambda x, y, w, labels: torch.baddbmm(x @ x.mT, x, y.mT),
}


@contextmanager
def autocast_as_on(kind: Literal["cpu", "cuda"], dtype: torch.dtype) -> Iterator[None]:
    """What is tested here."""
    with autocast_on_meta(kind), torch.autocast("meta", dtype=dtype):
        yield


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
        torch.zeros(2, 8, device=device, dtype=torch.long),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_answers_in_the_type_of_cudas_autocast(name: str, dtype: torch.dtype) -> None:
    """And makes the same copies."""
    function = FUNCTIONS[name]
    with torch.no_grad(), FakeTensorMode():
        tensors = given("cuda", dtype)
        with autocast_of_cuda(dtype), Casts() as expected:
            of_cuda = function(*tensors)
    with torch.no_grad(), autocast_as_on("cuda", dtype), Casts() as casts:
        of_meta = function(*given("meta", dtype))
    assert (of_meta.dtype, of_meta.shape) == (of_cuda.dtype, of_cuda.shape)
    assert sorted(map(str, casts.seen)) == sorted(map(str, expected.seen))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", [*FUNCTIONS, *OF_CPUS])
def test_each_function_answers_in_the_type_of_a_cpus_autocast(name: str, dtype: torch.dtype) -> None:
    """And makes the same copies, by torch's own autocast on the CPU."""
    function = {**FUNCTIONS, **OF_CPUS}[name]
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype), Casts() as expected:
        of_cpu = function(*given("cpu", dtype))
    with torch.no_grad(), autocast_as_on("cpu", dtype), Casts() as casts:
        of_meta = function(*given("meta", dtype))
    assert (of_meta.dtype, of_meta.shape) == (of_cpu.dtype, of_cpu.shape)
    assert sorted(map(str, casts.seen)) == sorted(map(str, expected.seen))


PLACES = (torch, functional, torch.Tensor, torch.linalg, torch.fft, torch._C._nn)
LEFT_OUT = (
    "upsample_|_pad[123]d$|grid_sampler|(lstm|gru|relu|tanh)_cell$|^mkldnn|^cudnn|fake_quantize|"
    "^(nuclear|frobenius)_norm$|nll_loss2d|cross_entropy_loss|^_"
)
"""Operators of images and recurrent layers, and such as only others call."""


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_all_that_torch_registers_for_autocast_is_listed(kind: Literal["cpu", "cuda"]) -> None:
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[kind]
    registered = {
        re.sub("^(linalg_|fft_)", "", name.removeprefix("aten::").partition(".")[0])
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    }
    lists = LISTS[kind]
    listed = lists.short | lists.inner_short | lists.float | lists.with_dtype | lists.widest
    missing = {
        name
        for name in registered
        for function in (getattr(place, name, None) for place in PLACES)
        if callable(function) and function not in listed and not re.search(LEFT_OUT, name)
    }
    assert missing == ({"binary_cross_entropy"} if kind == "cuda" else set())  # refused by autocast there


@pytest.mark.parametrize(("version", "listed"), [((2, 11), False), ((2, 12), True), ((2, 13), True)])
def test_a_gpu_casts_rms_norm_to_float32_since_torch_2_12(version: TorchVersion, listed: bool) -> None:
    """``AT_FORALL_FP32`` of autocast_mode.h: the wheels of 2.12 and 2.13 have it, and not that of 2.11; from
    there on ``aten::rms_norm`` has a kernel for AutocastCUDA (pytorch#174824).
    """
    lists = cuda_lists(version)
    assert (functional.rms_norm in lists.float) is (torch.rms_norm in lists.float) is listed
    others = lists.float - {functional.rms_norm, torch.rms_norm}
    assert others == cuda_lists((2, 11)).float and functional.layer_norm in others
    here = torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA")
    assert (functional.rms_norm in LISTS["cuda"].float) is here


@pytest.mark.parametrize("cache_enabled", [True, False])
@pytest.mark.parametrize("grad_first", [True, False])
def test_copies_are_made_and_kept_as_on_a_cpu(grad_first: bool, cache_enabled: bool) -> None:
    def casts_of(device: str) -> tuple[list[str], list[bool]]:
        weight = nn.Parameter(torch.empty(4, 8, device=device))
        given, needs = torch.empty(2, 8, device=device), []
        with Casts() as casts, torch.autocast(device, torch.bfloat16, cache_enabled=cache_enabled):
            for with_grad in (grad_first, True):
                with torch.set_grad_enabled(with_grad), torch.autocast(device, enabled=True):
                    needs.append(functional.linear(given, weight).requires_grad)
            with torch.autocast(device, enabled=False):
                assert functional.linear(given, weight).dtype == torch.float32
        return sorted(map(str, casts.seen)), needs

    with autocast_on_meta("cpu"):
        of_meta = casts_of("meta")
    assert of_meta == casts_of("cpu")


class Block(nn.Module):
    """A layer of a transformer without attention, some of it frozen and one weight used twice."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(16, 8, device=device), requires_grad=False)
        self.down, self.scale = (nn.Parameter(torch.empty(*size, device=device)) for size in ((8, 16), (8,)))

    def forward(self, given: Tensor) -> Tensor:
        inner = functional.linear(functional.layer_norm(given, (8,), self.scale), self.up)
        inner = functional.linear(functional.gelu(inner), self.down)
        return given + functional.linear(functional.linear(inner, self.up), self.down)


class Outputs(TorchDispatchMode):
    """What each operator gives, in no order: that of a call's casts is a compiler's choice."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[tuple[torch.dtype, torch.Size], ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        tensors = tuple((t.dtype, t.shape) for t in tree_iter(done) if isinstance(t, Tensor))
        self.seen[str(func), tensors] += 1
        return done


def checkpointed_step(device: str, reentrant: bool | None) -> Outputs:
    def call(block: Block, given: Tensor) -> Tensor:
        done: Tensor = (
            block(given) if reentrant is None else checkpoint(block, given, use_reentrant=reentrant)
        )
        return done

    blocks = [Block(device) for _ in range(2)]
    state = torch.empty(2, 3, 8, device=device, requires_grad=True)
    with Outputs() as outputs:
        with torch.autocast(device, dtype=torch.bfloat16):
            for block in blocks:
                state = call(block, state)
            loss = state.softmax(-1).sum()
        loss.backward()
    return outputs


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_checkpoints_run_forward_again_under_autocast(reentrant: bool | None) -> None:
    """Both of torch's kinds, and none: all operators of the step are those of the CPU."""
    with autocast_on_meta("cpu"):
        of_meta = checkpointed_step("meta", reentrant)
    assert of_meta.seen == checkpointed_step("cpu", reentrant).seen


@pytest.mark.parametrize("early_stop", [True, False])
def test_a_recomputation_leaves_autocast_and_its_copies_behind(early_stop: bool) -> None:
    with autocast_on_meta("cuda"), set_checkpoint_early_stop(early_stop):
        checkpointed_step("meta", reentrant=False)
        assert not torch.is_autocast_enabled("meta") and not torch._C._len_torch_function_stack()
        once = checkpointed_step("meta", reentrant=False).seen
        assert once == checkpointed_step("meta", reentrant=False).seen  # no copy is left that would save one


def test_what_a_gpu_runs_again_is_cast_as_the_first_time() -> None:
    """By torch's own autocast for CUDA, of which without a GPU there is the forward alone."""
    with FakeTensorMode(), torch.no_grad():
        block, state = Block("cuda").requires_grad_(False), torch.empty(2, 3, 8, device="cuda")
        with autocast_of_cuda(torch.bfloat16), Casts() as expected:
            block(state)
    again: list[list[Any]] = []

    def watched(given: Tensor) -> Tensor:
        with Casts() as casts:
            done: Tensor = block(given)
        again.append(sorted(map(str, casts.seen)))
        return done

    block = Block("meta").requires_grad_(False)
    state = torch.empty(2, 3, 8, device="meta", requires_grad=True)
    with autocast_on_meta("cuda"):
        with torch.autocast("meta", dtype=torch.bfloat16):
            loss = checkpoint(watched, state, use_reentrant=True).sum()
        loss.backward()
    assert again == 2 * [sorted(map(str, expected.seen))]


def test_a_rotary_embedding_is_left_in_float32_as_on_a_device() -> None:
    """transformers never asks autocast about ``meta``, so that here it has to be told to."""
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=16)

    def casts_of(device: str) -> list[str]:
        embedding = LlamaRotaryEmbedding(config).to(device)
        given, positions = torch.empty(1, 5, 32, device=device), torch.zeros(1, 5, device=device)
        with Casts() as casts, torch.autocast(device, dtype=torch.bfloat16):
            embedding(given, positions)
        return sorted(map(str, casts.seen))

    with autocast_on_meta("cpu"):
        of_meta = casts_of("meta")
    assert of_meta == casts_of("cpu")


def test_copies_of_trained_weights_are_made_once_and_kept_till_the_end() -> None:
    trained, frozen = nn.Linear(8, 8, device="meta"), nn.Linear(8, 8, device="meta").requires_grad_(False)
    given = torch.empty(2, 8, device="meta", dtype=torch.bfloat16)
    with autocast_as_on("cuda", torch.bfloat16):
        with Casts() as casts:
            for _ in range(3):
                trained(given)
        assert sum(2 * count for _, count in casts.seen) == autocast_weight_bytes([64, 8])
        with Casts() as casts:
            for _ in range(3):
                frozen(given)
        assert sum(2 * count for _, count in casts.seen) == 3 * autocast_weight_bytes([64, 8])
    with autocast_as_on("cuda", torch.bfloat16), Casts() as casts:
        trained(given)
    assert len(casts.seen) == 2  # anew in the next step


def test_gradients_of_weights_are_in_their_own_type() -> None:
    layer = nn.Linear(8, 4, device="meta")
    with autocast_as_on("cuda", torch.bfloat16):
        done = layer(torch.empty(2, 8, device="meta"))
    assert done.dtype == torch.bfloat16
    done.sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad.dtype, layer.weight.grad.shape) == (torch.float32, layer.weight.shape)


def test_attention_under_autocast_takes_the_kernel_of_the_shorter_type() -> None:
    given = torch.empty(2, 4, 16, 64, device="meta", requires_grad=True)
    for enabled, kernel in ((True, "flash"), (False, "efficient")):
        with kernels_of("cuda", AMPERES) as calls, torch.autocast("meta", torch.bfloat16, enabled):
            functional.scaled_dot_product_attention(given, given, given)
        assert [found for _, found in calls] == [kernel]


def test_attention_under_autocast_keeps_its_inputs_and_its_mask_in_the_shorter_type() -> None:
    given = torch.empty(2, 4, 16, 64, device="meta", requires_grad=True)
    mask = torch.empty(2, 1, 16, 16, device="meta")
    with kernels_of("cuda", AMPERES) as calls, torch.autocast("meta", torch.bfloat16):
        found = kept(
            lambda: functional.scaled_dot_product_attention(given, given, given, attn_mask=mask),
            [given, mask],
        )
    [(call, kernel)] = calls
    assert (call.dtype, kernel) == ("bfloat16", "efficient")
    sums_and_seeds = 2 * 4 * 32 * 4 + 16  # a float32 a row, of which there are multiples of 32
    assert found == sums_and_seeds + 2 * (2 * 4 * 16 * 64) + 2 * (2 * 16 * 16)


def test_a_module_that_was_imported_meanwhile_gets_the_real_function_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = ModuleType("transformers.late")
    with autocast_on_meta("cuda"):
        late.maybe_autocast = generic.maybe_autocast  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, late.__name__, late)
    assert late.maybe_autocast is generic.maybe_autocast  # type: ignore[attr-defined]


def test_tensors_elsewhere_are_left_as_they_are() -> None:
    with autocast_as_on("cuda", torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.ones(2, dtype=torch.bfloat16).softmax(0).dtype == torch.bfloat16
