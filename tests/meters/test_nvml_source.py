"""What a GPU tells and doesn't: parts of GPUs, containers, old drivers, and each of the library's errors."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest

from peprof.meters import nvml_errors
from peprof.meters.nvml_source import NvmlSource
from peprof.meters.reading import FIGURES, Reading
from peprof.meters.slowdowns import REASONS, names_of, slowdown_warnings
from tests.meters.fake_nvml import MIB, UUID, FakeNvml, FakeTime


def read(*, pid: int | None = 7, **gpu: Any) -> Reading:
    clock = FakeTime()
    library = FakeNvml(clock, **gpu)
    source = NvmlSource(UUID, pid, library=library, clock=clock)
    reading = source.read(everything=True)
    source.close()
    assert library.sessions == 0
    return reading


def test_everything_that_a_whole_gpu_tells() -> None:
    found = read(processes={6: 1, 7: 300 * MIB})
    assert found.missing == {}
    assert (found.energy_j, found.power_w, found.power_kind) == (0.0, 200.0, "instant")
    assert (found.memory_used_bytes, found.process_bytes) == (900 * MIB, 300 * MIB)
    assert (found.sm_clock_mhz, found.memory_clock_mhz, found.temperature_c) == (1410, 1215, 61)


@pytest.mark.parametrize(
    ("processes", "reason"),
    [
        ({6: 1}, "the library doesn't list this process: it hasn't used the device yet, or in a container"),
        ({}, "the library doesn't list this process"),
        ({7: None}, "the driver lists this process without its memory"),
    ],
)
def test_a_process_may_be_missing(processes: dict[int, int | None], reason: str) -> None:
    found = read(processes=processes)
    assert found.process_bytes is None
    assert found.missing["process_bytes"].startswith(reason)
    assert found.memory_used_bytes == 900 * MIB


def test_a_part_of_a_gpu_has_memory_of_its_own_and_no_energy() -> None:
    found = read(part=True, processes={7: 30 * MIB})
    assert (found.memory_used_bytes, found.process_bytes) == (90 * MIB, 30 * MIB)
    assert (found.sm_clock_mhz, found.temperature_c) == (1410, 61)  # the GPU's
    assert (found.energy_j, found.power_w, found.gpu_busy, found.memory_busy) == (None, None, None, None)
    assert "part of a GPU (MIG), which has no counter of its own" in found.missing["energy_j"]
    assert "part of a GPU (MIG)" in found.missing["power_w"]
    assert found.missing["memory_busy"] == "this device doesn't tell it (not supported)"


def test_a_divided_gpu_tells_the_energy_of_all_parts_and_so_none() -> None:
    found = read(divided=True)
    assert (found.energy_j, found.power_w) == (None, None)
    assert "counts all parts" in found.missing["energy_j"]


def test_old_drivers_are_asked_in_their_own_words() -> None:
    new = {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetFieldValues",
           "nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetMigMode"}  # fmt: skip
    found = read(
        faults=lambda function, t: 13 if function in new else None, reasons=lambda t: 4, processes={7: 1}
    )
    assert found.missing == {}
    assert (found.power_w, found.power_kind) == (200.0, "usage")
    assert (found.temperature_c, found.clock_event_reasons) == (61, 4)


def test_what_a_device_never_tells_is_not_asked_again() -> None:
    clock = FakeTime()
    gpu = FakeNvml(
        clock, faults=lambda function, t: 3 if "Energy" in function or "Field" in function else None
    )
    source = NvmlSource(UUID, library=gpu, clock=clock)
    for _ in range(3):
        found = source.read(everything=False)
        assert (found.energy_j, found.power_kind) == (None, "usage")
        assert found.missing == {"energy_j": "this device doesn't tell it (not supported)"}
    assert gpu.asked.count("nvmlDeviceGetTotalEnergyConsumption") == 1
    assert gpu.asked.count("nvmlDeviceGetFieldValues") == 1


CODES = sorted(
    value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_") and isinstance(value, int)
)


def test_each_of_the_librarys_errors_has_words() -> None:
    assert set(CODES) == set(nvml_errors.WORDS)
    assert len(set(nvml_errors.WORDS.values())) == len(CODES)
    assert nvml_errors.why(pynvml.NVMLError(77)) == "NVIDIA's management library answers with error 77"


@pytest.mark.parametrize("code", CODES)
def test_an_error_of_the_session_makes_everything_missing(code: int) -> None:
    found = read(faults=lambda function, t: code if function == "nvmlInit" else None)
    assert set(found.missing) == set(FIGURES)
    assert set(found.missing.values()) == {nvml_errors.WORDS[code]}
    assert all(getattr(found, figure) is None for figure in FIGURES)


@pytest.mark.parametrize("code", sorted(set(CODES) - nvml_errors.SESSION_LOST))
def test_an_error_of_one_question_makes_its_figure_missing(code: int) -> None:
    found = read(processes={7: 1}, faults=lambda function, t: code if "Energy" in function else None)
    assert found.missing == {"energy_j": nvml_errors.WORDS[code]}
    assert found.energy_j is None
    assert found.power_w == 200.0


def test_an_error_of_the_power_field_gives_the_usage() -> None:
    found = read(processes={7: 1}, faults=lambda function, t: 21 if "Field" in function else None)
    assert (found.power_w, found.power_kind, found.missing) == (200.0, "usage", {})


def test_bits_of_slowdowns_go_by_the_librarys_names() -> None:
    for name in ("SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown",
                 "HwPowerBrakeSlowdown", "BoardLimit", "Reliability", "GpuIdle", "ApplicationsClocksSetting",
                 "DisplayClockSetting"):  # fmt: skip
        assert getattr(pynvml, f"nvmlClocksThrottleReason{name}") in REASONS
    assert names_of(0) == ()
    assert names_of(0x4 | 0x40) == ("power_cap", "hardware_thermal")
    assert names_of(0x1000) == ("bit_12",)


def test_warnings_say_for_how_long_and_by_what() -> None:
    found = slowdown_warnings({"power_cap": 0.02, "thermal": 0.4, "idle": 1.0}, {"power": 3.0}, 5.0)
    assert found == (
        "the GPU's clocks were held down for 60% of the time that energy was measured, by its power limit: "
        "elsewhere, or later, the same steps may be faster",
        "the GPU's clocks were held down for 40% of the time that energy was measured, by heat: "
        "elsewhere, or later, the same steps may be faster",
    )
    assert slowdown_warnings({"thermal": 0.04, "application_clocks": 1.0}, {"power": 0.2}, 5.0) == ()
