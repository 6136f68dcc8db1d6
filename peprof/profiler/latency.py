"""The timing pass: what the steps cost when nothing else looks at them.

No hook, no mode and no tracker is in place, the garbage collector is off, and on CUDA the host waits once,
after the last step. Each step's sample is kept.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from peprof.devices import Device, StepTime, no_mark
from peprof.devices.base import ClockName
from peprof.profiler.step import TrainingStep

MINIMUM_STEPS = 3
"""Measured steps below which a time limit doesn't stop the pass."""

WARMUP_SHARE = 1 / 3
"""Share of the time limit that warming up may take, so that slow steps leave time to be measured."""

OnStep = Callable[[str, int, int], None]
"""Called before and between steps with the part (``warm-up`` or ``timing``), the steps done, their number."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What the timing pass saw.

    Args:
        clock: what measured.
        steps: in order.
        warmup_steps: steps really run before.
        stopped_by: what ended the pass.
    """

    clock: ClockName
    steps: tuple[StepTime, ...]
    warmup_steps: int
    stopped_by: Literal["steps", "max_seconds"]


def measure_latency(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    *,
    warmup_steps: int = 5,
    steps: int = 30,
    max_seconds: float | None = 60.0,
    on_step: OnStep | None = None,
) -> Latency:
    """Times single training steps.

    Args:
        step: the step; it changes the model's weights as in training.
        batches: on the device already, used in turn; should all have one shape.
        device: where it runs.
        warmup_steps: unmeasured steps before (allocator, lazily made optimizer state, autotuning).
        steps: measured steps.
        max_seconds: warm up no longer than a third of it, and stop measuring when it has passed; at least one
            step is a warm-up and at least three are measured all the same. ``None``: no limit.
        on_step: called before the first step of each part and after each step, outside what is timed.

    Raises:
        ValueError: there is no batch, or a count is too small.
    """
    if not batches:
        raise ValueError("batches is empty; at least one batch is needed")
    if warmup_steps < 1 or steps < 1:
        raise ValueError(f"warmup_steps and steps must be at least 1, not {warmup_steps} and {steps}")
    with garbage_collection_off():  # the collection itself takes long enough to eat into the time limit
        return _measured(step, batches, device, warmup_steps, steps, max_seconds, on_step or _no_step)


def _no_step(part: str, done: int, total: int) -> None:
    """For a pass that nobody follows."""


def _measured(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    warmup_steps: int,
    steps: int,
    max_seconds: float | None,
    on_step: OnStep,
) -> Latency:
    begin = time.perf_counter()

    def spent(share: float) -> bool:
        return max_seconds is not None and time.perf_counter() - begin > max_seconds * share

    warmed = 0
    on_step("warm-up", 0, warmup_steps)
    while warmed < warmup_steps and not (warmed and spent(WARMUP_SHARE)):
        step(batches[warmed % len(batches)], no_mark)
        device.synchronize()
        warmed += 1
        on_step("warm-up", warmed, warmup_steps)

    on_step("timing", 0, steps)
    clock = device.clock()
    done = 0
    stopped_by: Literal["steps", "max_seconds"] = "steps"
    while done < steps:
        if done >= MINIMUM_STEPS and spent(1.0):
            stopped_by = "max_seconds"
            break
        step(batches[(warmed + done) % len(batches)], clock.mark)
        done += 1
        on_step("timing", done, steps)
    return Latency(clock=clock.name, steps=tuple(clock.drain()), warmup_steps=warmed, stopped_by=stopped_by)


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Collects once, then leaves Python's garbage collector off, so that no pause falls into a sample."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
