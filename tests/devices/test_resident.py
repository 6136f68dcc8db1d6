from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from peprof.devices import CpuDevice
from peprof.devices.resident import ResidentPeakMeter, available_bytes, high_water_bytes

MB = 1_000_000


class Machine:
    """A process of some size, on a system that can set its high water back, or can't."""

    def __init__(self, *, can_reset: bool, high_water: bool = True) -> None:
        self.now, self.highest, self.can_reset, self.knows = 100 * MB, 900 * MB, can_reset, high_water

    def size(self, megabytes: int) -> None:
        self.now = megabytes * MB
        self.highest = max(self.highest, self.now)

    def reset(self) -> None:
        if self.can_reset:
            self.highest = self.now

    def meter(self) -> ResidentPeakMeter:
        return ResidentPeakMeter(
            resident=lambda: self.now,
            high_water=lambda: self.highest if self.knows else None,
            reset=self.reset,
        )


@pytest.mark.parametrize(
    ("machine", "peak_mb"),
    [
        (Machine(can_reset=True), 500),  # the system saw it, though nobody looked then
        (Machine(can_reset=False), 300),  # hidden behind the 900 of before: what was looked at counts
        (Machine(can_reset=False, high_water=False), 300),
    ],
)
def test_a_peak_between_two_looks_counts_where_the_system_saw_it(machine: Machine, peak_mb: int) -> None:
    meter = machine.meter()
    for megabytes, looks in ((200, True), (500, False), (300, True), (150, True)):
        machine.size(megabytes)
        if looks:
            meter.look()
    found = meter.result()
    assert (found.source, found.start_bytes, found.peak_bytes) == ("process_rss", 100 * MB, peak_mb * MB)
    assert found.peak_reserved_bytes is None


def test_a_high_water_of_before_that_is_exceeded_counts() -> None:
    machine = Machine(can_reset=False)
    meter = machine.meter()
    machine.size(1000)
    machine.size(100)
    assert meter.result().peak_bytes == 1000 * MB


def test_a_tensor_that_came_and_went_is_in_the_peak() -> None:
    large = torch.ones(20 * MB)  # 80 MB before: not of this time
    del large
    meter = CpuDevice().peak_meter()
    passing = torch.ones(10 * MB)
    del passing
    found = meter.result()
    rise = found.peak_bytes - found.start_bytes
    if sys.platform == "linux" and high_water_bytes() is not None:
        assert 38 * MB < rise < 60 * MB
    assert CpuDevice().energy_j() is None and CpuDevice().why_no_energy()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_process_may_have_is_the_machines_or_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    limits = {resource.RLIMIT_AS: unlimited, resource.RLIMIT_DATA: unlimited}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[kind])
    first = Path("/proc/meminfo").read_text().splitlines()[0].split()
    assert first[0] == "MemTotal:"
    assert available_bytes() == CpuDevice().memory_bytes() == int(first[1]) * 1024
    limits[resource.RLIMIT_DATA] = (300 * MB, resource.RLIM_INFINITY)
    assert available_bytes() == 300 * MB
    limits[resource.RLIMIT_AS] = (200 * MB, 400 * MB)
    assert available_bytes() == 200 * MB
