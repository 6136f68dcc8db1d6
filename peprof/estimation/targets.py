"""What a run is estimated for: the operators of a kind of device, and how much memory there is.

A name is looked up without torch, so that a wrong one is told at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from peprof.errors import UsageError
from peprof.estimation.gpu_memory import GpuMemory, memory_of

if TYPE_CHECKING:
    from peprof.estimation.kernels import Kind

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_LEAST_BYTES = 2**20
"""Below it a number without a unit wasn't meant in bytes."""
_MOST_BYTES = 2**60


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device to be estimated for.

    Args:
        name: as the user knows it.
        kind: whose operators run.
        memory_bytes: for tensors and what an allocator adds; ``None`` where only the kind is known.
        gpu: its memory, if it is a known GPU.
    """

    name: str
    kind: Kind
    memory_bytes: int | None = None
    gpu: GpuMemory | None = None


KINDS: dict[str, Kind] = {"cpu": "cpu", "cuda": "cuda"}


def find_target(name: str) -> Target:
    """The device of that name; of a GPU that may be here (``auto``, ``cuda:1``) the kind alone is taken.

    Raises:
        UsageError: none is known by it.
    """
    kind = KINDS.get(re.sub(r"^(auto|cuda:\d+)$", "cuda", name.strip().lower()))
    if kind is not None:
        return Target(name=kind, kind=kind)
    gpu = memory_of(name)
    return Target(name=gpu.gpu.name, kind="cuda", memory_bytes=gpu.capacity_bytes, gpu=gpu)


def memory_here(kind: str, name: str) -> int | None:
    """The memory of the device that runs would use here.

    Args:
        kind: ``cpu`` or ``cuda``.
        name: as the user named it: ``auto``, ``cuda``, ``cuda:1``.

    Returns:
        Of several GPUs the smallest; ``None`` where there is none.
    """
    import torch

    from peprof.devices import CpuDevice

    if kind == "cpu":
        return CpuDevice().memory_bytes()
    if not torch.cuda.is_available():
        return None
    index = name.partition(":")[2]
    chosen = [int(index)] if index else range(torch.cuda.device_count())
    return min(int(torch.cuda.get_device_properties(number).total_memory) for number in chosen)


def read_bytes(text: str) -> int:
    """``24GB``, ``24 GiB``, ``8000000000`` -> bytes; GB is 10^9, GiB is 2^30.

    Raises:
        UsageError: it is no amount above 0, or a small number that lacks its unit.

    Example:
        >>> read_bytes("24GB"), read_bytes("1.5 GiB")
        (24000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(Decimal(found[1]) * unit) if found and unit is not None else 0
    if not 0 < size <= _MOST_BYTES:
        raise UsageError(
            f"'{text[:80]}' is no amount of memory",
            hint="Write for example 24GB (10^9 bytes each) or 24GiB (2^30).",
        )
    if found is not None and not found[2] and size < _LEAST_BYTES:
        raise UsageError(
            f"{found[1]} what?", hint=f"Write {found[1]}GB (10^9 bytes each) or {found[1]}GiB (2^30)."
        )
    return size
