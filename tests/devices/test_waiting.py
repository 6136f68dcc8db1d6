"""The clock whose marks wait, on a device behind a queue."""

from __future__ import annotations

import pytest

from peprof.devices import CpuDevice
from peprof.devices.cuda import CudaDevice
from tests.devices.fake_queue import QueuedCuda


def test_a_phase_lasts_until_the_device_has_done_it_and_is_queued_before() -> None:
    cuda = QueuedCuda()
    clock = CudaDevice(0, cuda=cuda, now_ns=cuda.now_ns).waiting_clock()
    cuda.work(queue_ms=1, device_ms=500)  # of a step before: no part of this one
    clock.mark("forward")
    cuda.work(queue_ms=1, device_ms=4)
    cuda.work(queue_ms=2, device_ms=4)  # queued while the device does the first
    clock.mark("optimizer")
    cuda.work(queue_ms=3, device_ms=0.5)
    clock.mark(None)
    (step,) = clock.drain()
    assert step.phases_s == pytest.approx({"forward": 0.009, "optimizer": 0.0035})
    assert step.total_s == pytest.approx(0.0125)
    assert step.host is not None
    assert step.host.phases_s == pytest.approx({"forward": 0.003, "optimizer": 0.003})
    assert step.host.total_s == pytest.approx(0.006), "without the waits"
    assert clock.drain() == []


def test_on_a_cpu_there_is_one_clock_only() -> None:
    assert CpuDevice().waiting_clock() is None
    clock = CpuDevice().clock()
    for phase in ("forward", "backward", None):
        clock.mark(phase)
    assert [step.host for step in clock.drain()] == [None], "kept once"
