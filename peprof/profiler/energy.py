"""The energy pass: what steady steps take, over several seconds, in a pass of its own.

A counter of joules moves ten to fifty times a second, and counts whatever runs on the device: a single step
can't be told from it, the mean of many can. Steps follow each other as in training; the host waits for the
device a few times a second, so as to know when to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peprof.devices import Device, no_mark
from peprof.meters.slowdowns import slowdown_warnings
from peprof.meters.window import Window, look_at
from peprof.profiler.latency import garbage_collection_off
from peprof.profiler.step import TrainingStep

LOOK_EVERY_S = 0.5
"""From one wait for the device to the next."""


@dataclass(frozen=True, kw_only=True)
class EnergyUse:
    """What steps took.

    Args:
        steps: that were run while it was measured; 0 where nothing was run.
        window: what was seen meanwhile; ``None`` where nothing was run.
        why_unavailable: why no joules are known; ``None`` where they are.
    """

    steps: int
    window: Window | None
    why_unavailable: str | None

    @property
    def step_energy_j(self) -> float | None:
        """Joules of one step, in the mean."""
        if self.window is None or self.window.energy_j is None:
            return None
        return self.window.energy_j / self.steps

    @property
    def step_time_s(self) -> float | None:
        """Seconds of one step, in the mean; with the waits for the device."""
        return self.window.seconds / self.steps if self.window is not None else None

    def sample_energy_j(self, samples_per_step: float) -> float | None:
        """Joules of one example, where each step has so many."""
        return self.step_energy_j / samples_per_step if self.step_energy_j is not None else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What slowed the device down meanwhile, for people."""
        if self.window is None:
            return ()
        return slowdown_warnings(
            self.window.reasons or {}, self.window.violations_s or {}, self.window.seconds
        )


def measure_energy(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    *,
    min_seconds: float = 5.0,
    on_step: Callable[[int, float], None] = lambda done, seconds: None,
) -> EnergyUse:
    """Runs steps for some seconds and counts the device's joules.

    Where there is no counter nothing is run and nothing waits.

    Args:
        step: the step; it changes the model's weights as in training. It should be warm.
        batches: on the device already, used in turn; should all have one shape.
        device: where it runs.
        min_seconds: how long, at least.
        on_step: called before the first step, and at each wait for the device, with the steps done and the
            seconds that they took.

    Raises:
        ValueError: there is no batch, or no time.
    """
    if not batches:
        raise ValueError("batches is empty; at least one batch is needed")
    if min_seconds <= 0:
        raise ValueError(f"min_seconds must be more than 0, not {min_seconds}")
    why = device.why_no_energy()
    sampler = device.sampler() if why is None else None
    if sampler is None:
        why = why or "there is nothing that follows this device's energy"
        return EnergyUse(steps=0, window=None, why_unavailable=why)
    on_step(0, 0.0)
    with garbage_collection_off(), sampler:
        # The device works before the window begins and while the counter is waited for it doesn't: one step
        # brings its clocks up again.
        step(batches[0], no_mark)
        device.synchronize()
        begin_s = time.perf_counter()
        done, end_s = _run(step, batches, device, begin_s, min_seconds, on_step)
    window = look_at(sampler.trace(), begin_s, end_s)
    return EnergyUse(steps=done, window=window, why_unavailable=window.unavailable.get("energy_j"))


def _run(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    begin_s: float,
    min_seconds: float,
    on_step: Callable[[int, float], None],
) -> tuple[int, float]:
    """Steps until the time is over: how many, and when the device had done the last of them."""
    done, chunk, now_s = 0, 1, begin_s
    while now_s - begin_s < min_seconds:
        for _ in range(chunk):
            step(batches[done % len(batches)], no_mark)
            done += 1
        device.synchronize()
        now_s = time.perf_counter()
        left_s = min(LOOK_EVERY_S, min_seconds - (now_s - begin_s))
        chunk = max(1, round(left_s * done / (now_s - begin_s)))
        on_step(done, now_s - begin_s)
    return done, now_s
