"""A stand-in for NVIDIA's management library that plays a session: power over time, a counter, and faults.

Constants, errors and their classes are those of nvidia-ml-py. ``python -m`` of the sampler's process can
import this file as its library: the functions at the end play a GPU of 200 W on the machine's own clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

UUID = "GPU-12345678"
MIB = 2**20


@dataclass
class FakeTime:
    """A clock that moves when somebody sleeps."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class FakeNvml:
    """One GPU.

    Args:
        clock: seconds.
        energy_j: (seconds since the beginning) -> joules taken since the driver was loaded.
        power_w: (seconds since the beginning) -> watts.
        period_s: from one move of the counter to the next.
        faults: (function, seconds since the beginning) -> the library's error, or ``None``.
        processes: pid -> bytes.
        part: the UUID is that of a part of a GPU (MIG).
        divided: the GPU is divided, and the UUID is its own.
    """

    clock: Callable[[], float]
    energy_j: Callable[[float], float] = lambda t: 5000.0 + 200.0 * t
    power_w: Callable[[float], float] = lambda t: 200.0
    period_s: float = 0.1
    faults: Callable[[str, float], int | None] = lambda function, t: None
    processes: dict[int, int | None] = field(default_factory=dict)
    reasons: Callable[[float], int] = lambda t: 0
    violation_ns: Callable[[int, float], int] = lambda policy, t: 0
    part: bool = False
    divided: bool = False
    sessions: int = 0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin_s = self.clock()

    def __getattr__(self, name: str) -> Any:  # what isn't played: constants, errors
        if name.startswith("NVML_") or name in ("NVMLError", "nvmlMemory_v2"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _at(self, function: str) -> float:
        """Checks a call: seconds since the beginning."""
        self.asked.append(function)
        t = self.clock() - self.begin_s
        code = self.faults(function, t)
        if code is not None:
            raise pynvml.NVMLError(code)
        assert self.sessions > 0 or function == "nvmlInit", f"{function} outside of a session"
        return t

    def nvmlInit(self) -> None:
        self._at("nvmlInit")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self._at("nvmlShutdown")
        self.sessions -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._at("nvmlDeviceGetHandleByUUID")
        if uuid != (UUID.replace("GPU-", "MIG-") if self.part else UUID):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "part" if self.part else "gpu"

    def nvmlDeviceIsMigDeviceHandle(self, handle: str) -> Any:
        self._at("nvmlDeviceIsMigDeviceHandle")
        return pynvml.c_uint(int(handle == "part"))  # so does the real one

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: str) -> str:
        assert handle == "part"
        return "gpu"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        self._at("nvmlDeviceGetMigMode")
        return [int(self.divided), int(self.divided)]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        t = self._at("nvmlDeviceGetTotalEnergyConsumption")
        assert handle == "gpu"
        moved_s = (t + 1e-9) // self.period_s * self.period_s
        return round(self.energy_j(moved_s) * 1e3)

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[Any]:
        assert (handle, fields) == ("gpu", [pynvml.NVML_FI_DEV_POWER_INSTANT])
        try:
            watts, code = self.power_w(self._at("nvmlDeviceGetFieldValues")), 0
        except pynvml.NVMLError as error:  # the real one gives a fault in the field
            watts, code = 0.0, error.value
        value = SimpleNamespace(uiVal=round(watts * 1e3), ullVal=7)
        return [SimpleNamespace(nvmlReturn=code, valueType=pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, value=value)]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return round(self.power_w(self._at("nvmlDeviceGetPowerUsage")) * 1e3)

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int) -> Any:
        self._at("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(used=(90 if handle == "part" else 900) * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        self._at("nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._at("nvmlDeviceGetUtilizationRates")
        if handle == "part":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=97, memory=41)

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:
        self._at("nvmlDeviceGetClockInfo")
        assert handle == "gpu"
        return {pynvml.NVML_CLOCK_SM: 1410, pynvml.NVML_CLOCK_MEM: 1215}[which]

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        self._at("nvmlDeviceGetTemperatureV")
        assert (handle, sensor) == ("gpu", pynvml.NVML_TEMPERATURE_GPU)
        return 61

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        self._at("nvmlDeviceGetTemperature")
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons(self._at("nvmlDeviceGetCurrentClocksEventReasons"))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons(self._at("nvmlDeviceGetCurrentClocksThrottleReasons"))

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> Any:
        t = self._at("nvmlDeviceGetViolationStatus")
        return SimpleNamespace(referenceTime=round(t * 1e6), violationTime=self.violation_ns(policy, t))


_EPOCH_S = 0.0  # 'perf_counter' of a machine that was started, so that the sampler's process needs no state
_played: dict[str, FakeNvml] = {}


def _gpu() -> FakeNvml:
    if not _played:
        _played["gpu"] = FakeNvml(clock=time.perf_counter)
        _played["gpu"].begin_s = _EPOCH_S
        if os.environ.get("FAKE_NVML") == "crash":
            _played["gpu"].faults = _crash_after_a_second(time.perf_counter())
    return _played["gpu"]


def _crash_after_a_second(begin_s: float) -> Callable[[str, float], int | None]:
    def fault(function: str, t: float) -> int | None:
        if t > begin_s + 1.0:
            raise RuntimeError("the library has crashed")
        return None

    return fault


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_gpu(), name)
