"""What ``gpu_check`` compares on a GPU, on a CPU: a step whose time is known, and a stand-in of 200 W."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_clocks import compare_clocks, compare_energy, torchs_clock
from peprof.devices import CpuDevice, Mark
from peprof.meters.reading import Reading
from peprof.meters.sampler import Trace
from peprof.meters.window import look_at
from tests.profiler.test_energy import Bare, Metered

STEP_S = 0.02


class Sleeping:
    """A step of twenty milliseconds."""

    def __call__(self, batch: Any, mark: Mark) -> None:
        mark("forward")
        end_s = time.perf_counter() + STEP_S
        while time.perf_counter() < end_s:
            time.sleep(max(0.0, (end_s - time.perf_counter()) / 2))
        mark(None)

    def resident_tensors(self) -> tuple[()]:
        return ()


def off_by(share: float) -> Callable[[Callable[[], None]], float]:
    def clock(call: Callable[[], None]) -> float:
        call()
        return STEP_S * (1 + share)

    return clock


@pytest.mark.slow
@pytest.mark.parametrize(("share", "equal"), [(0.0, True), (0.05, False), (-0.05, False)])
def test_clocks_that_differ_by_more_than_a_hundredth_are_told(share: float, equal: bool) -> None:
    found = compare_clocks(Sleeping(), None, CpuDevice(), {"same": off_by(0.0), "other": off_by(share)})
    assert found["seconds"]["peprof"] == pytest.approx(STEP_S, rel=0.01)
    assert found["peprof_differs_by"]["other"] == pytest.approx(1 / (1 + share) - 1, abs=0.01)
    assert len(found["all_seconds"]["other"]) == 3
    assert found["equal"] is equal
    json.dumps(found)


@pytest.mark.slow
def test_torchs_clock_tells_seconds() -> None:
    step = Sleeping()
    assert torchs_clock(lambda: step(None, lambda phase: None)) == pytest.approx(STEP_S, rel=0.02)


@pytest.mark.slow
def test_energy_by_counter_and_by_power(tmp_path: Path) -> None:
    session = tmp_path / "session.jsonl"
    device = Metered()
    found = compare_energy(Sleeping(), None, device, session=session, seconds=1.5)
    assert found["why_unavailable"] is None
    assert found["integrated_to_counted"] == pytest.approx(1.0, abs=1e-4)
    # Of 200 W, and of steps of twenty milliseconds and a little.
    assert found["step_energy_j"] == pytest.approx(200.0 * STEP_S, rel=0.05)
    assert "sampler" not in vars(device)
    readings = tuple(Reading.from_line(line) for line in session.read_text().splitlines())
    begin_s = readings[0].at_s + 0.3
    again = look_at(Trace(readings=readings), begin_s, begin_s + 1.2)
    assert again.energy_j == pytest.approx(240.0, rel=1e-3)
    json.dumps(found)


def test_where_there_is_no_counter_the_reason_stands_there(tmp_path: Path) -> None:
    session = tmp_path / "session.jsonl"

    class NoSampler(Bare):
        def sampler(self) -> None:
            return None

    assert compare_energy(Sleeping(), None, NoSampler(), session=session) == {
        "why_unavailable": "nobody counts"
    }
    assert not session.exists()
