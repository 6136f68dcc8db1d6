"""The short phase's energy pass: what steps take, as a part of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peprof.devices import Device
from peprof.events import Progress
from peprof.meters.window import Spread, Window
from peprof.profiler.energy import EnergyUse, measure_energy
from peprof.profiler.step import TrainingStep
from peprof.results.record import EnergyResult
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec

_SPREADS = ("power_w", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "gpu_busy", "memory_busy")
_PLAIN = (
    "energy_j", "mean_power_w", "counter_period_s", "integrated_j", "power_kind", "memory_used_bytes",
    "process_bytes", "violations_s",
)  # fmt: skip


def run_energy_pass(
    spec: RunSpec, step: TrainingStep, batches: Sequence[Any], device: Device, say: Say
) -> tuple[EnergyResult | None, tuple[str, ...]]:
    """What the steps took, and warnings; ``None`` where the suite doesn't ask for it.

    Args:
        spec: the run.
        step: a warm step.
        batches: on the device; all of one shape.
        device: where it runs.
        say: told how far it is.
    """
    seconds = spec.short.energy_seconds
    if seconds is None:
        return None, ()

    def on_step(done: int, spent_s: float) -> None:
        total = max(done, round(done * seconds / spent_s)) if done else 1
        left_s = max(0.0, seconds - spent_s)
        say(Progress(phase="short: energy", step=done, total=total, seconds_left=left_s))

    used = measure_energy(step, batches, device, min_seconds=seconds, on_step=on_step)
    return energy_result(used, spec.train.batch_size), used.warnings


def energy_result(used: EnergyUse, batch_size: int) -> EnergyResult:
    """A record's part of what was measured.

    Args:
        used: what was measured.
        batch_size: examples of each step.
    """
    window = used.window
    if window is None:
        return EnergyResult(steps=used.steps, unavailable={"energy_j": used.why_unavailable or ""})
    return EnergyResult(
        steps=used.steps,
        seconds=window.seconds,
        step_energy_j=used.step_energy_j,
        sample_energy_j=used.sample_energy_j(batch_size),
        slowdowns=window.reasons,
        unavailable={_RENAMED.get(name, name): why for name, why in window.unavailable.items()},
        **{name: _triple(window, name) for name in _SPREADS},
        **{name: getattr(window, name) for name in _PLAIN},
    )


_RENAMED = {"reasons": "slowdowns"}


def _triple(window: Window, name: str) -> tuple[float, float, float] | None:
    found: Spread | None = getattr(window, name)
    return (found.lowest, found.median, found.highest) if found is not None else None
