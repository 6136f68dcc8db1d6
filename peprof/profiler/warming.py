"""Warming up: unmeasured steps until they take equally long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from peprof.devices import Device, no_mark
from peprof.profiler.step import TrainingStep

GROUP = 3
"""Steps whose median is held against that of as many before: a single slow one changes neither."""

TOLERANCE = 0.05
"""By which the two medians may differ."""

SHARE = 1 / 3
"""Of the time limit that warming up may take, so that slow steps leave time to be measured."""


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How it went.

    Args:
        steps: that were run.
        steady: whether the last of them took equally long; ``None`` where there were too few to tell.
    """

    steps: int
    steady: bool | None


def is_steady(seconds: Sequence[float]) -> bool | None:
    """Whether the last steps agree: the median of the last three with that of the three before, within 5 %.

    Medians, so that one step that something else on the machine has slowed down doesn't keep a steady
    training from being seen as one; of neighbouring groups, so that a slow fall is seen where single steps
    differ by little.

    Args:
        seconds: of each step so far.

    Returns:
        ``None`` where there are fewer than six steps.
    """
    if len(seconds) < 2 * GROUP:
        return None
    before, last = median(seconds[-2 * GROUP : -GROUP]), median(seconds[-GROUP:])
    return abs(last - before) <= TOLERANCE * min(before, last)


def warm_up(
    step: TrainingStep,
    batches: Sequence[Any],
    device: Device,
    *,
    steps: int,
    extra_steps: int,
    out_of_time: Callable[[], bool],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> WarmUp:
    """Runs steps until they are steady; each is waited for.

    Args:
        step: the step.
        batches: on the device already, used in turn.
        device: where it runs.
        steps: at least so many.
        extra_steps: at most so many more until they are steady; with 0 nothing waits for that.
        out_of_time: asked after each step; ends it however many there were.
        on_step: called before the first step and after each, with the steps done and, as far as is known,
            their number.
    """
    seconds: list[float] = []
    on_step(0, steps)
    while not seconds or not (_enough(seconds, steps, extra_steps) or out_of_time()):
        begin = time.perf_counter()
        step(batches[len(seconds) % len(batches)], no_mark)
        device.synchronize()
        seconds.append(time.perf_counter() - begin)
        on_step(len(seconds), max(steps, len(seconds)))
    return WarmUp(steps=len(seconds), steady=is_steady(seconds))


def _enough(seconds: Sequence[float], steps: int, extra_steps: int) -> bool:
    if len(seconds) < steps:
        return False
    return len(seconds) >= steps + extra_steps or is_steady(seconds) is True
