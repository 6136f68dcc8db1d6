"""A run whose short phase runs out of memory: the record says whose it was, and the first error stays."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from peprof.breakdown.values import StepProfile
from peprof.devices import DeviceBytes
from peprof.devices.cpu import CpuDevice
from peprof.devices.cuda import AllocatorMeter
from peprof.results.record import PoolPeaks
from peprof.running import subject, worker
from peprof.running.tasks import RunResult
from tests.devices.fake_allocator import MIB, FakeAllocator
from tests.devices.fake_cuda import FakeCuda
from tests.running.test_phases import Examples, Kept, make_spec, make_step, run_short

TOO_MUCH = 2**55
WARM_UP, TIMED, MEMORY = 2, 4, 2
"""Steps of each pass; the ledger's is one more."""


class Greed:
    """Makes a run's classifier ask for too much in chosen training steps, counted from 1."""

    def __init__(self, steps: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.done = set(steps), 0
        self.error: Exception | None = None
        self.held: list[weakref.ref[torch.UntypedStorage]] = []
        self.held_alive: list[int] = []
        apply = subject.apply_method

        def apply_method(*arguments: Any) -> Any:
            applied = apply(*arguments)
            applied.model.classifier.register_forward_pre_hook(self._before)
            return applied

        monkeypatch.setattr(subject, "apply_method", apply_method)

    def _before(self, module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        self.done += 1
        self.held_alive.append(sum(held() is not None for held in self.held))
        if self.done in self.steps:
            self.held.append(weakref.ref(arguments[0].untyped_storage()))
            if self.error is not None and self.done > min(self.steps):
                raise self.error
            torch.empty(TOO_MUCH, dtype=torch.uint8)


def run() -> RunResult:
    return worker.run(make_spec(steps=TIMED), device_name="cpu", source="", attempt=1, say=lambda event: None)


def check_first_error(result: RunResult, phase: str) -> None:
    failure = result.record.failure
    assert result.record.status == "oom" and failure is not None
    assert (failure.phase, failure.kind, failure.requested_bytes) == (phase, "RuntimeError", TOO_MUCH)
    assert failure.message.startswith("[enforce fail at alloc_cpu.cpp")
    assert failure.hint is not None and "batch_size" in failure.hint
    assert failure.traceback is not None and "can't allocate memory" in failure.traceback


def check_memory(result: RunResult) -> StepProfile:
    """The record's short words are those of the whole profile beside it."""
    assert result.record.failure is not None
    memory, profile = result.record.failure.memory, result.memory
    assert memory is not None and profile is not None and profile.ran_out is not None
    assert (memory.phase, memory.module) == ("forward", "classifier")
    assert memory.operator == profile.ran_out.operator == "aten.empty.memory_format"
    assert profile.ran_out.requested_bytes == TOO_MUCH
    assert memory.categories == profile.ran_out.live.categories
    assert sum(memory.categories.values()) == memory.live_bytes
    return profile


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "phase"),
    [(1, "short: warm-up"), (4, "short: timing"), (WARM_UP + TIMED + 2, "short: memory")],
)
def test_the_step_is_run_again_under_the_ledger(
    step: int, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    greed = Greed(range(step, 100), monkeypatch)
    result = run()
    check_first_error(result, phase)
    check_memory(result)
    assert greed.done == step + 1
    assert (result.record.short is not None) == (phase == "short: memory")
    # When the step is run again, nothing is left of the first error's.
    assert greed.held_alive[-1] == 0


@pytest.mark.slow
def test_what_the_optimizer_has_is_counted_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    Greed(range(4, 100), monkeypatch)
    categories = dict(check_memory(run()).ran_out.live.categories)  # type: ignore[union-attr]
    # Adam's two moments, and its count of steps: 4 bytes for each tensor.
    moments = categories["optimizer_state"] - 2 * categories["parameters.trainable"]
    assert 0 < moments < 4 * 200 and moments % 4 == 0
    assert "gradients" not in categories, "those of the first step were dropped"


@pytest.mark.slow
def test_the_second_step_is_tried_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    greed = Greed({4, 6}, monkeypatch)
    result = run()
    check_first_error(result, "short: timing")
    check_memory(result)
    assert greed.done == 6


@pytest.mark.slow
def test_a_step_that_does_not_run_out_again_leaves_the_error_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    greed = Greed({4}, monkeypatch)
    result = run()
    check_first_error(result, "short: timing")
    assert result.record.failure is not None and result.record.failure.memory is None
    assert result.memory is None and greed.done == 4 + 2


@pytest.mark.slow
def test_another_error_when_run_again_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    greed = Greed({4, 5}, monkeypatch)
    greed.error = ZeroDivisionError("on purpose")
    result = run()
    check_first_error(result, "short: timing")
    assert result.record.failure is not None and result.record.failure.memory is None
    assert result.record.warnings == ("whose the memory was can't be said: on purpose",)


@pytest.mark.slow
def test_when_the_ledgers_own_pass_runs_out_nothing_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    last = WARM_UP + TIMED + MEMORY + 1
    greed = Greed(range(last, 100), monkeypatch)
    result = run()
    check_first_error(result, "short: breakdown")
    check_memory(result)
    assert greed.done == last
    short = result.record.short
    assert short is not None and short.memory is not None and short.breakdown is None


class PoolDevice(CpuDevice):
    """A CPU whose memory is counted by a pool on a device with 300 MiB in use."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def memory_meter(self, resident: Iterable[torch.Tensor]) -> Any:
        used = DeviceBytes(used_bytes=300 * MIB, of="process")
        return AllocatorMeter(self._cuda, torch.device("cuda", 0), lambda reserved_bytes: used)


@pytest.mark.slow
@pytest.mark.parametrize(("capacity", "reserved", "retries"), [(2**30, 50 * MIB, 0), (40 * MIB, 30 * MIB, 1)])
def test_the_pools_counters_are_in_the_record_and_retries_are_warned_of(
    capacity: int, reserved: int, retries: int
) -> None:
    cuda, step, kept = FakeCuda(allocator=FakeAllocator(capacity=capacity)), make_step(), Kept()
    pool = cuda.allocator

    def ask(module: nn.Module, arguments: object) -> None:
        pool.empty_cache()
        pool.free(pool.malloc(19 * MIB))  # in a segment of 20 MiB
        pool.free(pool.malloc(30 * MIB - 1))  # of 40 MiB, only where those were

    step.model.register_forward_pre_hook(ask)
    memory = run_short(make_spec(), step, Examples(), PoolDevice(cuda), lambda event: None, kept).memory
    assert memory is not None and memory.source == "cuda_allocator"
    assert memory.phases[0].pool == PoolPeaks(
        requested_bytes=30 * MIB - 1,
        allocated_bytes=30 * MIB,
        active_bytes=30 * MIB,
        reserved_bytes=reserved,
        inactive_split_bytes=0,
    )
    assert (memory.alloc_retries, memory.ooms) == (retries, 0)
    assert (memory.device_bytes, memory.device_bytes_of) == (300 * MIB, "process")
    assert memory.unowned_bytes == 300 * MIB - reserved
    assert ["emptied 1 time(s)" in warning for warning in kept.warnings] == [True] * retries
