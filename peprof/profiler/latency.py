"""The timing pass: what the steps cost when nothing else looks at them.

No hook, no mode and no tracker is in place, the garbage collector is off, and on CUDA the host waits once,
after the last step. Each step's sample is kept.

Three clocks tell of it, by phase. The device's is that of the timing pass itself. The host's is read at the
same marks, without waiting: how long it took to queue the work, unless the queue was full. Wall time of a
single step can't be had without waiting for it: a step that isn't waited for has no end on the host. So it is
told twice. ``pass_s`` is the wall time of the whole pass, divided by its steps what a step costs in a
training, whatever limits it. And a short pass afterwards waits at each mark (see ``WaitingClock``): wall time
of single phases, and the host's time with an empty queue, which says whether the host is what limits the
device. Where the host does the work itself, all three are one clock, whose samples are kept once.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from peprof.devices import Device, StepTime
from peprof.devices.base import ClockName
from peprof.profiler.step import TrainingStep
from peprof.profiler.warming import SHARE, WarmUp, warm_up

MINIMUM_STEPS = 3
"""Measured steps below which a time limit doesn't stop a pass."""

WAITED_STEPS = 10
"""Of the pass that waits, at most."""

OnStep = Callable[[str, int, int], None]
"""Called before and between steps with the part (``warm-up`` or ``timing``), the steps done, their number."""

StoppedBy = Literal["steps", "max_seconds"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What the timing pass saw.

    Args:
        clock: what measured.
        steps: in order; of each also the host's time where that is another clock.
        warmup_steps: steps really run before.
        steady: whether the last of those took equally long; ``None`` where there were too few to tell.
        stopped_by: what ended the pass.
        pass_s: wall time from before the first measured step until the device had done the last.
        waited: a few steps more, whose marks waited for the device: wall time, and as ``host`` the time in
            which their work was queued. Empty where the clock is the host's: ``steps`` are wall time already.
    """

    clock: ClockName
    steps: tuple[StepTime, ...]
    warmup_steps: int
    steady: bool | None
    stopped_by: StoppedBy
    pass_s: float
    waited: tuple[StepTime, ...] = ()


def measure_latency(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    *,
    warmup_steps: int = 5,
    extra_warmup_steps: int = 25,
    steps: int = 30,
    min_seconds: float | None = None,
    max_seconds: float | None = 60.0,
    on_step: OnStep | None = None,
) -> Latency:
    """Times single training steps.

    Args:
        step: the step; it changes the model's weights as in training.
        batches: on the device already, used in turn; should all have one shape.
        device: where it runs.
        warmup_steps: unmeasured steps before (allocator, lazily made optimizer state, autotuning), at least.
        extra_warmup_steps: so many more, at most, until they take equally long, see ``is_steady``.
        steps: measured steps, at least.
        min_seconds: measure more of them until so much time has passed; ``None``: measure ``steps``.
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
    if extra_warmup_steps < 0:
        raise ValueError(f"extra_warmup_steps must be at least 0, not {extra_warmup_steps}")
    with garbage_collection_off():  # the collection itself takes long enough to eat into the time limit
        passes = _Passes(
            step=step,
            batches=batches,
            device=device,
            max_seconds=max_seconds,
            on_step=on_step or _no_step,
        )
        warmed = passes.warm_up(warmup_steps, extra_warmup_steps)
        return passes.measure(warmed, steps, min_seconds or 0.0)


def _no_step(part: str, done: int, total: int) -> None:
    """For a pass that nobody follows."""


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """Warm-up, the timing pass and the one that waits, under one limit of time."""

    step: TrainingStep
    batches: Sequence[Any]
    device: Device
    max_seconds: float | None
    on_step: OnStep
    begin_s: float = field(default_factory=time.perf_counter)

    def warm_up(self, steps: int, extra_steps: int) -> WarmUp:
        return warm_up(
            self.step,
            self.batches,
            self.device,
            steps=steps,
            extra_steps=extra_steps,
            out_of_time=lambda: self._spent(SHARE, self.begin_s),
            on_step=lambda done, total: self.on_step("warm-up", done, total),
        )

    def measure(self, warmed: WarmUp, steps: int, min_seconds: float) -> Latency:
        self.on_step("timing", 0, steps)
        clock = self.device.clock()
        mark = clock.mark
        done, first = 0, warmed.steps
        stopped_by: StoppedBy = "steps"
        begin_s = time.perf_counter()
        while done < steps or time.perf_counter() - begin_s < min_seconds:
            if done >= MINIMUM_STEPS and self._spent(1.0, self.begin_s):
                stopped_by = "max_seconds"
                break
            self.step(self.batches[(first + done) % len(self.batches)], mark)
            done += 1
            self.on_step("timing", done, max(steps, done))
        self.device.synchronize()
        pass_s = time.perf_counter() - begin_s
        return Latency(
            clock=clock.name,
            steps=tuple(clock.drain()),
            warmup_steps=warmed.steps,
            steady=warmed.steady,
            stopped_by=stopped_by,
            pass_s=pass_s,
            waited=self._wait(min(done, WAITED_STEPS)),
        )

    def _wait(self, steps: int) -> tuple[StepTime, ...]:
        clock = self.device.waiting_clock()
        if clock is None:
            return ()
        begin_s = time.perf_counter()
        for done in range(steps):
            if done >= MINIMUM_STEPS and self._spent(SHARE, begin_s):
                break
            self.step(self.batches[done % len(self.batches)], clock.mark)
        return tuple(clock.drain())

    def _spent(self, share: float, begin_s: float) -> bool:
        return self.max_seconds is not None and time.perf_counter() - begin_s > self.max_seconds * share


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
