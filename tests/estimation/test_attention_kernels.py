"""Attention's kernels: torch's documented choice, and what each keeps, against torch's own operators."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from peprof.estimation.attention_kernels import (
    AttentionCall,
    GpuKernels,
    Kernel,
    backward_scratch,
    chosen_kernel,
    inputs_kept_bytes,
    more_than_recorded,
    saved_bytes,
    saved_bytes_on_gpu,
)
from peprof.estimation.attention_operators import call_of
from peprof.estimation.kernels import AttentionCalls, kernels_of
from peprof.estimation.torch_version import TorchVersion, installed_torch
from peprof.profiler.ledger import Ledger
from peprof.profiler.scalars import ScalarAnswers

CALL = AttentionCall(dtype="bfloat16", batch=2, heads=4, queries=40, keys=40, head_dim=64)
T4, V100, A100, L4, H100, B200, RTX5090 = (7, 5), (7, 0), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)
VERSIONS: tuple[TorchVersion, ...] = ((2, 11), (2, 12), (2, 13))


@pytest.mark.parametrize(
    ("capability", "change", "kernel"),
    [
        (A100, {}, "flash"),
        (L4, {}, "flash"),
        (RTX5090, {}, "flash"),
        (H100, {}, "cudnn"),
        (B200, {}, "cudnn"),
        (T4, {}, "math"),  # no kernel has bfloat16 there
        (T4, {"dtype": "float16"}, "efficient"),
        (V100, {"dtype": "float32"}, "efficient"),
        (A100, {"dtype": "float32"}, "efficient"),
        (A100, {"dtype": "float64"}, "math"),
        (H100, {"dtype": "float32"}, "efficient"),
        (A100, {"mask": "bool"}, "efficient"),
        (H100, {"mask": "bool"}, "cudnn"),
        (H100, {"mask": "float", "mask_is_trained": True}, "efficient"),
        (A100, {"head_dim": 60}, "flash"),  # padded
        (A100, {"head_dim": 60, "mask": "bool"}, "math"),  # 60 isn't a multiple of 8
        (A100, {"head_dim": 60, "dtype": "float32"}, "efficient"),  # but of 4
        (H100, {"head_dim": 60}, "flash"),
        (V100, {"head_dim": 63, "dtype": "float32"}, "efficient"),
        (H100, {"head_dim": 256}, "cudnn"),
        (B200, {"head_dim": 256}, "flash"),
        (A100, {"head_dim": 264}, "efficient"),
        (A100, {"head_dim": 256, "dropout": 0.1}, "flash"),
        (L4, {"head_dim": 256, "dropout": 0.1}, "efficient"),
        (L4, {"head_dim": 256}, "flash"),
        (L4, {"head_dim": 200}, "efficient"),
        (L4, {"head_dim": 200, "trains": False}, "flash"),
        (RTX5090, {"head_dim": 224}, "efficient"),
        (A100, {"head_dim": 64, "value_dim": 32}, "efficient"),
        (A100, {"causal": True}, "flash"),
        (A100, {"causal": True, "keys": 41}, "efficient"),
        (A100, {"key_heads": 2}, "flash"),
        (A100, {"key_heads": 2, "mask": "bool"}, "math"),  # the efficient one doesn't share keys
        (A100, {"key_heads": 4, "mask": "bool"}, "efficient"),
        (H100, {"queries": 1, "dropout": 0.1}, "flash"),
        (H100, {"keys": 1}, "flash"),
    ],
)
def test_the_kernel_is_the_first_that_can(capability: Any, change: dict[str, Any], kernel: Kernel) -> None:
    assert chosen_kernel(replace(CALL, **change), capability) == kernel


def test_cudnn_is_preferred_where_it_is_new_enough_and_need_not_repeat_itself() -> None:
    assert chosen_kernel(CALL, H100, cudnn_version=91_002) == "flash"
    assert chosen_kernel(CALL, H100, cudnn_version=None) == "flash"
    assert chosen_kernel(CALL, H100, deterministic=True) == "flash"


@pytest.mark.parametrize(
    ("dropout", "mask", "before", "since"),
    [
        (0.1, None, "cudnn", "flash"),
        (0.1, "bool", "cudnn", "efficient"),
        (0.125, None, "cudnn", "cudnn"),  # two sixteenths
        (0.1875, "bool", "cudnn", "cudnn"),  # three
        (0.0, None, "cudnn", "cudnn"),
    ],
)
def test_since_torch_2_12_cudnn_gets_dropout_in_sixteenths_alone(
    dropout: float, mask: Any, before: Kernel, since: Kernel
) -> None:
    """``check_cudnn_dropout`` of sdp_utils.cpp, "resolution is limited to 1/16" (pytorch#174245): the wheels
    of 2.12 and 2.13 have these words and that of 2.11 hasn't.
    """
    call = replace(CALL, dropout=dropout, mask=mask)
    found = {version: chosen_kernel(call, H100, torch_version=version) for version in VERSIONS}
    assert found == {(2, 11): before, (2, 12): since, (2, 13): since}


@pytest.mark.parametrize(
    ("change", "before", "since"),
    [
        ({"batch": 65_535}, "cudnn", "cudnn"),
        ({"batch": 65_536}, "cudnn", "flash"),
        ({"heads": 65_535}, "cudnn", "cudnn"),
        ({"heads": 65_536}, "cudnn", "flash"),
        ({"heads": 65_536, "mask": "bool"}, "cudnn", "efficient"),
    ],
)
def test_since_torch_2_13_cudnn_gets_no_more_than_a_grid_holds(
    change: dict[str, Any], before: Kernel, since: Kernel
) -> None:
    """``max_cudnn_dim_size`` of ``check_cudnn_tensor_shapes``, "does not support batch size or num_heads
    greater than": of the wheels, only that of 2.13 has these words.
    """
    call = replace(CALL, **change)
    found = {version: chosen_kernel(call, H100, torch_version=version) for version in VERSIONS}
    assert found == {(2, 11): before, (2, 12): before, (2, 13): since}


@pytest.mark.parametrize("version", VERSIONS)
def test_cudnn_has_deepseeks_heads_on_large_blackwells(version: TorchVersion) -> None:
    """``d_qk == 192 && d_v == 128`` with ``major == 10`` in sdp_utils.cpp of all of them: B200 and B300."""
    call = replace(CALL, head_dim=192, value_dim=128)
    for capability, kernel in (((10, 0), "cudnn"), ((10, 3), "cudnn"), (RTX5090, "efficient")):
        assert chosen_kernel(call, capability, torch_version=version) == kernel
    for other in ({"value_dim": 192}, {"head_dim": 184}, {"head_dim": 128, "value_dim": 192}):
        assert chosen_kernel(replace(call, **other), B200, torch_version=version) != "cudnn"


def test_torchs_version_is_the_installed_one_unless_said() -> None:
    assert installed_torch() == tuple(int(part) for part in torch.__version__.split(".")[:2])
    call = replace(CALL, dropout=0.1)
    assert chosen_kernel(call, H100) == chosen_kernel(call, H100, torch_version=installed_torch())


def kept(ask: Callable[[], Tensor], own: list[Tensor]) -> int:
    """Bytes of all storages that autograd keeps, but those of some tensors and of the result."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        done = ask()
    known = {tensor.untyped_storage()._cdata for tensor in [*own, done]}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in known)


CALLS = [
    {},
    {"dropout": 0.1},
    {"mask": "bool"},
    {"mask": "float"},
    {"mask": "bool", "dropout": 0.1},
    {"queries": 33, "keys": 56},
    {"causal": True},
]


def tensors(device: str, dtype: torch.dtype, dim: int, change: dict[str, Any], key_heads: int = 4) -> Any:
    queries, keys = change.get("queries", 40), change.get("keys", 40)
    query = torch.empty(2, 4, queries, dim, device=device, dtype=dtype, requires_grad=True)
    key, value = (
        torch.empty(2, key_heads, keys, dim, device=device, dtype=dtype, requires_grad=True) for _ in range(2)
    )
    kind = change.get("mask")
    mask = None
    if kind is not None:
        mask = torch.ones(2, 1, queries, keys, device=device, dtype=torch.bool if kind == "bool" else dtype)
    return query, key, value, mask


def ask(
    device: str,
    dtype: torch.dtype,
    dim: int,
    change: dict[str, Any],
    context: AbstractContextManager[Any],
    key_heads: int = 4,
) -> tuple[AttentionCall, int]:
    """The call, and what it kept."""
    query, key, value, mask = tensors(device, dtype, dim, change, key_heads)
    dropout, causal, shares = change.get("dropout", 0.0), change.get("causal", False), key_heads != 4
    with context:
        found = kept(
            lambda: functional.scaled_dot_product_attention(
                query, key, value, mask, dropout, causal, enable_gqa=shares
            ),
            [query, key, value, *([] if mask is None else [mask])],
        )
    return call_of(query, key, value, mask, dropout, causal, enable_gqa=shares), found


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("change", CALLS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_math_keeps_what_torch_keeps(
    device: str, dtype: torch.dtype, change: dict[str, Any], key_heads: int
) -> None:
    call, found = ask(device, dtype, 16, change, sdpa_kernel(SDPBackend.MATH), key_heads)
    assert saved_bytes(call, "math") == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("change", [change for change in CALLS if "dropout" not in change])
def test_the_cpus_kernel_keeps_what_torch_keeps(dtype: torch.dtype, change: dict[str, Any]) -> None:
    call, found = ask("cpu", dtype, 16, change, sdpa_kernel(SDPBackend.FLASH_ATTENTION))
    assert saved_bytes(call, "flash_cpu") == found


def test_on_meta_attention_is_always_math() -> None:
    call, found = ask("meta", torch.bfloat16, 16, {}, nullcontext())
    assert found == saved_bytes(call, "math") != saved_bytes(call, "flash_cpu")


@pytest.mark.parametrize("change", CALLS)
@pytest.mark.parametrize(("capability", "dtype", "dim"), [
    (A100, torch.bfloat16, 64), (A100, torch.bfloat16, 60), (H100, torch.bfloat16, 64),
    (A100, torch.float32, 64), (T4, torch.float16, 32), (T4, torch.bfloat16, 32),
    (RTX5090, torch.float16, 64),
])  # fmt: skip
def test_on_meta_a_gpus_kernel_keeps_what_the_formulas_say(
    capability: Any, dtype: torch.dtype, dim: int, change: dict[str, Any]
) -> None:
    with kernels_of("cuda", GpuKernels(capability=capability)) as calls:
        call, found = ask("meta", dtype, dim, change, nullcontext())
    [(seen, kernel)] = calls
    assert seen == call
    assert kernel == chosen_kernel(call, capability)
    assert found == (saved_bytes(call, "math") if kernel == "math" else saved_bytes_on_gpu(call, kernel))


def test_gradients_have_the_shapes_of_what_they_are_of() -> None:
    for capability, dtype, kernel, change in (
        (A100, torch.bfloat16, "flash", {}),
        (A100, torch.bfloat16, "efficient", {"mask": "bool"}),
        (H100, torch.bfloat16, "cudnn", {"mask": "float"}),
        (T4, torch.bfloat16, "math", {}),
    ):
        query, key, value, mask = tensors("meta", dtype, 60 if kernel == "flash" else 64, change)
        with kernels_of("cuda", GpuKernels(capability=capability)) as calls:
            done = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            done.sum().backward()
        assert [found for _, found in calls] == [kernel]
        assert done.shape == query.shape
        assert [t.grad.shape for t in (query, key, value)] == [t.shape for t in (query, key, value)]


def test_rows_of_a_mask_that_begin_anywhere_are_copied() -> None:
    """13 positions: rows of 26 bytes; copied into rows of 16."""
    query, key, value, _ = tensors("meta", torch.bfloat16, 64, {"queries": 13, "keys": 13})
    mask = torch.zeros(2, 1, 13, 13, device="meta", dtype=torch.bfloat16)
    with kernels_of("cuda", GpuKernels(capability=A100)):
        found = kept(
            lambda: functional.scaled_dot_product_attention(query, key, value, attn_mask=mask),
            [query, key, value, mask],
        )
    assert found == 2 * 4 * 32 * 4 + 16 + 2 * 13 * 16 * 2


def test_attention_elsewhere_is_left_as_it_is() -> None:
    call, found = ask("cpu", torch.float32, 16, {}, kernels_of("cuda", GpuKernels(capability=H100)))
    assert found == saved_bytes(call, "flash_cpu")


def test_bytes_worked_out_by_hand() -> None:
    """A BERT layer of 8 x 12 heads of 64 over 128 tokens, in bfloat16."""
    call = AttentionCall(dtype="bfloat16", batch=8, heads=12, queries=128, keys=128, head_dim=64)
    rows = 8 * 12 * 128
    assert saved_bytes(call, "flash") == rows * 4 + 24
    assert saved_bytes(call, "efficient") == saved_bytes(call, "cudnn") == rows * 4 + 16
    assert saved_bytes(call, "math") == 3 * rows * 64 * 4 + rows * 128 * 4
    dropped = replace(call, dropout=0.1)
    assert saved_bytes_on_gpu(dropped, "math") == saved_bytes(call, "math") + rows * 128 * (1 + 4)
    assert saved_bytes(dropped, "math") == saved_bytes(call, "math") + rows * 128 * (4 + 4)
    inputs = 3 * rows * 64 * 2  # which math has turned into float32, and keeps that
    assert more_than_recorded(call, "flash", "math") == rows * 4 + 24 + inputs - saved_bytes(call, "math")
    assert more_than_recorded(call, "flash", "flash_cpu") == 24
    assert saved_bytes(replace(call, trains=False), "math") == 0


FLOAT, SHORT = torch.float32, torch.bfloat16
ON_CPU_AND_META = [
    *((device, SDPBackend.MATH, dtype, heads) for device in ("cpu", "meta") for dtype in (FLOAT, SHORT)
      for heads in (4, 2)),
    *(("cpu", SDPBackend.FLASH_ATTENTION, dtype, 4) for dtype in (FLOAT, SHORT)),
    ("meta", None, SHORT, 4), ("meta", None, SHORT, 2), ("meta", None, FLOAT, 4),  # as on an A100
]  # fmt: skip


@pytest.mark.parametrize(("device", "backend", "dtype", "key_heads"), ON_CPU_AND_META)
def test_of_its_inputs_a_kernel_keeps_what_torch_keeps(
    device: str, backend: SDPBackend | None, dtype: torch.dtype, key_heads: int
) -> None:
    query, key, value, _ = tensors(device, dtype, 64, {}, key_heads)
    shares = key_heads != 4
    call = call_of(query, key, value, None, 0.0, False, enable_gqa=shares)
    known: dict[Any, Any] = {SDPBackend.MATH: "math", SDPBackend.FLASH_ATTENTION: "flash_cpu"}
    kernel = known.get(backend) or chosen_kernel(call, A100)
    with kernels_of("cuda", GpuKernels(capability=A100)) if backend is None else sdpa_kernel(backend):
        all_kept = kept(
            lambda: functional.scaled_dot_product_attention(query, key, value, enable_gqa=shares), []
        )
    assert all_kept == saved_bytes(call, kernel) + inputs_kept_bytes(call, kernel)


def test_scratch_of_backward_is_told_where_it_is_known() -> None:
    """``mha_bwd``: ``softmax_d``, ``dq_accum``, and ``dk_expanded`` with ``dv_expanded``, here of 2 x 4 heads
    over 40 positions, which are rounded up to 128.
    """
    rows = 2 * 4 * 128
    assert backward_scratch(CALL, "flash") == (rows * 4, rows * 64 * 4) == (4096, 262_144)
    assert backward_scratch(replace(CALL, head_dim=40), "flash") == (4096, 262_144)
    assert backward_scratch(replace(CALL, head_dim=200), "flash") == (4096, rows * 256 * 4)
    shared = replace(CALL, key_heads=2)
    assert backward_scratch(shared, "flash") == (4096, 262_144, *[2 * 4 * 40 * 64 * 2] * 2)
    assert backward_scratch(CALL, "math") == ()
    assert backward_scratch(CALL, "efficient") is None
    assert backward_scratch(CALL, "cudnn") is None


def live_after_forward(capability: Any) -> tuple[int, AttentionCalls]:
    """Of a small Llama's step on meta, in bfloat16, and the calls that were done as on a GPU."""
    config = LlamaConfig(
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=512,
        vocab_size=100,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        tokens = torch.zeros(2, 48, dtype=torch.long)
    nothing: AttentionCalls = []
    context = (
        nullcontext(nothing) if capability is None else kernels_of("cuda", GpuKernels(capability=capability))
    )
    with ScalarAnswers(), context as calls, Ledger(model.train(), inputs=tokens) as ledger:
        ledger.mark("forward")
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        ledger.mark("backward")
        loss.backward()
        ledger.mark(None)
    after_forward = ledger.phases.marked_edges[1][0]
    return ledger.book.log.levels()[after_forward], calls


@pytest.mark.parametrize(("capability", "kernel"), [(A100, "flash"), (H100, "cudnn")])
def test_a_models_step_keeps_less_by_what_the_formulas_say(capability: Any, kernel: Kernel) -> None:
    """The ledger sees it: three layers' probabilities are gone, and there is a row of sums instead."""
    plain, _ = live_after_forward(None)
    found, calls = live_after_forward(capability)
    assert [chosen for _, chosen in calls] == [kernel] * 3
    less = sum(more_than_recorded(call, chosen, "math") for call, chosen in calls)
    assert found - plain == less < 0
