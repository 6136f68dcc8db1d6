"""The energy of a window on a stand-in GPU whose joules are known by its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
import pytest

from peprof.meters.window import Window, look_at
from tests.meters.fake_nvml import FakeNvml, FakeTime
from tests.meters.playing import follow


def window(begin_s: float, end_s: float, *, seconds: float = 9.0, **gpu: Any) -> Window:
    """What is seen between two moments of a session of nine seconds."""
    clock = FakeTime()
    start_s = clock()
    trace = follow(FakeNvml(clock, **gpu), clock, seconds)
    return look_at(trace, start_s + begin_s, start_s + end_s)


@pytest.mark.parametrize("period_s", [0.02, 0.04, 0.1])
@pytest.mark.parametrize("begin_s", [1.0, 1.013, 1.0771])
def test_constant_power_gives_exact_joules(period_s: float, begin_s: float) -> None:
    seen = window(begin_s, begin_s + 5.0, period_s=period_s)
    assert seen.energy_j == pytest.approx(200.0 * 5.0, abs=2e-3)  # the counter's own unit is a millijoule
    assert seen.integrated_j == pytest.approx(200.0 * 5.0, abs=1e-3)
    assert seen.integrated_to_counted == pytest.approx(1.0, abs=1e-5)
    assert seen.mean_power_w == pytest.approx(200.0, abs=1e-3)
    assert seen.counter_period_s == pytest.approx(period_s)
    assert (seen.power_kind, seen.unavailable) == (
        "instant",
        {"process_bytes": "the window was too short for a look at it"},
    )


def test_changing_power_is_right_to_a_look_at_each_end() -> None:
    # 100 W, from the third second on 300 W
    energy_j: Callable[[float], float] = lambda t: 100.0 * t + 200.0 * max(0.0, t - 3.0)  # noqa: E731
    seen = window(1.0, 7.0, energy_j=energy_j, power_w=lambda t: 100.0 if t < 3.0 else 300.0)
    assert seen.energy_j == pytest.approx(2 * 100 + 4 * 300, abs=0.02 * 300 + 0.02 * 100)
    assert seen.integrated_j == pytest.approx(1400.0, abs=0.02 * 200)
    assert seen.power_w is not None
    assert (seen.power_w.lowest, seen.power_w.highest) == (100.0, 300.0)


def test_both_figures_stand_side_by_side_where_they_differ() -> None:
    seen = window(1.0, 6.0, power_w=lambda t: 180.0)  # the sensor's figure is a tenth too low
    assert seen.integrated_to_counted == pytest.approx(0.9, abs=1e-4)


def test_a_window_of_few_periods_has_no_energy() -> None:
    seen = window(1.0, 1.95)
    assert seen.energy_j is None
    assert seen.mean_power_w is None
    assert seen.unavailable["energy_j"] == (
        "the window of 0.95 s is too short for a counter that moves every 0.1 s: at least 1 s are needed"
    )
    assert seen.integrated_j == pytest.approx(200.0 * 0.95, abs=1e-3)
    assert window(1.0, 1.95, period_s=0.02).energy_j == pytest.approx(190.0, abs=2e-3)


def test_a_window_within_one_period_has_no_energy() -> None:
    assert window(1.01, 1.09).unavailable["energy_j"] == (
        "the counter moved 0 time(s) in the window of 0.08 s: too seldom"
    )


def test_a_counter_that_stands_still_is_not_zero_joules() -> None:
    seen = window(1.0, 6.0, energy_j=lambda t: 0.0)
    assert seen.energy_j is None
    assert "moved 0 time(s)" in seen.unavailable["energy_j"]


def test_a_counter_of_32_bits_goes_round() -> None:
    def energy_j(t: float) -> float:
        return (2**32 / 1e3 - 700.0 + 200.0 * t) % (2**32 / 1e3)  # after 3.5 s

    assert window(1.0, 6.0, energy_j=energy_j).energy_j == pytest.approx(1000.0, abs=2e-3)


def test_a_counter_that_is_set_back_has_no_energy_across_it() -> None:
    def energy_j(t: float) -> float:
        return 5000.0 + 200.0 * t if t < 4.0 else 200.0 * (t - 4.0)

    across = window(1.0, 6.0, energy_j=energy_j)
    assert across.energy_j is None
    assert across.unavailable["energy_j"].startswith("the counter was set back in the window")
    assert across.integrated_j == pytest.approx(1000.0, abs=1e-3)
    assert window(5.0, 8.0, energy_j=energy_j).energy_j == pytest.approx(600.0, abs=2e-3)


@pytest.mark.parametrize("code", [1, 9, 15, 16, 18])
def test_a_driver_that_is_restarted(code: int) -> None:
    """Away for a second; afterwards the session is a new one, and the counter begins at nothing."""

    def fault(function: str, t: float) -> int | None:
        return code if 3.0 <= t < 4.0 and function != "nvmlInit" else None

    def energy_j(t: float) -> float:
        return 5000.0 + 200.0 * t if t < 3.5 else 6000.0 + 200.0 * t  # higher: nobody could tell by that

    across = window(1.0, 7.0, energy_j=energy_j, faults=fault)
    assert across.energy_j is None
    assert across.unavailable["energy_j"].startswith("the counter was set back in the window")
    assert across.integrated_j is None
    assert across.unavailable["integrated_j"].startswith("power wasn't told for 1")
    after = window(5.5, 8.5, energy_j=energy_j, faults=fault)
    assert after.energy_j == pytest.approx(600.0, abs=2e-3)


def test_the_sampler_must_be_at_work_before_and_after() -> None:
    clock = FakeTime()
    start_s = clock()
    trace = follow(FakeNvml(clock), clock, 5.0)
    reason = "the sampler wasn't at work over the whole window: enter it before, leave it after"
    for begin_s, end_s in ((-1.0, 3.0), (2.0, 7.0)):
        seen = look_at(trace, start_s + begin_s, start_s + end_s)
        assert (seen.energy_j, seen.unavailable["energy_j"]) == (None, reason)
    with pytest.raises(ValueError, match="a window can't end"):
        look_at(trace, 3.0, 3.0)


def test_the_state_of_the_device() -> None:
    seen = window(1.0, 6.0)
    assert seen.memory_used_bytes == 900 * 2**20
    for spread, value in (
        (seen.sm_clock_mhz, 1410), (seen.memory_clock_mhz, 1215), (seen.temperature_c, 61),
        (seen.gpu_busy, 0.97), (seen.memory_busy, 0.41),
    ):  # fmt: skip
        assert spread is not None
        assert (spread.lowest, spread.median, spread.highest) == (value, value, value)
    assert (seen.reasons, seen.violations_s) == (
        {},
        {"power": 0.0, "thermal": 0.0, "sync_boost": 0.0, "board_limit": 0.0, "reliability": 0.0},
    )


def test_slowdowns_are_counted_by_looks_and_by_the_drivers_own_time() -> None:
    thermal = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonGpuIdle
    seen = window(
        1.0,
        6.0,
        reasons=lambda t: thermal if t >= 3.5 else 0,
        violation_ns=lambda policy, t: round(t * 0.2e9) if policy == pynvml.NVML_PERF_POLICY_POWER else 0,
    )
    assert seen.reasons is not None
    assert seen.violations_s is not None
    assert seen.reasons["hardware_thermal"] == seen.reasons["idle"] == pytest.approx(0.5, abs=0.06)
    assert seen.violations_s["power"] == pytest.approx(0.2 * 5.0, abs=0.2 * 0.5)
    assert seen.violations_s["thermal"] == 0.0
