from __future__ import annotations

import time

import pytest
import torch

from peprof.devices import CpuDevice, open_device, resolve_kind
from peprof.devices.cpu import HostClock, storage_bytes
from peprof.devices.memory_errors import as_out_of_memory
from peprof.errors import DeviceError


def test_the_host_clock_times_what_is_between_its_marks() -> None:
    clock = HostClock()
    clock.mark("forward")
    time.sleep(0.02)
    clock.mark("backward")
    time.sleep(0.04)
    clock.mark(None)
    (step,) = clock.drain()
    assert 0.02 <= step.phases_s["forward"] < 0.2
    assert 0.04 <= step.phases_s["backward"] < 0.4
    assert step.total_s == pytest.approx(sum(step.phases_s.values()))
    assert clock.drain() == []


def test_allocations_are_counted_to_the_byte() -> None:
    resident = torch.empty(1000, dtype=torch.uint8)
    with CpuDevice().memory_meter([resident, resident[10:], resident.view(10, 100)]) as meter:
        meter.mark("forward")
        first = torch.empty(3000, dtype=torch.uint8)
        second = torch.empty(500, dtype=torch.uint8)
        del first
        meter.mark("backward")
        third = torch.empty(700, dtype=torch.uint8)
        del second
        meter.mark(None)
    found = meter.result()
    del third
    assert found.start_bytes == 1000, "views share a storage, which counts once"
    assert [(p.phase, p.peak_bytes, p.end_bytes) for p in found.phases] == [
        ("forward", 1000 + 3500, 1000 + 500),
        ("backward", 1000 + 500 + 700, 1000 + 700),
    ]
    assert found.peak_bytes == 4500
    assert found.peak_reserved_bytes is None, "the CPU has no pool"


def test_storages_are_counted_once() -> None:
    base = torch.zeros(4, 4)
    assert storage_bytes([base, base.t(), base[0], torch.zeros(0)]) == 64


def test_out_of_memory_is_recognised_with_what_was_asked_for() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**50, dtype=torch.uint8)
    found = as_out_of_memory(real.value)
    assert found is not None and found.requested_bytes == 2**50

    text = "CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has a total capacity of 79.11 GiB"
    found = as_out_of_memory(torch.OutOfMemoryError(text))
    assert found is not None and found.requested_bytes == int(20.5 * 2**20)

    assert as_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert as_out_of_memory(ValueError("memory")) is None


def test_devices_by_name() -> None:
    assert open_device("cpu").kind == "cpu"
    assert resolve_kind("auto") in ("cpu", "cuda")
    for wrong in ("gpu", "cuda:x", "cpux", ""):
        with pytest.raises(DeviceError, match="unknown device"):
            resolve_kind(wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_says_what_to_do() -> None:
    with pytest.raises(DeviceError) as error:
        resolve_kind("cuda")
    assert error.value.hint is not None and "--device cpu" in error.value.hint
