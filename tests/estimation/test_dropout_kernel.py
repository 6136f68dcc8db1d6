"""Dropout on meta keeps a byte an element, as the kernel does that a GPU has."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from peprof.estimation.kernels import kernels_of
from tests.estimation.test_attention_kernels import kept


@pytest.mark.parametrize(("dtype", "plain"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_byte_an_element_is_kept_instead_of_a_number(dtype: torch.dtype, plain: int) -> None:
    given = torch.empty(6, 50, device="meta", dtype=dtype, requires_grad=True)
    layer = nn.Dropout(0.1)
    assert kept(lambda: layer(given), [given]) == 300 * plain
    with kernels_of("cuda"):
        assert kept(lambda: layer(given), [given]) == 300
        assert kept(lambda: torch.dropout(given, 0.1, True), [given]) == 300
        assert kept(lambda: functional.dropout(given, p=0.1, training=True), [given]) == 300
        assert kept(lambda: layer.eval()(given), [given]) == 0


def test_it_is_what_torchs_kernel_keeps_elsewhere() -> None:
    given = torch.ones(6, 50, requires_grad=True)
    assert kept(lambda: torch.native_dropout(given, 0.1, True)[0], [given]) == 300


def test_gradients_pass() -> None:
    given = torch.empty(6, 50, device="meta", requires_grad=True)
    with kernels_of("cuda"):
        done = functional.dropout(given, 0.1)
        done.sum().backward()
    assert given.grad is not None
    assert (done.shape, done.dtype, given.grad.shape) == (given.shape, given.dtype, given.shape)


def test_dropout_elsewhere_is_left_as_it_is() -> None:
    given = torch.ones(300, requires_grad=True)
    with kernels_of("cuda"):
        assert kept(lambda: functional.dropout(given, 0.1), [given]) == 1200
        assert functional.dropout(torch.ones(3), 1.0).tolist() == [0, 0, 0]
        assert functional.dropout(torch.empty(3, device="meta"), 0.0).shape == (3,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_a_byte_an_element() -> None:
    given = torch.ones(6, 50, device="cuda", requires_grad=True)
    assert kept(lambda: functional.dropout(given, 0.1), [given]) == 300
