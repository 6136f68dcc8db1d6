"""What differs between devices: clocks, memory counters, names."""

from __future__ import annotations

import torch

from peprof.devices.base import (
    Device,
    DeviceBytes,
    DeviceFacts,
    Mark,
    PeakBytes,
    PeakMeter,
    PhaseBytes,
    PoolBytes,
    StepBytes,
    StepTime,
    no_mark,
)
from peprof.devices.cpu import CpuDevice
from peprof.devices.cuda import CudaDevice
from peprof.devices.memory_errors import OutOfMemory, as_out_of_memory
from peprof.errors import DeviceError

__all__ = [
    "CpuDevice",
    "CudaDevice",
    "Device",
    "DeviceBytes",
    "DeviceFacts",
    "Mark",
    "OutOfMemory",
    "PeakBytes",
    "PeakMeter",
    "PhaseBytes",
    "PoolBytes",
    "StepBytes",
    "StepTime",
    "as_out_of_memory",
    "no_mark",
    "open_device",
    "resolve_kind",
]


def resolve_kind(name: str) -> str:
    """``auto`` -> ``cuda`` where there is one, else ``cpu``; other names are checked.

    Raises:
        DeviceError: the device isn't there, or its name isn't known.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise DeviceError(f"unknown device '{name}'", hint="Choose cpu, cuda, cuda:N or auto.")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise DeviceError(
                "no CUDA device can be used here (torch.cuda.is_available() is false)",
                hint="Choose --device cpu, or install a CUDA build of torch and a driver.",
            )
        if index and int(index) >= torch.cuda.device_count():
            raise DeviceError(
                f"there is no device {name}: torch sees {torch.cuda.device_count()}",
                hint="See nvidia-smi, and CUDA_VISIBLE_DEVICES.",
            )
    return name


def open_device(name: str) -> Device:
    """The device of a resolved name: ``cpu``, ``cuda`` or ``cuda:N``."""
    resolved = resolve_kind(name)
    kind, _, index = resolved.partition(":")
    return CudaDevice(int(index or 0)) if kind == "cuda" else CpuDevice()
