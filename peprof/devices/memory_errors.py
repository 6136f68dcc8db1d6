"""Running out of memory looks different everywhere; here it becomes one thing."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_CUDA = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]iB)")
_CPU = re.compile(r"you tried to allocate (\d+) bytes")
# torch.OutOfMemoryError comes from torch's own allocator only. The driver (asynchronously too) and libraries
# that allocate for themselves have words of their own; on ROCm the prefixes are HIP's. On a part of a GPU
# (MIG) the allocator fails in asking for the device's state when it is about to say so (pytorch#112377).
_ACCELERATOR = re.compile(
    r"\b(CUDA|HIP) out of memory"
    r"|\b(CUDA|HIP) (driver |runtime )?error: out of memory"
    r"|\b(CUBLAS|CUBLASLT|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS)_STATUS_ALLOC_FAILED\b"
    r"|\bCUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED\b"
    r"|\bNVML_SUCCESS == .*CUDACachingAllocator\.cpp"
)


@dataclass(frozen=True, kw_only=True)
class OutOfMemory:
    """Memory ran out.

    Args:
        requested_bytes: what was asked for (rounded to the message's two decimals on CUDA); ``None`` if the
            error doesn't say.
    """

    requested_bytes: int | None


def as_out_of_memory(error: BaseException) -> OutOfMemory | None:
    """What an error says about memory that ran out; ``None`` if it is about something else."""
    text = str(error)
    # torch.AcceleratorError is a RuntimeError too, and also says of other things that they went wrong.
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _ACCELERATOR.search(text)
    ):
        found = _CUDA.search(text)
        return OutOfMemory(
            requested_bytes=round(float(found[1]) * _UNITS[found[2]]) if found is not None else None
        )
    if isinstance(error, MemoryError):
        return OutOfMemory(requested_bytes=None)
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text:
        found = _CPU.search(text)
        return OutOfMemory(requested_bytes=int(found[1]) if found is not None else None)
    return None
