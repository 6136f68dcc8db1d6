"""What a run is estimated for: the operators of a kind of device, and how much memory there is."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from peprof.devices import CpuDevice
from peprof.errors import UsageError
from peprof.estimation.gpu_memory import GpuMemory, memory_of
from peprof.estimation.kernels import Kind

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


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
    """The device of that name.

    Raises:
        UsageError: none is known by it.
    """
    kind = KINDS.get(name.strip().lower())
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
        UsageError: it is no amount above 0.

    Example:
        >>> read_bytes("24GB"), read_bytes("1.5 GiB")
        (24000000000, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit is not None else 0
    if size <= 0:
        raise UsageError(
            f"'{text}' is no amount of memory",
            hint="Write for example 24GB (10^9 bytes each) or 24GiB (2^30).",
        )
    return size
