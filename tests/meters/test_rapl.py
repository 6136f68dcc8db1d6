"""Processors' joules from files such as the kernel shows, made for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peprof.devices import CpuDevice
from peprof.meters.rapl import RaplCounter, RaplSource, RaplUnavailableError, find_packages, why_unreadable
from peprof.meters.window import look_at
from tests.meters.fake_nvml import FakeTime
from tests.meters.playing import follow_source

RANGE_UJ = 262_143_328_850  # of many processors
NO_RAPL = "this machine's processors have no counter of joules"


def zone(root: Path, folder: str, name: str, *, joules: float = 0.0, range_uj: int = RANGE_UJ) -> Path:
    made = root / folder
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{range_uj}\n")
    set_joules(made, joules)
    return made


def set_joules(made: Path, joules: float) -> None:
    (made / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_each_package_is_counted_once(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:0:0", "core")
    zone(tmp_path, "intel-rapl:0:1", "dram")
    zone(tmp_path, "intel-rapl:1", "package-1")
    zone(tmp_path, "intel-rapl:2", "psys")  # the whole machine: both packages again
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")  # by another way into the chip
    (tmp_path / "intel-rapl").mkdir()
    found = find_packages(tmp_path)
    assert sorted(package.counter.parent.name for package in found) == ["intel-rapl:0", "intel-rapl:1"]


def test_packages_are_summed_and_each_goes_round_by_itself(tmp_path: Path) -> None:
    clock = FakeTime()
    first = zone(tmp_path, "intel-rapl:0", "package-0", joules=262_100.0)
    second = zone(tmp_path, "intel-rapl:1", "package-1", joules=10.0, range_uj=65_532_610_987)
    counter = RaplCounter(tmp_path, clock=clock)
    clock.sleep(10)
    set_joules(first, 56.67115)  # 100 J more
    set_joules(second, 60.0)
    assert counter.look() == pytest.approx(100.0 + 50.0, abs=1e-6)
    assert counter.life == 0


def test_a_counter_that_was_set_back_or_not_looked_at_for_long_says_so(tmp_path: Path) -> None:
    clock = FakeTime()
    made = zone(tmp_path, "intel-rapl:0", "package-0", joules=30_000.0)
    counter = RaplCounter(tmp_path, clock=clock)
    clock.sleep(10)
    set_joules(made, 5.0)  # a round would be 232 kJ in 10 s
    counter.look()
    assert counter.life == 1
    clock.sleep(counter.longest_wait_s + 1)
    set_joules(made, 10.0)
    counter.look()
    assert counter.life == 2
    assert 200 < counter.longest_wait_s < 262


def test_readings_of_a_window(tmp_path: Path) -> None:
    clock = FakeTime()
    start_s = clock()
    made = zone(tmp_path, "intel-rapl:0", "package-0")

    class Busy(FakeTime):
        """Ninety watts while time goes by."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            set_joules(
                made,
                262_000.0
                + 90.0 * (self.now_s - start_s)
                - (262_143.32885 if self.now_s - start_s > 1.6 else 0),
            )

    busy = Busy()
    set_joules(made, 262_000.0)
    trace = follow_source(RaplSource(tmp_path, clock=busy), busy, 6.0, period_s=0.1)
    seen = look_at(trace, start_s + 1.0, start_s + 5.0)
    assert seen.energy_j == pytest.approx(90.0 * 4.0, abs=1e-3)
    assert (seen.integrated_j, seen.temperature_c) == (None, None)
    assert seen.unavailable["temperature_c"] == "processors' counters tell joules alone"


def test_a_machine_without_counters(tmp_path: Path) -> None:
    (reason := why_unreadable(tmp_path / "powercap"))
    assert reason is not None
    assert reason.startswith(NO_RAPL)
    device = CpuDevice(powercap=tmp_path)
    assert (device.energy_j(), device.sampler()) == (None, None)
    assert str(device.why_no_energy()).startswith(NO_RAPL)


def test_counters_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0")
    (made / "energy_uj").chmod(0)
    if os.access(made / "energy_uj", os.R_OK):  # an administrator may: the system's answer is played
        read_text = Path.read_text

        def refused(path: Path, *args: object, **kwargs: object) -> str:
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied", str(path))
            return read_text(path)

        monkeypatch.setattr(Path, "read_text", refused)
    expected = (
        "reading the processor's counter of joules needs permission: as administrator, "
        f"'chmod a+r {made / 'energy_uj'}' gives it"
    )
    assert why_unreadable(tmp_path) == expected
    device = CpuDevice(powercap=tmp_path)
    assert (device.energy_j(), device.sampler(), device.why_no_energy()) == (None, None, expected)
    with pytest.raises(RaplUnavailableError, match="needs permission"):
        RaplCounter(tmp_path)


def test_the_device_tells_differences_until_the_counter_is_set_back(tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0", joules=200_000.0)
    device = CpuDevice(powercap=tmp_path)
    before = device.energy_j()
    set_joules(made, 200_012.5)
    after = device.energy_j()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(12.5, abs=1e-6)
    assert device.why_no_energy() is None
    set_joules(made, 3.0)  # 62 kJ in no time: no round
    assert device.energy_j() is None
    assert "set back" in str(device.why_no_energy())
    assert device.energy_j() is None
