"""What NVIDIA's management library tells of a device. Unavailable is ``None``, never 0.

Devices go by UUID: the library's ordinals aren't torch's. The library comes in as an argument so that this
file is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pynvml

from peprof.devices.base import DeviceBytes
from peprof.meters import nvml_errors, nvml_handle


@contextmanager
def _session(nvml: ModuleType | Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def driver_version(nvml: ModuleType | Any = pynvml) -> str | None:
    """The NVIDIA driver's version; ``None`` where its management library doesn't answer."""
    try:
        with _session(nvml):
            version = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


def device_bytes(
    uuid: str, pid: int, *, at_least: int = 0, nvml: ModuleType | Any = pynvml
) -> DeviceBytes | None:
    """Used memory of a device: a process's own where it is told, else all that is used.

    In a container the library names processes by numbers of the host, or none at all; on some drivers a
    process has no figure. Then processes can't be told apart.

    Args:
        uuid: as the library names the device: ``GPU-...``.
        pid: of the process.
        at_least: what the process is known to hold: a lower figure is that of another one, which has its
            number on the host.
        nvml: the library.
    """
    try:
        with _session(nvml):
            handle = nvml_handle.find(nvml, uuid).own
            own = _process_bytes(nvml, handle, pid)
            if own is not None and own >= at_least:
                return DeviceBytes(used_bytes=own, of="process")
            # The second version leaves out what the driver keeps for itself, as nvidia-smi does.
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2).used)
            return DeviceBytes(used_bytes=used, of="device")
    except nvml.NVMLError:
        return None


def energy_j(uuid: str, *, nvml: ModuleType | Any = pynvml) -> float | None:
    """Joules that a device has taken since its driver was loaded; ``None`` where that isn't told.

    Known from the Volta generation on. All that uses the device counts.

    Args:
        uuid: as the library names the device: ``GPU-...``.
        nvml: the library.
    """
    found = _energy(uuid, nvml)
    return found if isinstance(found, float) else None


def why_no_energy(uuid: str, *, nvml: ModuleType | Any = pynvml) -> str | None:
    """Why ``energy_j`` is ``None`` for a device; ``None`` where it isn't."""
    found = _energy(uuid, nvml)
    return found if isinstance(found, str) else None


def _energy(uuid: str, nvml: ModuleType | Any) -> float | str:
    """Joules, or why there are none."""
    try:
        with _session(nvml):
            handle = nvml_handle.find(nvml, uuid)
            if handle.divided:
                return nvml_handle.SLICE_HAS_NO_ENERGY
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle.whole)) / 1e3
    except nvml.NVMLError as error:
        return f"NVIDIA's management library doesn't tell this device's energy: {nvml_errors.why(error)}"


def _process_bytes(nvml: ModuleType | Any, handle: Any, pid: int) -> int | None:
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return None
    found = [process.usedGpuMemory for process in processes if process.pid == pid]
    return int(found[0]) if found and found[0] is not None else None
