"""A device of NVIDIA's management library, found by UUID; and whether it is only a part of one (MIG).

The library comes in as an argument so that this is tested without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from peprof.meters import nvml_errors

SLICE_HAS_NO_ENERGY = (
    "the process has a part of a GPU (MIG), which has no counter of its own; the GPU's counts all parts"
)
SLICE_HAS_NO_POWER = "the process has a part of a GPU (MIG); the GPU's power is that of all parts"


@dataclass(frozen=True, kw_only=True)
class Handle:
    """How the library knows a device.

    Args:
        own: what the process uses: the whole GPU, or a part of it.
        whole: the GPU itself, which has clocks and a temperature.
        divided: the GPU is divided into parts (MIG): its energy and power are those of all parts.
    """

    own: Any
    whole: Any
    divided: bool


def find(nvml: ModuleType | Any, uuid: str) -> Handle:
    """The device with a UUID.

    CUDA tells a part's own number (MIG) as it does a GPU's, without saying which it is: both are tried.

    Args:
        nvml: the library, in a session.
        uuid: ``GPU-...`` or ``MIG-...``.

    Raises:
        NVMLError: (the library's) there is none, or it doesn't answer.
    """
    try:
        own = nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        if nvml_errors.code_of(error) != nvml_errors.NOT_FOUND or not uuid.startswith("GPU-"):
            raise
        own = nvml.nvmlDeviceGetHandleByUUID("MIG-" + uuid.removeprefix("GPU-"))
    if _is_part(nvml, own):
        return Handle(own=own, whole=nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(own), divided=True)
    return Handle(own=own, whole=own, divided=_is_divided(nvml, own))


def _is_part(nvml: ModuleType | Any, handle: Any) -> bool:
    try:
        found = nvml.nvmlDeviceIsMigDeviceHandle(handle)
    except nvml.NVMLError:
        return False  # a driver or a card that knows no parts
    return bool(getattr(found, "value", found))


def _is_divided(nvml: ModuleType | Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False
    return bool(current)
