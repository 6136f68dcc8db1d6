"""What of a named GPU's memory is there for a step: less what its driver and torch's libraries take.

And with which libraries, as they decide on what a step needs.

Each figure says where it comes from, and how well it is known: ``exact`` where it follows from torch's source
or was printed by torch, ``assumed`` where it was seen elsewhere and will differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from peprof.errors import UsageError
from peprof.estimation.attention_kernels import CUDNN_OF_TORCH, GpuKernels
from peprof.estimation.torch_version import TorchVersion, installed_torch
from peprof.gpus.known import Gpu, gpu_named

Certainty = Literal["exact", "simulated", "assumed"]
"""How well a figure is known: by rule, by simulating the allocator, or from what was seen elsewhere."""

_MIB = 2**20
_CONTEXT_BYTES = 512 * _MIB
_CONTEXT_SOURCE = (
    "a context with the kernels of a small step; 274 MiB (pytorch/pytorch#86509), 424 MiB (A100), 426 MiB "
    "(RTX 6000 Ada, unslothai/unsloth-zoo#1053) and 612 MiB (H200) were seen, depending on driver and kernels"
)
_LARGE_WORKSPACE_BYTES = 4096 * 8 * 1024
_OTHER_WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
_LT_WORKSPACE_KIB = 1024
_THREADS = 2
"""That do products in a training step: one goes forward, and autograd's own for the device goes backward."""
_LAST_READ: TorchVersion = (2, 13)
"""The last version whose rules were read; newer ones are supposed to have the same."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of bytes, and what it is worth.

    Args:
        nbytes: in bytes.
        certainty: how well it is known.
        source: where it comes from.
    """

    nbytes: int
    certainty: Certainty
    source: str


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """A GPU's memory.

    Args:
        gpu: which.
        total: what torch says it has.
        context: what the driver, the context and loaded kernels take, which isn't the pool's.
        cublas: the workspace that a handle of cuBLAS gets from the pool with its first product on a stream,
            and keeps. Each thread has a handle.
        cublaslt: that of cuBLASLt, where it has its own.
        kernels: what decides on its kernels of attention.
    """

    gpu: Gpu
    total: Figure
    context: Figure
    cublas: Figure
    cublaslt: Figure
    kernels: GpuKernels

    @property
    def capacity_bytes(self) -> int:
        """What there is for the pool, workspaces included."""
        return self.total.nbytes - self.context.nbytes

    @property
    def workspaces_bytes(self) -> tuple[int, ...]:
        """What libraries hold of the pool in a steady training step, a block each.

        That of cuBLAS twice: one was born with the first product forward, one with the first one backward.
        That of cuBLASLt once, as products with a bias are done forward alone.
        """
        figures = (*(self.cublas,) * _THREADS, self.cublaslt)
        return tuple(figure.nbytes for figure in figures if figure.nbytes)


def memory_of(
    name: str,
    *,
    cublas_workspace_config: str | None = None,
    cublaslt_workspace_size: str | None = None,
    unified_workspace: bool | None = None,
    cudnn_version: int | None = CUDNN_OF_TORCH,
    torch_version: TorchVersion | None = None,
) -> GpuMemory:
    """The memory of a GPU by its name.

    Args:
        name: as torch or people call it.
        cublas_workspace_config: as CUBLAS_WORKSPACE_CONFIG holds it there; ``None`` where it isn't set.
        cublaslt_workspace_size: as CUBLASLT_WORKSPACE_SIZE holds it there, in KiB; ``None`` where unset.
        unified_workspace: whether cuBLASLt uses cuBLAS's workspace, as TORCH_CUBLASLT_UNIFIED_WORKSPACE says
            there; ``None`` where it says nothing: then it does from torch 2.12 on.
        cudnn_version: that of torch there, as ``torch.backends.cudnn.version()`` says it.
        torch_version: whose rules count; ``None`` for the installed one's.

    Raises:
        UsageError: the GPU isn't known, or the setting isn't one.

    Example:
        >>> memory_of("H100").cublas.nbytes, memory_of("A100 40GB").cublas.nbytes
        (33554432, 8519680)
    """
    gpu, version = gpu_named(name), torch_version or installed_torch()
    return GpuMemory(
        gpu=gpu,
        total=Figure(
            nbytes=gpu.total_bytes,
            certainty="assumed",
            source="the lowest that torch printed on such devices; drivers differ by some hundred MiB",
        ),
        context=Figure(nbytes=_CONTEXT_BYTES, certainty="assumed", source=_CONTEXT_SOURCE),
        cublas=cublas_workspace(gpu.capability, config=cublas_workspace_config, torch_version=version),
        cublaslt=cublaslt_workspace(
            size_kib=cublaslt_workspace_size, unified=unified_workspace, torch_version=version
        ),
        kernels=GpuKernels(
            capability=gpu.capability, cudnn_version=cudnn_version, torch_version=torch_version
        ),
    )


def cublas_workspace(
    capability: tuple[int, int], *, config: str | None = None, torch_version: TorchVersion | None = None
) -> Figure:
    """The workspace that torch gives cuBLAS, for each handle and stream that products are done on.

    Args:
        capability: of the GPU; Hopper's is (9, 0).
        config: as CUBLAS_WORKSPACE_CONFIG holds it: ``:SIZE:COUNT`` in KiB, several times; ``None`` where
            it isn't set.
        torch_version: whose rules count; ``None`` for the installed one's.

    Raises:
        UsageError: the setting isn't one.
    """
    if config is None:
        return _own_cublas_workspace(capability, torch_version or installed_torch())
    parts = re.findall(r":(\d+):(\d+)", config)
    if not parts:
        raise UsageError(
            f"CUBLAS_WORKSPACE_CONFIG: '{config}' is no setting; expected :SIZE:COUNT, in KiB, once or more",
            hint="Examples are :4096:8 and :4096:2:16:8.",
        )
    return Figure(
        nbytes=sum(int(size) * 1024 * int(count) for size, count in parts),
        certainty="exact",
        source=f"CUBLAS_WORKSPACE_CONFIG={config}",
    )


def _own_cublas_workspace(capability: tuple[int, int], version: TorchVersion) -> Figure:
    """32 MiB for (9, 0) alone in torch 2.11; since 2.12 for all that are called Hopper and Blackwell."""
    before, since = capability == (9, 0), capability[0] in (9, 10, 12)
    large = before if version <= (2, 11) else since
    source = f"{'32 MiB' if large else ':4096:2:16:8'} on {_dotted(capability)} (torch, CublasHandlePool.cpp)"
    known = before == since or version <= _LAST_READ
    return Figure(
        nbytes=_LARGE_WORKSPACE_BYTES if large else _OTHER_WORKSPACE_BYTES,
        certainty="exact" if known else "assumed",
        source=source if known else f"{source}, supposed to be in torch {_dotted(version)} as in 2.13",
    )


def cublaslt_workspace(
    *,
    size_kib: str | None = None,
    unified: bool | None = None,
    torch_version: TorchVersion | None = None,
) -> Figure:
    """The workspace that torch gives cuBLASLt beside cuBLAS's.

    Args:
        size_kib: as CUBLASLT_WORKSPACE_SIZE holds it; torch takes its own where that is no number.
        unified: as TORCH_CUBLASLT_UNIFIED_WORKSPACE says; ``None`` where it says nothing.
        torch_version: whose rules count; ``None`` for the installed one's.
    """
    version = torch_version or installed_torch()
    known = unified is not None or version <= _LAST_READ
    supposed = "" if known else f", supposed to be in torch {_dotted(version)} as in 2.13"
    if version > (2, 11) if unified is None else unified:
        source = f"shares that of cuBLAS (torch, CublasHandlePool.cpp{supposed})"
        return Figure(nbytes=0, certainty="exact" if known else "assumed", source=source)
    read = re.match(r"\s*\+?(\d+)", size_kib or "")
    if read is None:
        source = "1 MiB (torch, CublasHandlePool.cpp) where it doesn't share that of cuBLAS"
        return Figure(nbytes=_LT_WORKSPACE_KIB * 1024, certainty="exact", source=source)
    source = f"CUBLASLT_WORKSPACE_SIZE={size_kib}, in KiB"
    return Figure(nbytes=int(read[1]) * 1024, certainty="exact", source=source)


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"
