"""What is kept for backward under a device's operators, against what their kernels are known to keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from peprof.estimation.kernels import Kind, kernels_of

BATCH, HEADS, LENGTH, WIDTH = 3, 4, 40, 16
ELEMENTS = BATCH * HEADS * LENGTH * WIDTH


def kept(
    kind: Kind, dtype: torch.dtype, *, mask: bool, dropout: float, shared: int = 1
) -> dict[tuple[int, ...], int]:
    """Bytes by shape of what attention keeps, beside its inputs."""
    query, key, value = (
        torch.empty(BATCH, heads, LENGTH, WIDTH, dtype=dtype, device="meta", requires_grad=True)
        for heads in (HEADS, HEADS // shared, HEADS // shared)
    )
    added = torch.empty(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool, device="meta") if mask else None
    found: dict[tuple[int, ...], int] = {}
    inputs = {query.untyped_storage()._cdata, key.untyped_storage()._cdata, value.untyped_storage()._cdata}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in inputs:
            found[tuple(tensor.shape)] = tensor.untyped_storage().nbytes()
        return tensor

    with kernels_of(kind), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.scaled_dot_product_attention(
            query, key, value, attn_mask=added, dropout_p=dropout, enable_gqa=shared > 1
        )
    return found


OUTPUT, SUMS, MAPS = (
    (BATCH, HEADS, LENGTH, WIDTH),
    (BATCH, HEADS, LENGTH),
    (BATCH, HEADS, LENGTH, LENGTH),
)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_flash_keeps_its_output_and_a_sum_a_row(dropout: float) -> None:
    """Dao 2023 (arXiv:2307.08691): the log-sum-exp of each row, in float32, and no attention map."""
    found = kept("cuda", torch.bfloat16, mask=False, dropout=dropout)
    assert found[OUTPUT] == 2 * ELEMENTS
    assert found[SUMS] == 4 * BATCH * HEADS * LENGTH
    assert MAPS not in found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_with_a_mask_a_gpu_keeps_that_as_numbers_once_for_all_heads(dtype: torch.dtype) -> None:
    found = kept("cuda", dtype, mask=True, dropout=0.1)
    assert found[OUTPUT] == dtype.itemsize * ELEMENTS
    assert found[MAPS] == dtype.itemsize * BATCH * LENGTH * LENGTH  # expanded, of one head's storage


def test_where_no_kernel_fits_whole_maps_are_kept() -> None:
    found = kept("cuda", torch.float32, mask=False, dropout=0.0, shared=2)
    assert sum(found.values()) >= 4 * BATCH * HEADS * LENGTH * LENGTH


def test_a_cpu_has_a_kernel_without_dropout_only() -> None:
    assert kept("cpu", torch.float32, mask=False, dropout=0.0).keys() == {OUTPUT, SUMS}
    with_dropout = kept("cpu", torch.float32, mask=False, dropout=0.1)
    assert sum(with_dropout.values()) >= 2 * 4 * BATCH * HEADS * LENGTH * LENGTH


@pytest.mark.parametrize(("kind", "nbytes"), [("cpu", 4), ("cuda", 1)])
def test_the_mask_of_dropout_takes_a_byte_on_a_gpu(kind: Kind, nbytes: int) -> None:
    masks: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        masks.append(tensor.untyped_storage().nbytes())
        return tensor

    x = torch.empty(1000, device="meta", requires_grad=True)
    with kernels_of(kind), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.nn.Dropout(0.1)(x)
    assert masks == [1000 * nbytes]


class Called(TorchDispatchMode):
    """The operators that are called, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_checkpoints_that_run_forward_again_take_the_same_kernels() -> None:
    """Inside of backward, where modes for functions are off."""
    given = torch.empty(2, HEADS, LENGTH, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        return F.dropout(F.scaled_dot_product_attention(x, x, x), 0.1)

    kernels = ["_scaled_dot_product_flash_attention", "native_dropout"]
    with kernels_of("cuda") as calls, Called() as called:
        done = checkpoint(forward, given, use_reentrant=False, preserve_rng_state=False)
        assert called.names == kernels
        called.names.clear()
        done.sum().backward()
    assert [name for name in called.names if name in kernels] == kernels
    assert [kernel for _, kernel in calls] == ["flash", "flash"]


def test_all_is_as_before_afterwards() -> None:
    before = (F.dropout, torch.dropout, F.scaled_dot_product_attention)
    with pytest.raises(ZeroDivisionError), kernels_of("cuda"):
        raise ZeroDivisionError
    assert (F.dropout, torch.dropout, F.scaled_dot_product_attention) == before


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_squared_error_takes_what_it_takes_on_the_cpu(reduction: str) -> None:
    def taken(device: str) -> int:
        answers, targets = (torch.zeros(7, 3, device=device), torch.zeros(7, 1, device=device).expand(7, 3))
        return F.mse_loss(answers, targets, reduction=reduction).untyped_storage().nbytes()

    with kernels_of("cpu"):
        assert taken("meta") == taken("cpu") == 4 * 7 * 3
