"""A device's pool as this process's environment sets it up: whose kernels run, and what can be simulated."""

from __future__ import annotations

import os
from dataclasses import dataclass

from peprof.errors import UsageError
from peprof.estimation.allocator_settings import AllocatorSettings, parse_allocator_settings
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
        kernels_known: whether those that run are known, and not supposed.
    """

    gpu: GpuMemory | None = None
    settings: AllocatorSettings | None = None
    assumptions: tuple[str, ...] = ()
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
        name = device_name or "the GPU"
        words = f"attention's kernels as on an Ampere, as {name} isn't known"
        return PoolHere(assumptions=(words,), kernels_known=False)
    gpu = memory_of(
        known.name,
        cublas_workspace_config=os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        cublaslt_workspace_size=os.environ.get("CUBLASLT_WORKSPACE_SIZE"),
        unified_workspace=_YES_AND_NO.get(os.environ.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "")),
    )
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    text = next((found for name in names if (found := os.environ.get(name))), "")
    try:
        settings = parse_allocator_settings(text)
    except UsageError as error:
        return PoolHere(
            gpu=gpu, assumptions=(f"nothing of the allocator, which isn't simulated: {error.message}",)
        )
    return PoolHere(gpu=gpu, settings=settings, assumptions=_not_simulated(settings))


def _not_simulated(settings: AllocatorSettings) -> tuple[str, ...]:
    """What of the settings estimates leave out, in words: their pools have room for all."""
    share = settings.per_process_memory_fraction
    if share == 1:
        return ()
    return (f"room for all in the pool, though per_process_memory_fraction:{share:g} limits it",)
