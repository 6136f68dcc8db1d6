"""The energy pass over real steps, beside a stand-in GPU that takes 200 W."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from typing_extensions import override

from peprof.devices import CpuDevice, Mark
from peprof.meters.window import Window
from peprof.profiler.energy import EnergyUse, measure_energy
from peprof.running.energy_pass import energy_result
from tests.meters.playing import PlayedSampler


class Metered(CpuDevice):
    """A device beside which the stand-in's joules are counted."""

    made: PlayedSampler | None = None

    @override
    def why_no_energy(self) -> str | None:
        return None

    @override
    def sampler(self) -> PlayedSampler:
        self.made = PlayedSampler()
        return self.made


class Bare(CpuDevice):
    """A device without a counter."""

    @override
    def why_no_energy(self) -> str | None:
        return "nobody counts"

    @override
    def sampler(self) -> None:
        raise AssertionError("nothing may be started")


class Sleeping:
    """A step of ten milliseconds."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[Any] = []
        self.fail_at = fail_at

    def __call__(self, batch: Any, mark: Mark) -> None:
        self.calls.append(batch)
        if len(self.calls) == self.fail_at:
            raise torch.OutOfMemoryError("no more")
        mark("forward")
        time.sleep(0.01)
        mark(None)

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        return iter(())


def test_joules_of_a_step_and_of_an_example() -> None:
    step, told = Sleeping(), []
    used = measure_energy(
        step,
        ["a", "b"],
        Metered(),
        min_seconds=1.2,
        on_step=lambda done, seconds: told.append((done, seconds)),
    )
    assert used.window is not None
    assert used.why_unavailable is None
    assert used.window.seconds >= 1.2
    assert used.steps == len(step.calls) - 1  # the first brings the clocks up, before the window
    assert step.calls[1:5] == ["a", "b", "a", "b"]
    assert used.step_energy_j == pytest.approx(200.0 * used.window.seconds / used.steps, rel=1e-5)
    assert used.step_time_s == pytest.approx(used.window.seconds / used.steps)
    assert told[0] == (0, 0.0)
    assert told[-1] == (used.steps, used.window.seconds)
    assert len(told) < 8  # waits for the device are few
    result = energy_result(used, batch_size=16)
    assert result.sample_energy_j == pytest.approx((used.step_energy_j or 0) / 16)
    assert result.power_w == pytest.approx((200.0, 200.0, 200.0))
    assert (result.sm_clock_mhz, result.slowdowns) == ((1410.0, 1410.0, 1410.0), {})
    assert used.warnings == ()


def test_without_a_counter_nothing_is_run_and_nothing_waits() -> None:
    step = Sleeping()
    used = measure_energy(step, ["a"], Bare(), min_seconds=5.0)
    assert step.calls == []
    assert (used.steps, used.window, used.why_unavailable) == (0, None, "nobody counts")
    assert used.step_energy_j is used.step_time_s is used.sample_energy_j(4) is None
    result = energy_result(used, batch_size=4)
    assert (result.steps, result.energy_j, result.unavailable) == (0, None, {"energy_j": "nobody counts"})


def test_a_step_that_fails_ends_the_sampler() -> None:
    device = Metered()
    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        measure_energy(Sleeping(fail_at=5), ["a"], device, min_seconds=5.0)
    assert device.made is not None
    assert device.made.left_s is not None


def test_what_slows_the_device_down_is_a_warning() -> None:
    window = Window(seconds=5.0, looks=250, reasons={"power_cap": 0.5}, violations_s={"thermal": 1.0})
    warnings = EnergyUse(steps=10, window=window, why_unavailable="x").warnings
    assert [warning.split(" of the time")[0] for warning in warnings] == [
        "the GPU's clocks were held down for 50%", "the GPU's clocks were held down for 20%",
    ]  # fmt: skip


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        measure_energy(Sleeping(), [], Metered())
    with pytest.raises(ValueError, match="min_seconds must be more than 0, not 0"):
        measure_energy(Sleeping(), ["a"], Metered(), min_seconds=0)
