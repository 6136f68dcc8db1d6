"""The energy pass within a short phase of real steps, beside a stand-in GPU of 200 W."""

from __future__ import annotations

from pathlib import Path

import pytest

from peprof.devices import CpuDevice
from peprof.events import Progress
from peprof.suite.planning import RunSpec
from tests.profiler.test_energy import Metered
from tests.running.test_phases import Examples, Kept, make_spec, make_step, run_short


def spec_with(energy_seconds: float) -> RunSpec:
    spec = make_spec()
    short = spec.short.model_copy(update={"energy_seconds": energy_seconds})
    return spec.model_copy(update={"short": short})


@pytest.mark.slow
def test_the_record_says_what_a_step_took() -> None:
    step, kept = make_step(), Kept()
    heard: list[Progress] = []
    at_forward: list[str] = []
    step.model.register_forward_pre_hook(lambda *_: at_forward.append(heard[-1].phase))
    found = run_short(spec_with(1.2), step, Examples(), Metered(), heard.append, kept)

    energy = found.energy
    assert energy is not None
    assert energy.seconds is not None
    assert energy.step_energy_j is not None
    assert energy.step_energy_j == pytest.approx(200.0 * energy.seconds / energy.steps, rel=1e-5)
    assert energy.sample_energy_j == pytest.approx(energy.step_energy_j / 4)
    # One step before the window; each pass is named before its first step, memory comes afterwards.
    assert at_forward.count("short: energy") == 1 + energy.steps
    phases = list(dict.fromkeys(at_forward))
    assert phases[:4] == ["short: warm-up", "short: timing", "short: energy", "short: memory"]
    assert [(r.energy is not None, r.memory is not None) for r in kept.results][:3] == [
        (False, False), (True, False), (True, True),
    ]  # fmt: skip
    assert kept.warnings == []


@pytest.mark.slow
def test_without_a_counter_the_record_says_why_and_nothing_is_run(tmp_path: Path) -> None:
    heard: list[Progress] = []
    device = CpuDevice(powercap=tmp_path)
    found = run_short(spec_with(600.0), make_step(), Examples(), device, heard.append)
    assert "short: energy" not in {event.phase for event in heard}
    assert found.energy is not None
    assert (found.energy.steps, found.energy.energy_j) == (0, None)
    assert found.energy.unavailable["energy_j"].startswith("this machine's processors have no counter")
