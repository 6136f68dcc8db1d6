"""How much of a GPU's memory there is; without torch, so that the process that asks for it needs none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuRoom:
    """Memory of a GPU.

    Args:
        free_bytes: that nobody holds now; what this process's context takes is gone from it.
        total_bytes: of the GPU, by its driver.
    """

    free_bytes: int
    total_bytes: int
