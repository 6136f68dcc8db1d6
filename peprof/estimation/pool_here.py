"""A device's pool as this process's environment sets it up: whose kernels run, and what can be simulated.

What the process knows of its libraries and of the device that it has is taken from it. It may be one that
leaves the device to others: then nothing is asked that would make a context there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from peprof.errors import UsageError
from peprof.estimation.allocator_settings import AllocatorSettings, parse_allocator_settings
from peprof.estimation.attention_kernels import AMPERES, CUDNN_OF_TORCH, GpuKernels
from peprof.estimation.gpu_memory import GpuMemory, memory_of
from peprof.estimation.kernels import Kind
from peprof.gpus.known import gpu_of_device

_YES_AND_NO = {"1": True, "0": False}
"""What torch takes in a variable that says yes or no; anything else says nothing."""


@dataclass(frozen=True, kw_only=True)
class PoolHere:
    """Whose kernels run, and how its pool is set up.

    Args:
        gpu: ``None`` for none in particular.
        settings: ``None`` where its pool can't be simulated.
        assumptions: in words.
        kernels: what decides on those of attention; where there is a ``gpu``, the same as its own.
        kernels_known: whether those that run are known, and not supposed.
    """

    gpu: GpuMemory | None = None
    settings: AllocatorSettings | None = None
    assumptions: tuple[str, ...] = ()
    kernels: GpuKernels = AMPERES
    kernels_known: bool = True


def pool_here(kind: Kind, device_name: str | None) -> PoolHere:
    """The pool of a device, which is a known GPU or has none that could be simulated.

    Args:
        kind: of the device.
        device_name: as its vendor names it; ``None`` where nobody told.
    """
    if kind == "cpu":
        return PoolHere()
    known = gpu_of_device(device_name) if device_name is not None else None
    if known is None:
        return _of_unknown(device_name or "the GPU")
    gpu = memory_of(
        known.name,
        cublas_workspace_config=os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        cublaslt_workspace_size=os.environ.get("CUBLASLT_WORKSPACE_SIZE"),
        unified_workspace=_YES_AND_NO.get(os.environ.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "")),
        cudnn_version=_cudnn_here(),
    )
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # as torch's part for CUDA asks for them
    text = next((found for name in names if (found := os.environ.get(name))), "")
    try:
        settings = parse_allocator_settings(text)
    except UsageError as error:
        words = f"nothing of the allocator, which isn't simulated: {error.message}"
        return PoolHere(gpu=gpu, kernels=gpu.kernels, assumptions=(words,))
    return PoolHere(gpu=gpu, kernels=gpu.kernels, settings=settings, assumptions=_not_simulated(settings))


def _of_unknown(name: str) -> PoolHere:
    """A GPU that isn't known can still say its capability, to a process that uses it."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        capability = torch.cuda.get_device_capability()
        return PoolHere(kernels=GpuKernels(capability=capability, cudnn_version=_cudnn_here()))
    words = f"attention's kernels as on an Ampere, as {name} isn't known"
    return PoolHere(
        kernels=GpuKernels(cudnn_version=_cudnn_here()), assumptions=(words,), kernels_known=False
    )


def _cudnn_here() -> int | None:
    """That of this torch, which needs no device for it; what torch comes with, where it has no CUDA."""
    if torch.version.cuda is None:
        return CUDNN_OF_TORCH
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _not_simulated(settings: AllocatorSettings) -> tuple[str, ...]:
    """What of the settings estimates leave out, in words: their pools have room for all."""
    share = settings.per_process_memory_fraction
    if share == 1:
        return ()
    return (f"room for all in the pool, though per_process_memory_fraction:{share:g} limits it",)
