from __future__ import annotations

import gc
import time
from statistics import median

import pytest
import torch

from peprof.devices import CpuDevice, Mark
from peprof.profiler.latency import measure_latency
from tests.profiler.steps import MlpStep


class SleepingStep:
    """Takes a known time in each phase."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.batches: list[object] = []
        self.garbage_collector_was_on: list[bool] = []

    def __call__(self, batch: object, mark: Mark) -> None:
        self.batches.append(batch)
        self.garbage_collector_was_on.append(gc.isenabled())
        for phase, duration in self.seconds.items():
            mark(phase)
            time.sleep(duration)
        mark(None)

    def resident_tensors(self) -> list[torch.Tensor]:
        return []


def test_each_step_and_phase_is_timed() -> None:
    step = SleepingStep(forward=0.004, backward=0.008, optimizer=0.002)
    found = measure_latency(step, ["a"], CpuDevice(), warmup_steps=2, steps=6)
    assert len(found.steps) == 6 and found.warmup_steps == 2 and found.stopped_by == "steps"
    assert found.clock == "perf_counter"
    for sample in found.steps:
        assert sample.phases_s["forward"] >= 0.004, "a sleep is never shorter than asked for"
        assert sample.phases_s["backward"] >= 0.008
        assert sample.total_s == pytest.approx(sum(sample.phases_s.values()))
    assert median(sample.total_s for sample in found.steps) < 3 * (0.004 + 0.008 + 0.002)


def test_batches_are_used_in_turn() -> None:
    step = SleepingStep(forward=0.0)
    measure_latency(step, ["a", "b", "c"], CpuDevice(), warmup_steps=1, steps=4)
    assert step.batches == ["a", "b", "c", "a", "b"]


def test_a_time_limit_stops_the_pass_but_never_below_three_steps() -> None:
    slow = SleepingStep(forward=0.05)
    found = measure_latency(slow, ["a"], CpuDevice(), warmup_steps=5, steps=30, max_seconds=0.01)
    assert (found.warmup_steps, len(found.steps), found.stopped_by) == (1, 3, "max_seconds")

    found = measure_latency(slow, ["a"], CpuDevice(), warmup_steps=2, steps=30, max_seconds=0.6)
    assert 3 < len(found.steps) < 13 and found.stopped_by == "max_seconds"


def test_the_garbage_collector_is_off_while_measuring_and_on_again_afterwards() -> None:
    step = SleepingStep(forward=0.0)
    assert gc.isenabled()
    measure_latency(step, ["a"], CpuDevice(), warmup_steps=1, steps=3)
    assert step.garbage_collector_was_on == [False, False, False, False]
    assert gc.isenabled()


def test_the_model_is_left_without_hooks() -> None:
    step = MlpStep(8, 8, 8, adam=True)
    measure_latency(step, [torch.randn(2, 8)], CpuDevice(), warmup_steps=1, steps=3)
    for module in step.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks


def test_progress_is_told_before_and_between_steps() -> None:
    heard: list[tuple[str, int, int]] = []
    measure_latency(
        SleepingStep(forward=0.0),
        ["a"],
        CpuDevice(),
        warmup_steps=2,
        steps=3,
        on_step=lambda *event: heard.append(event),
    )
    assert heard == [
        ("warm-up", 0, 2),
        ("warm-up", 1, 2),
        ("warm-up", 2, 2),
        ("timing", 0, 3),
        ("timing", 1, 3),
        ("timing", 2, 3),
        ("timing", 3, 3),
    ]


@pytest.mark.parametrize("arguments", [{"warmup_steps": 0}, {"steps": 0}])
def test_counts_below_one_are_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        measure_latency(SleepingStep(forward=0.0), ["a"], CpuDevice(), **arguments)
