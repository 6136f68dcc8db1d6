"""The same values from the same work on a GPU.

torch asks for ``CUBLAS_WORKSPACE_CONFIG`` before it believes that cuBLAS is deterministic, and looks at it
once, at the process's first matrix product. It also takes from it how much memory it gives cuBLAS to work in;
what users get without it must not change, so it is there for that one look only, and memory is given out
before. torch 2.11 tells cuBLAS that size at each product, whatever was given out: the setting must therefore
be of less memory than the usual one, and be gone for all products but the first. cuBLAS itself is
deterministic as torch uses it, with memory of its own for each handle and stream.
Source: https://docs.nvidia.com/cuda/cublas/#results-reproducibility

Attention's kernels have a deterministic form that they take only where anything else would be an error: with
warnings alone, flash, memory-efficient and cuDNN attention stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.utils.deterministic

_FILLING: Any = torch.utils.deterministic  # a module whose class has the property
_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
_BELIEVED = ":16:8"
"""128 KiB; of the two settings that torch believes the one that never is more than what was given out."""


def settle_cublas(cuda: ModuleType | Any, device: torch.device) -> None:
    """Lets torch find cuBLAS deterministic; to be called before the process's first work.

    Args:
        cuda: ``torch.cuda``, or what stands in for it in a test.
        device: the current one.
    """
    with cuda.device(device):
        cuda.current_blas_handle()  # and with it the memory to work in, of the usual size
    with _cublas_setting():
        square = torch.ones(16, 16, device=device)
        torch.mm(square, square)


@contextmanager
def deterministic() -> Iterator[None]:
    """Operators with a deterministic form use it, attention's apart; those without one warn.

    Afterwards all is as before.
    """
    fills = _FILLING.fill_uninitialized_memory
    benchmark = torch.backends.cudnn.benchmark
    # Filling new memory finds faults in programs; it makes nothing more deterministic and costs time.
    _FILLING.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        with _algorithms(warn_only=True):
            yield
    finally:
        _FILLING.fill_uninitialized_memory = fills
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def repeatable() -> Iterator[None]:
    """Operators with a deterministic form use it, attention's too; those without one raise."""
    with _algorithms(warn_only=False):
        yield


@contextmanager
def _algorithms(*, warn_only: bool) -> Iterator[None]:
    algorithms = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warns)


@contextmanager
def _cublas_setting() -> Iterator[None]:
    """The setting that torch wants to see, unless the user has one."""
    if _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = _BELIEVED
    try:
        yield
    finally:
        del os.environ[_VARIABLE]
