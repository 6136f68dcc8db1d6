"""What is asked of NVIDIA's management library, on a stand-in; its words are those of nvidia-ml-py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peprof.devices import DeviceBytes
from peprof.devices.nvml import device_bytes, driver_version, energy_j, why_no_energy
from tests.meters.fake_nvml import UUID, FakeTime
from tests.meters.fake_nvml import FakeNvml as PlayedNvml

MIB = 2**20


class FakeNvml:
    """One GPU with 900 MiB in use."""

    NVMLError = type("NVMLError", (Exception,), {})
    nvmlMemory_v2 = 0x02000028

    def __init__(self, processes: dict[int, int | None] | None, *, broken: bool = False) -> None:
        self.processes, self.broken, self.sessions = processes, broken, 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert self.sessions == 1
        if uuid != "GPU-1234":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceIsMigDeviceHandle(self, handle: str) -> bool:
        return False

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        assert handle == "handle"
        if self.processes is None:
            raise self.NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        assert handle == "handle"
        return 12_345_678  # millijoules

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int) -> SimpleNamespace:
        assert (handle, version) == ("handle", self.nvmlMemory_v2)
        return SimpleNamespace(used=900 * MIB)


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        ({6: 1, 7: 300 * MIB}, DeviceBytes(used_bytes=300 * MIB, of="process")),
        ({7: None}, DeviceBytes(used_bytes=900 * MIB, of="device")),  # a driver that doesn't tell
        ({6: 1}, DeviceBytes(used_bytes=900 * MIB, of="device")),  # a container: numbers of the host
        ({7: 90 * MIB}, DeviceBytes(used_bytes=900 * MIB, of="device")),  # such a number, by chance ours
        ({}, DeviceBytes(used_bytes=900 * MIB, of="device")),
        (None, DeviceBytes(used_bytes=900 * MIB, of="device")),
    ],
)
def test_used_bytes_are_the_processs_own_where_they_are_told(
    processes: dict[int, int | None] | None, expected: DeviceBytes
) -> None:
    nvml = FakeNvml(processes)
    assert device_bytes("GPU-1234", 7, at_least=100 * MIB, nvml=nvml) == expected
    assert nvml.sessions == 0


def test_what_cannot_be_known_is_none() -> None:
    assert device_bytes("GPU-other", 7, nvml=(nvml := FakeNvml({}))) is None
    assert nvml.sessions == 0
    assert device_bytes("GPU-1234", 7, nvml=FakeNvml({}, broken=True)) is None
    assert driver_version(FakeNvml({}, broken=True)) is None
    assert energy_j("GPU-other", nvml=FakeNvml({})) is None
    assert energy_j("GPU-1234", nvml=FakeNvml({}, broken=True)) is None
    assert driver_version(FakeNvml({})) == "580.1"


def test_energy_is_told_in_joules() -> None:
    nvml = FakeNvml({})
    assert energy_j("GPU-1234", nvml=nvml) == 12_345.678
    assert why_no_energy("GPU-1234", nvml=nvml) is None
    assert nvml.sessions == 0


def test_a_part_of_a_gpu_has_memory_but_no_energy() -> None:
    """CUDA tells a part's number without saying that it is one."""
    nvml = PlayedNvml(FakeTime(), part=True, processes={7: 30 * MIB})
    assert device_bytes(UUID, 7, nvml=nvml) == DeviceBytes(used_bytes=30 * MIB, of="process")
    assert device_bytes(UUID, 8, nvml=nvml) == DeviceBytes(used_bytes=90 * MIB, of="device")
    assert energy_j(UUID, nvml=nvml) is None
    assert "part of a GPU (MIG)" in str(why_no_energy(UUID, nvml=nvml))
    assert nvml.sessions == 0


@pytest.mark.parametrize(("code", "words"), [(9, "driver isn't loaded"), (4, "needs permission")])
def test_why_there_is_no_energy(code: int, words: str) -> None:
    nvml = PlayedNvml(FakeTime(), faults=lambda function, t: code if function == "nvmlInit" else None)
    assert energy_j(UUID, nvml=nvml) is None
    assert words in str(why_no_energy(UUID, nvml=nvml))
