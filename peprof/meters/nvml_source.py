"""Readings of a GPU from NVIDIA's management library, through restarts of its driver.

What the library doesn't tell is missing with its reason, never 0. Energy and power are those of the whole
GPU, by whoever uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import pynvml

from peprof.meters import nvml_errors, nvml_handle
from peprof.meters.joules import JoulesCounter
from peprof.meters.nvml_handle import SLICE_HAS_NO_ENERGY, SLICE_HAS_NO_POWER, Handle
from peprof.meters.reading import FIGURES, PowerKind, Reading
from peprof.meters.slowdowns import POLICIES

COUNTER_RANGES_J = (2**32 / 1e3, 2**64 / 1e3)
"""Where a counter of millijoules would go round, if a driver kept it in so few bits."""

MOST_WATTS = 5_000.0
"""More than a single GPU takes."""

REOPEN_AFTER_S = 0.5
"""Between attempts to open a session anew, while a driver is away."""

_VALUE_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
Told = TypeVar("Told")


class _LostError(Exception):
    """The session has ended under us; the message says why."""


class NvmlSource:
    """Readings of one device.

    Args:
        uuid: ``GPU-...`` or ``MIG-...``.
        pid: of the process whose memory is asked for; ``None``: not asked for.
        library: ``pynvml``, or what stands in for it in a test.
        clock: seconds.
    """

    def __init__(
        self,
        uuid: str,
        pid: int | None = None,
        *,
        library: ModuleType | Any = pynvml,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._uuid, self._pid, self._nvml, self._clock = uuid, pid, library, clock
        self._handle: Handle | None = None
        self._open = False
        self._opened_s = -REOPEN_AFTER_S
        self._why_closed = "the management library wasn't asked yet"
        self._joules = JoulesCounter(COUNTER_RANGES_J, most_watts=MOST_WATTS)
        self._never: dict[str, str] = {}
        self._missing: dict[str, str] = {}

    def read(self, *, everything: bool) -> Reading:
        """What the device tells now.

        Args:
            everything: all figures, not only energy and power.
        """
        self._missing = {}
        try:
            handle = self._session()
            return self._told(handle, everything=everything)
        except _LostError as lost:
            self.close()
            self._why_closed = str(lost)
            self._joules.forget()
            asked = FIGURES if everything else FIGURES[:2]
            return Reading(
                at_s=self._clock(), counter=self._joules.life, missing=dict.fromkeys(asked, str(lost))
            )

    def close(self) -> None:
        """Ends the library's session."""
        self._handle = None
        if self._open:
            self._open = False
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError:
                return  # it had ended by itself

    def _session(self) -> Handle:
        if self._handle is not None:
            return self._handle
        if self._clock() - self._opened_s < REOPEN_AFTER_S:
            raise _LostError(self._why_closed)
        self._opened_s = self._clock()
        self._never = {}
        try:
            self._nvml.nvmlInit()
            self._open = True
            self._handle = nvml_handle.find(self._nvml, self._uuid)
        except self._nvml.NVMLError as error:
            raise _LostError(nvml_errors.why(error)) from error
        return self._handle

    def _told(self, handle: Handle, *, everything: bool) -> Reading:
        before_s = self._clock()
        energy_j = self._energy_j(handle)
        at_s = (before_s + self._clock()) / 2
        if energy_j is not None:
            self._joules.look(energy_j, at_s)
        watts = self._power(handle)
        quick: dict[str, Any] = {
            "at_s": at_s,
            "counter": self._joules.life,
            "energy_j": self._joules.total_j if energy_j is not None else None,
            "power_w": watts[0] if watts is not None else None,
            "power_kind": watts[1] if watts is not None else None,
        }
        slow = self._state(handle) if everything else {}
        return Reading(**quick, **slow, missing=self._missing)

    def _energy_j(self, handle: Handle) -> float | None:
        if handle.divided:
            self._missing["energy_j"] = SLICE_HAS_NO_ENERGY
            return None
        millijoules = self._ask(
            "energy_j", lambda: int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle.whole))
        )
        return millijoules / 1e3 if millijoules is not None else None

    def _power(self, handle: Handle) -> tuple[float, PowerKind] | None:
        if handle.divided:
            self._missing["power_w"] = SLICE_HAS_NO_POWER
            return None
        instant = self._ask("instant power", lambda: self._instant_milliwatts(handle))
        if instant is not None:
            self._missing.pop("instant power", None)
            return instant / 1e3, "instant"
        self._missing.pop("instant power", None)
        usage = self._ask("power_w", lambda: int(self._nvml.nvmlDeviceGetPowerUsage(handle.whole)))
        return (usage / 1e3, "usage") if usage is not None else None

    def _instant_milliwatts(self, handle: Handle) -> int:
        nvml = self._nvml
        (told,) = nvml.nvmlDeviceGetFieldValues(handle.whole, [nvml.NVML_FI_DEV_POWER_INSTANT])
        if told.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(told.nvmlReturn)
        return int(getattr(told.value, _VALUE_FIELDS[told.valueType]))

    def _state(self, handle: Handle) -> dict[str, Any]:
        """What is looked at less often: by the name of the figure."""
        nvml, own, whole = self._nvml, handle.own, handle.whole
        # The second version leaves out what the driver keeps for itself, as nvidia-smi does.
        used = self._ask("memory_used_bytes", lambda: nvml.nvmlDeviceGetMemoryInfo(own, nvml.nvmlMemory_v2))
        busy = self._ask("gpu_busy", lambda: nvml.nvmlDeviceGetUtilizationRates(own))
        if busy is None:
            self._missing["memory_busy"] = self._missing["gpu_busy"]
        return {
            "memory_used_bytes": int(used.used) if used is not None else None,
            "process_bytes": self._process_bytes(own),
            "gpu_busy": busy.gpu / 100 if busy is not None else None,
            "memory_busy": busy.memory / 100 if busy is not None else None,
            "sm_clock_mhz": self._ask(
                "sm_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(whole, nvml.NVML_CLOCK_SM))
            ),
            "memory_clock_mhz": self._ask(
                "memory_clock_mhz", lambda: int(nvml.nvmlDeviceGetClockInfo(whole, nvml.NVML_CLOCK_MEM))
            ),
            "temperature_c": self._ask("temperature_c", lambda: self._celsius(whole)),
            "clock_event_reasons": self._ask("clock_event_reasons", lambda: self._reasons(whole)),
            "violations_ns": self._violations_ns(whole),
        }

    def _celsius(self, handle: Any) -> int:
        nvml = self._nvml
        if hasattr(nvml, "nvmlDeviceGetTemperatureV"):  # not in bindings of before 2025
            try:
                return int(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
            except nvml.NVMLError as error:
                if nvml_errors.code_of(error) not in nvml_errors.FOR_GOOD:
                    raise
        return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))  # drivers of before

    def _reasons(self, handle: Any) -> int:
        nvml = self._nvml
        try:
            return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        except nvml.NVMLError as error:
            if nvml_errors.code_of(error) != nvml_errors.FUNCTION_NOT_FOUND:
                raise
            return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))  # its name of before

    def _process_bytes(self, handle: Any) -> int | None:
        if self._pid is None:
            return None
        found = self._ask("process_bytes", lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        if found is None:
            return None
        own = [process.usedGpuMemory for process in found if process.pid == self._pid]
        if not own:
            self._missing["process_bytes"] = (
                "the library doesn't list this process: it hasn't used the device yet, or in a container "
                "processes go by numbers of the host"
            )
        elif own[0] is None:
            self._missing["process_bytes"] = "the driver lists this process without its memory"
        return int(own[0]) if own and own[0] is not None else None

    def _violations_ns(self, handle: Any) -> dict[str, int] | None:
        def held_ns(policy: int) -> int:
            return int(self._nvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime)

        told = {
            name: self._ask(f"violations: {name}", partial(held_ns, policy))
            for policy, name in POLICIES.items()
        }
        reasons = [self._missing.pop(f"violations: {name}", "") for name in told]
        known = {name: value for name, value in told.items() if value is not None}
        if not known:
            self._missing["violations_ns"] = reasons[0]
        return known or None

    def _ask(self, figure: str, question: Callable[[], Told]) -> Told | None:
        """The answer to a question; or ``None`` and the reason noted as the figure's.

        Raises:
            _LostError: the session has ended.
        """
        if figure in self._never:
            self._missing[figure] = self._never[figure]
            return None
        try:
            return question()
        except self._nvml.NVMLError as error:
            code, reason = nvml_errors.code_of(error), nvml_errors.why(error)
            if code in nvml_errors.SESSION_LOST:
                raise _LostError(reason) from error
            if code in nvml_errors.FOR_GOOD:
                self._never[figure] = reason
            self._missing[figure] = reason
            return None
