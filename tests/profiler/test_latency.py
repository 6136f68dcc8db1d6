from __future__ import annotations

import gc
import time
from statistics import median

import pytest
import torch

from peprof.devices import CpuDevice, CudaDevice, Mark
from peprof.profiler.latency import measure_latency
from peprof.results.figures import short_figures
from peprof.running.short_phase import step_times
from tests.devices.fake_queue import QueuedCuda
from tests.profiler.steps import MlpStep
from tests.results.factory import make_short


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
    found = measure_latency(step, ["a"], CpuDevice(), warmup_steps=2, extra_warmup_steps=0, steps=6)
    assert len(found.steps) == 6 and found.warmup_steps == 2 and found.stopped_by == "steps"
    assert found.steady is None, "two steps don't tell"
    assert found.pass_s >= sum(sample.total_s for sample in found.steps)
    assert found.waited == (), "there is one clock only"
    assert found.clock == "perf_counter"
    for sample in found.steps:
        assert sample.phases_s["forward"] >= 0.004, "a sleep is never shorter than asked for"
        assert sample.phases_s["backward"] >= 0.008
        assert sample.total_s == pytest.approx(sum(sample.phases_s.values()))
    assert median(sample.total_s for sample in found.steps) < 3 * (0.004 + 0.008 + 0.002)


def test_batches_are_used_in_turn() -> None:
    step = SleepingStep(forward=0.0)
    measure_latency(step, ["a", "b", "c"], CpuDevice(), warmup_steps=1, extra_warmup_steps=0, steps=4)
    assert step.batches == ["a", "b", "c", "a", "b"]


def test_a_time_limit_stops_the_pass_but_never_below_three_steps() -> None:
    slow = SleepingStep(forward=0.05)
    found = measure_latency(slow, ["a"], CpuDevice(), max_seconds=0.01)
    assert (found.warmup_steps, len(found.steps), found.stopped_by) == (1, 3, "max_seconds")

    found = measure_latency(
        slow, ["a"], CpuDevice(), warmup_steps=2, extra_warmup_steps=0, steps=30, max_seconds=0.6
    )
    assert 3 < len(found.steps) < 13 and found.stopped_by == "max_seconds"


def test_a_least_time_adds_steps_and_the_limit_ends_them() -> None:
    step = SleepingStep(forward=0.004)
    found = measure_latency(step, ["a"], CpuDevice(), warmup_steps=1, steps=3, min_seconds=0.1)
    assert 3 < len(found.steps) <= 25 and found.stopped_by == "steps" and found.pass_s >= 0.1

    found = measure_latency(step, ["a"], CpuDevice(), warmup_steps=1, steps=3, min_seconds=9, max_seconds=0.1)
    assert 3 < len(found.steps) <= 25 and found.stopped_by == "max_seconds"


class QueuedStep:
    """Queues four phases, each of which costs host and device what is told."""

    def __init__(self, cuda: QueuedCuda, *, queue_ms: float, device_ms: float) -> None:
        self.cuda, self.costs = cuda, {"queue_ms": queue_ms, "device_ms": device_ms}

    def __call__(self, batch: object, mark: Mark) -> None:
        for phase in ("forward", "backward", "clip", "optimizer"):
            mark(phase)
            self.cuda.work(**self.costs)
        mark(None)

    def resident_tensors(self) -> list[torch.Tensor]:
        return []


@pytest.mark.parametrize(
    ("queue_ms", "device_ms", "device", "host", "waited", "queued"),
    [
        # The device does 4 ms a phase; the host, whose queue is full, keeps its pace, and needs 1 ms.
        (1, 4, 16, 16, 4 * (1 + 4), 4),
        # The device waits for the host, which needs 5 ms a phase.
        (5, 2, 20, 20, 4 * (5 + 2), 20),
    ],
)
def test_three_clocks_of_a_device_behind_a_queue(
    queue_ms: float, device_ms: float, device: float, host: float, waited: float, queued: float
) -> None:
    cuda = QueuedCuda()
    step = QueuedStep(cuda, queue_ms=queue_ms, device_ms=device_ms)
    found = measure_latency(
        step,
        ["a"],
        CudaDevice(0, cuda=cuda, now_ns=cuda.now_ns),
        warmup_steps=1,
        extra_warmup_steps=0,
        steps=31,
    )
    assert found.clock == "cuda_events" and len(found.steps) == 31 and len(found.waited) == 10

    def middle(values: list[float]) -> float:
        return median(values) * 1000

    hosts = [sample.host for sample in (*found.steps, *found.waited) if sample.host is not None]
    assert len(hosts) == 31 + 10
    assert middle([sample.total_s for sample in found.steps]) == pytest.approx(device)
    assert middle([sample.phases_s["clip"] for sample in found.steps]) == pytest.approx(device / 4)
    assert middle([sample.total_s for sample in hosts[:31]]) == pytest.approx(host)
    assert middle([sample.total_s for sample in found.waited]) == pytest.approx(waited)
    assert middle([sample.total_s for sample in hosts[31:]]) == pytest.approx(queued)

    times = step_times(found)
    assert times.host is not None and times.wall is not None and times.enqueue is not None
    assert len(times.host.clip_s or ()) == len(times.step_s) == 31 and len(times.wall.step_s) == 10
    short = make_short().model_copy(update={"times": times, "real_tokens": ()})
    figures = short_figures(short)
    assert figures is not None
    assert figures.launch_bound is (queue_ms > device_ms)
    assert figures.host_step_s == pytest.approx(host / 1000)
    assert figures.wall_step_s == pytest.approx(waited / 1000)
    assert figures.enqueue_step_s == pytest.approx(queued / 1000)


def test_the_garbage_collector_is_off_while_measuring_and_on_again_afterwards() -> None:
    step = SleepingStep(forward=0.0)
    assert gc.isenabled()
    measure_latency(step, ["a"], CpuDevice(), warmup_steps=1, extra_warmup_steps=0, steps=3)
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
        extra_warmup_steps=0,
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


@pytest.mark.parametrize("arguments", [{"warmup_steps": 0}, {"steps": 0}, {"extra_warmup_steps": -1}])
def test_counts_that_are_too_small_are_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        measure_latency(SleepingStep(forward=0.0), ["a"], CpuDevice(), **arguments)
