"""What is told without the device, against it: the allocator's counters, attention's kernels, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend

from peprof.estimation.allocator import CachingAllocator, NoRoomError
from peprof.estimation.allocator_pools import Block
from peprof.estimation.allocator_settings import parse_allocator_settings
from peprof.estimation.attention_kernels import chosen_kernel, saved_bytes_on_gpu
from peprof.estimation.attention_operators import call_of
from peprof.estimation.gpu_memory import cublas_workspace, cublaslt_workspace
from peprof.gpus.known import gpu_of_device
from tests.estimation.allocator_history import Counters, follow
from tests.estimation.test_attention_kernels import CALLS, kept, tensors

ROOT = Path(__file__).parents[2]
CONFIGS = ("", "max_split_size_mb:24", "roundup_power2_divisions:8", "garbage_collection_threshold:0.6",
           "expandable_segments:True")  # fmt: skip
KERNELS = {
    SDPBackend.MATH: "math",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.CUDNN_ATTENTION: "cudnn",
}
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def simulated(config: str, seed: int, capacity_bytes: int) -> list[Counters]:
    """The counters of the simulated allocator over the same history, which a memory fraction limits there."""
    pool = CachingAllocator(parse_allocator_settings(config), limit_bytes=capacity_bytes)

    def ask(size: int) -> Block | None:
        try:
            return pool.allocate(size)
        except NoRoomError:
            return None

    def count() -> Counters:
        counters = pool.counters
        return (
            counters.allocated_bytes,
            counters.requested_bytes,
            counters.reserved_bytes,
            counters.inactive_split_bytes,
            counters.retries,
        )

    return follow(seed, ask, pool.free, count)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_history_asks_for_all_that_is_to_be_compared(config: str) -> None:
    """Without a GPU: that the history fills the device, so that there are retries."""
    found = simulated(config, 1, 400 * 2**20)
    assert max(reserved for _, _, reserved, _, _ in found) > 200 * 2**20
    assert max(retries for *_, retries in simulated(config, 1, 150 * 2**20)) > 0


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("capacity_mib", [150, 400])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_simulated_counters_are_the_devices_own(config: str, capacity_mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.estimation.allocator_history", "1", str(capacity_mib)],
        env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": config, "PYTORCH_ALLOC_CONF": config},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    expected = [tuple(counters) for counters in told["counters"]]
    assert simulated(config, 1, told["capacity_bytes"]) == expected


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 60, 128, 256])
@pytest.mark.parametrize("change", CALLS)
def test_the_kernel_and_what_it_keeps_are_the_devices_own(
    dtype: torch.dtype, dim: int, change: dict[str, Any]
) -> None:
    query, key, value, mask = tensors("cuda", dtype, dim, change)
    dropout, causal = change.get("dropout", 0.0), change.get("causal", False)
    choice = torch._fused_sdp_choice(query, key, value, mask, dropout, causal)
    call = call_of(query, key, value, mask, dropout, causal, enable_gqa=False)
    version = torch.backends.cudnn.version()
    kernel = chosen_kernel(call, torch.cuda.get_device_capability(), cudnn_version=version)
    assert kernel == KERNELS[SDPBackend(choice)]
    found = kept(
        lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout, causal),
        [query, key, value, *([] if mask is None else [mask])],
    )
    assert found == pytest.approx(saved_bytes_on_gpu(call, kernel), abs=32)  # seeds may lie on the CPU


@pytest.mark.gpu
@on_a_gpu
def test_cublas_takes_from_the_pool_what_the_rule_says_forward_and_again_backward() -> None:
    """Backward has a thread of its own, and that a handle of its own; a second step takes nothing more."""
    torch._C._cuda_clearCublasWorkspaces()
    weights = torch.ones(64, 64, device="cuda", requires_grad=True)
    given = torch.ones(64, 64, device="cuda")
    workspace = cublas_workspace(torch.cuda.get_device_capability()).nbytes
    before = torch.cuda.memory_allocated()
    product = given @ weights
    forward = torch.cuda.memory_allocated() - before
    assert forward - product.untyped_storage().nbytes() == workspace
    product.sum().backward()
    del product
    after = torch.cuda.memory_allocated() - before
    assert weights.grad is not None
    assert after - weights.grad.untyped_storage().nbytes() == 2 * workspace
    (given @ weights).sum().backward()
    assert torch.cuda.memory_allocated() - before == after


@pytest.mark.gpu
@on_a_gpu
def test_cublaslt_takes_what_the_rule_says_for_a_product_with_a_bias() -> None:
    torch._C._cuda_clearCublasWorkspaces()
    given, weights, bias = (torch.ones(*shape, device="cuda") for shape in ((64, 64), (64, 64), (64,)))
    before = torch.cuda.memory_allocated()
    products = given @ weights, torch.addmm(bias, given, weights)
    own = sum(product.untyped_storage().nbytes() for product in products)
    told = os.environ.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "")
    beside = cublaslt_workspace(
        size_kib=os.environ.get("CUBLASLT_WORKSPACE_SIZE"), unified={"1": True, "0": False}.get(told)
    )
    expected = cublas_workspace(torch.cuda.get_device_capability()).nbytes + beside.nbytes
    assert torch.cuda.memory_allocated() - before - own == expected


@pytest.mark.gpu
@on_a_gpu
def test_the_memory_of_a_known_gpu_is_at_least_what_is_said() -> None:
    gpu = gpu_of_device(torch.cuda.get_device_name())
    if gpu is None:
        pytest.skip(f"{torch.cuda.get_device_name()} isn't known here")
    assert gpu.capability == torch.cuda.get_device_capability()
    assert gpu.total_bytes <= torch.cuda.get_device_properties(0).total_memory <= 1.02 * gpu.total_bytes
