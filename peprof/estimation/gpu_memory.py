"""What of a named GPU's memory is there for a step: less what its driver and torch's libraries take.

Each figure says where it comes from, and how well it is known: ``exact`` where it follows from torch's source
or was printed by torch, ``assumed`` where it was seen elsewhere and will differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from peprof.errors import UsageError
from peprof.gpus.known import Gpu, gpu_named

Certainty = Literal["exact", "simulated", "assumed"]
"""How well a figure is known: by rule, by simulating the allocator, or from what was seen elsewhere."""

_MIB = 2**20
_CONTEXT_BYTES = 512 * _MIB
_CONTEXT_SOURCE = (
    "a context with the kernels of a small step; 274 MiB (pytorch/pytorch#86509), 424 MiB (A100), 426 MiB "
    "(RTX 6000 Ada, unslothai/unsloth-zoo#1053) and 612 MiB (H200) were seen, depending on driver and kernels"
)
_HOPPER_WORKSPACE_BYTES = 4096 * 8 * 1024
_OTHER_WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
_LT_WORKSPACE_BYTES = 1024 * 1024


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
        cublas: the workspace that cuBLAS gets from the pool with the first product, and keeps.
        cublaslt: that of cuBLASLt, where it has its own.
    """

    gpu: Gpu
    total: Figure
    context: Figure
    cublas: Figure
    cublaslt: Figure

    @property
    def capacity_bytes(self) -> int:
        """What there is for the pool, workspaces included."""
        return self.total.nbytes - self.context.nbytes

    @property
    def workspaces_bytes(self) -> tuple[int, ...]:
        """What libraries hold of the pool all the time, a block each."""
        return tuple(figure.nbytes for figure in (self.cublas, self.cublaslt) if figure.nbytes)


def memory_of(
    name: str, *, cublas_workspace_config: str | None = None, unified_workspace: bool = True
) -> GpuMemory:
    """The memory of a GPU by its name.

    Args:
        name: as torch or people call it.
        cublas_workspace_config: as CUBLAS_WORKSPACE_CONFIG holds it there; ``None`` where it isn't set.
        unified_workspace: cuBLASLt uses cuBLAS's workspace, as in torch's own builds from 2.11 to 2.13.

    Raises:
        UsageError: the GPU isn't known, or the setting isn't one.

    Example:
        >>> memory_of("H100").cublas.nbytes, memory_of("A100 40GB").cublas.nbytes
        (33554432, 8519680)
    """
    gpu = gpu_named(name)
    return GpuMemory(
        gpu=gpu,
        total=Figure(
            nbytes=gpu.total_bytes,
            certainty="assumed",
            source="the lowest that torch printed on such devices; drivers differ by some hundred MiB",
        ),
        context=Figure(nbytes=_CONTEXT_BYTES, certainty="assumed", source=_CONTEXT_SOURCE),
        cublas=cublas_workspace(gpu.capability, config=cublas_workspace_config),
        cublaslt=_cublaslt_workspace(unified=unified_workspace),
    )


def cublas_workspace(capability: tuple[int, int], *, config: str | None = None) -> Figure:
    """The workspace that torch gives cuBLAS, for each handle and stream that products are done on.

    Args:
        capability: of the GPU; Hopper's is (9, 0).
        config: as CUBLAS_WORKSPACE_CONFIG holds it: ``:SIZE:COUNT`` in KiB, several times; ``None`` where
            it isn't set.

    Raises:
        UsageError: the setting isn't one.
    """
    if config is None:
        hopper = capability == (9, 0)
        nbytes = _HOPPER_WORKSPACE_BYTES if hopper else _OTHER_WORKSPACE_BYTES
        return Figure(
            nbytes=nbytes,
            certainty="exact",
            source=f"{'32 MiB on Hopper' if hopper else ':4096:2:16:8'} (torch, CublasHandlePool.cpp)",
        )
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


def _cublaslt_workspace(*, unified: bool) -> Figure:
    if unified:
        return Figure(nbytes=0, certainty="exact", source="shares that of cuBLAS (torch's builds)")
    return Figure(
        nbytes=_LT_WORKSPACE_BYTES,
        certainty="exact",
        source="1 MiB (torch, CublasHandlePool.cpp) where TORCH_CUBLASLT_UNIFIED_WORKSPACE=0",
    )
