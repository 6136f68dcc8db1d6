"""The CUDA code on a stand-in, and at the end the few tests that need a GPU."""

from __future__ import annotations

import gc
import random
from fractions import Fraction
from functools import partial

import pytest
import torch

import peprof.devices
from peprof.devices import CpuDevice, DeviceBytes, PeakBytes, PoolBytes, open_device
from peprof.devices.cuda import AllocatorMeter, CudaDevice, EventClock, fraction_of
from peprof.gpus.room import GpuRoom
from tests.devices.fake_allocator import MIB, FakeAllocator
from tests.devices.fake_cuda import FakeCuda

DEVICE = torch.device("cuda", 0)


def run_step(clock: EventClock, cuda: FakeCuda, times_ms: dict[str, float]) -> None:
    for phase, duration in times_ms.items():
        clock.mark(phase)
        cuda.now_ms += duration
    clock.mark(None)
    cuda.now_ms += 1000.0  # between steps: belongs to no step


def test_the_peak_of_a_long_time_is_the_allocators_own() -> None:
    cuda = FakeCuda()
    before = cuda.allocator.malloc(40 * MIB)
    cuda.allocator.free(before)
    cuda.allocator.empty_cache()
    kept = cuda.allocator.malloc(4 * MIB)  # of a pool of 20 MiB, as every request of 1 to 10 MiB
    meter = CudaDevice(0, cuda=cuda).peak_meter()
    passing = cuda.allocator.malloc(30 * MIB)
    cuda.allocator.free(passing)
    cuda.allocator.free(kept)
    meter.look()
    assert meter.result() == PeakBytes(
        source="cuda_allocator",
        start_bytes=4 * MIB,
        peak_bytes=34 * MIB,
        peak_reserved_bytes=50 * MIB,
    )


def test_of_another_allocator_only_what_it_counts_is_told() -> None:
    """CUDAMallocAsyncAllocator.cpp: stats that are of the native allocator "will contain zeroed values"."""
    cuda = FakeCuda(backend="cudaMallocAsync")
    with CudaDevice(0, cuda=cuda).memory_meter([]) as meter:
        for phase, mib in (("forward", 30), ("backward", 50), ("forward", 40), (None, 0)):
            meter.mark(phase)
            if mib:
                cuda.allocator.free(cuda.allocator.malloc(mib * MIB))
    found = meter.result()
    assert [(one.phase, one.peak_bytes, one.pool) for one in found.phases] == [
        ("forward", 40 * MIB, None),
        ("backward", 50 * MIB, None),
    ]
    assert (found.peak_bytes, found.peak_reserved_bytes) == (50 * MIB, cuda.allocator.peak["reserved_bytes"])
    assert (found.alloc_retries, found.ooms) == (None, None)


def test_its_memory_is_what_torch_says_it_has() -> None:
    assert CudaDevice(0, cuda=FakeCuda()).memory_bytes() == 80 * 2**30


def test_energy_that_nobody_tells_is_none_and_has_a_reason() -> None:
    device = CudaDevice(0, cuda=FakeCuda())  # the machine knows no GPU of its name
    assert device.energy_j() is None
    assert "management library" in str(device.why_no_energy())


def test_each_phase_has_the_time_between_its_events() -> None:
    cuda = FakeCuda()
    clock = EventClock(cuda, DEVICE)
    run_step(clock, cuda, {"forward": 10.0, "backward": 20.0, "clip": 0.5, "optimizer": 4.0})
    run_step(clock, cuda, {"forward": 11.0, "backward": 21.0, "clip": 0.5, "optimizer": 5.0})
    assert cuda.synchronisations == 0, "marking must not wait for the device"

    first, second = clock.drain()

    assert cuda.synchronisations == 1
    assert first.phases_s == pytest.approx(
        {"forward": 0.010, "backward": 0.020, "clip": 0.0005, "optimizer": 0.004}
    )
    assert first.total_s == pytest.approx(0.0345)
    assert second.total_s == pytest.approx(0.0375)


def test_events_are_reused_so_that_a_long_training_does_not_pile_them_up() -> None:
    cuda = FakeCuda()
    clock = EventClock(cuda, DEVICE)
    for _ in range(100):
        run_step(clock, cuda, {"forward": 1.0, "backward": 2.0, "optimizer": 3.0})
        assert [step.total_s for step in clock.drain()] == pytest.approx([0.006])
    assert cuda.events_made == 4


def test_a_step_that_has_not_ended_waits_for_the_next_drain() -> None:
    cuda = FakeCuda()
    clock = EventClock(cuda, DEVICE)
    clock.mark("forward")
    cuda.now_ms += 7.0
    assert clock.drain() == []
    clock.mark(None)
    assert [step.total_s for step in clock.drain()] == pytest.approx([0.007])


def test_the_host_is_timed_at_the_same_marks_by_its_own_clock() -> None:
    cuda = FakeCuda()
    host_ns = iter(range(0, 10**9, 250_000))
    clock = EventClock(cuda, DEVICE, now_ns=lambda: next(host_ns))
    run_step(clock, cuda, {"forward": 10.0, "backward": 20.0, "optimizer": 4.0})
    clock.mark("forward")
    (step,) = clock.drain()
    assert step.phases_s == pytest.approx({"forward": 0.010, "backward": 0.020, "optimizer": 0.004})
    assert step.host is not None and step.host.host is None
    assert step.host.phases_s == pytest.approx({"forward": 25e-5, "backward": 25e-5, "optimizer": 25e-5})
    assert step.host.total_s == pytest.approx(75e-5)


def test_a_mark_is_two_readings_and_nothing_else() -> None:
    """What a mark asks of device and host, each time: more of it would be part of what is timed."""
    asked: list[str] = []

    class Counted(FakeCuda):
        def __getattribute__(self, name: str) -> object:
            if name in ("synchronize", "current_stream", "Event", "memory_stats"):
                asked.append(name)
            return super().__getattribute__(name)

    def now_ns() -> int:
        asked.append("host")
        return 0

    clock = EventClock(Counted(), DEVICE, now_ns=now_ns)
    clock.mark("forward")
    clock.mark(None)
    clock.drain()
    asked.clear()
    clock.mark("forward")
    assert asked == ["current_stream", "host"]


def test_a_phase_entered_twice_is_summed() -> None:
    cuda = FakeCuda()
    clock = EventClock(cuda, DEVICE)
    for phase, duration in (("forward", 1.0), ("backward", 2.0), ("forward", 3.0), ("backward", 4.0)):
        clock.mark(phase)
        cuda.now_ms += duration
    clock.mark(None)
    (step,) = clock.drain()
    assert step.phases_s == pytest.approx({"forward": 0.004, "backward": 0.006})


def test_the_allocators_peaks_are_read_and_reset_at_each_phase() -> None:
    """Blocks are multiples of 512 bytes; small ones come from segments of 2 MiB."""
    cuda = FakeCuda()
    pool = cuda.allocator
    pool.malloc(1000)
    pool.free(pool.malloc(5000))  # an old peak, which must not count
    with AllocatorMeter(cuda, DEVICE) as meter:
        meter.mark("forward")
        kept = pool.malloc(200)
        meter.mark("backward")
        other = pool.malloc(1100)
        pool.free(kept, awaiting=True)  # another stream still uses it
        pool.free(other)
        pool.complete(kept)
        meter.mark("optimizer")
        large = pool.malloc(3 * 2**20)  # from a segment of 20 MiB, whose rest is split off
        pool.free(large)
        meter.mark(None)
    found = meter.result()
    assert found.start_bytes == 1024
    assert [(p.phase, p.peak_bytes, p.end_bytes) for p in found.phases] == [
        ("forward", 1536, 1536),
        ("backward", 3072, 1024),
        ("optimizer", 1024 + 3 * 2**20, 1024),
    ]
    assert [p.pool for p in found.phases] == [
        PoolBytes(
            requested_bytes=1200,
            allocated_bytes=1536,
            active_bytes=1536,
            reserved_bytes=2 * 2**20,
            inactive_split_bytes=2 * 2**20 - 1024,  # before 200 bytes were asked for
        ),
        PoolBytes(
            requested_bytes=2300,
            allocated_bytes=3072,
            active_bytes=3072,
            reserved_bytes=2 * 2**20,
            inactive_split_bytes=2 * 2**20 - 1024,
        ),
        PoolBytes(
            requested_bytes=1000 + 3 * 2**20,
            allocated_bytes=1024 + 3 * 2**20,
            active_bytes=1024 + 3 * 2**20,
            reserved_bytes=22 * 2**20,
            inactive_split_bytes=2 * 2**20 - 1024 + 17 * 2**20,
        ),
    ]
    assert found.peak_bytes == 1024 + 3 * 2**20
    assert found.peak_reserved_bytes == found.end_reserved_bytes == 22 * 2**20
    assert found.source == "cuda_allocator"
    assert (found.alloc_retries, found.ooms) == (0, 0)


def test_a_phase_entered_twice_has_the_higher_of_each_peak() -> None:
    cuda = FakeCuda()
    with AllocatorMeter(cuda, DEVICE) as meter:
        for size in (4096, 512):
            meter.mark("forward")
            block = cuda.allocator.malloc(size)
            meter.mark("backward")
            cuda.allocator.free(block)
        meter.mark(None)
    (forward, backward) = meter.result().phases
    assert (forward.peak_bytes, forward.end_bytes) == (4096, 512)
    assert (backward.peak_bytes, backward.end_bytes) == (4096, 0)
    assert forward.pool is not None and forward.pool.requested_bytes == 4096


def test_retries_and_ooms_are_those_of_the_step() -> None:
    cuda = FakeCuda(allocator=FakeAllocator(capacity=64 * 2**20))
    pool = cuda.allocator
    with pytest.raises(torch.OutOfMemoryError):
        pool.malloc(100 * 2**20)  # before the step
    with AllocatorMeter(cuda, DEVICE) as meter:
        meter.mark("forward")
        pool.free(pool.malloc(40 * 2**20))
        pool.free(pool.malloc(50 * 2**20))  # has room only where the 40 MiB were
        with pytest.raises(torch.OutOfMemoryError):
            pool.malloc(65 * 2**20)  # somebody catches it
        meter.mark(None)
    found = meter.result()
    assert (found.alloc_retries, found.ooms) == (2, 1)


def test_what_the_pool_does_not_own_is_the_rest_of_the_devices_bytes() -> None:
    cuda = FakeCuda()
    asked: list[int] = []

    def used(reserved_bytes: int) -> DeviceBytes:
        asked.append(reserved_bytes)
        return DeviceBytes(used_bytes=500 * 2**20, of="process")

    with AllocatorMeter(cuda, DEVICE, used) as meter:
        meter.mark("forward")
        cuda.allocator.malloc(3 * 2**20)
        meter.mark(None)
    assert asked == [20 * 2**20]
    assert meter.result().unowned_bytes == 480 * 2**20
    with AllocatorMeter(cuda, DEVICE) as meter:
        meter.mark("forward")
        meter.mark(None)
    assert meter.result().device is None and meter.result().unowned_bytes is None


def test_reserved_memory_starts_from_what_is_in_use_once_the_cache_is_released() -> None:
    cuda = FakeCuda()
    device = CudaDevice(0, cuda=cuda)
    cuda.allocator.malloc(1000)
    cuda.allocator.free(cuda.allocator.malloc(5 * 2**20))
    assert cuda.allocator.current["reserved_bytes"] == 22 * 2**20
    device.release_cached_memory()
    with device.memory_meter([]) as meter:
        meter.mark("forward")
        cuda.allocator.malloc(300)
        meter.mark(None)
    assert meter.result().peak_reserved_bytes == 2 * 2**20


def test_the_device_is_known_by_its_uuid() -> None:
    facts = CudaDevice(0, cuda=FakeCuda()).facts()
    assert (facts.name, facts.uuid, facts.kind) == ("NVIDIA Fake 100", "GPU-1234", "cuda")


def test_on_a_device_other_than_the_first_its_own_clock_and_counters_are_used() -> None:
    cuda = FakeCuda(work_index=1)
    device = CudaDevice(1, cuda=cuda)
    cuda.set_device(0)  # as a library might, in between
    clock = device.clock()
    clock.mark("forward")
    cuda.now_ms += 5.0
    clock.mark(None)
    assert [step.total_s for step in clock.drain()] == pytest.approx([0.005])
    with device.memory_meter([]) as meter:
        meter.mark("forward")
        cuda.allocator.malloc(700)
        meter.mark(None)
    assert meter.result().peak_bytes == 1024
    device.synchronize()
    assert device.facts().uuid == "GPU-1234"


@pytest.mark.parametrize("total", [8 * 2**30, 84_929_347_584, 25_386_352_640, 12_582_912_001])
def test_a_limit_is_kept_to_the_byte_as_the_allocator_turns_a_fraction_back_into_bytes(total: int) -> None:
    """Exact rational arithmetic says which bytes a fraction means."""
    draw = random.Random(total)
    for limit in (1, 2**31, total - 1, total, *(draw.randrange(1, total) for _ in range(2_000))):
        fraction = fraction_of(limit, total)
        assert 0 < fraction <= 1 and int(fraction * total) == limit
        assert abs(Fraction(fraction) * total - limit) < Fraction(1, 1000)
    assert fraction_of(total + 1, total) == 1.0


def test_memory_runs_out_at_the_limit_and_what_is_free_is_told() -> None:
    cuda = FakeCuda(
        allocator=FakeAllocator(capacity=1000 * MIB, driver_bytes=300 * MIB), hidden_bytes=37 * MIB
    )
    device = CudaDevice(0, cuda=cuda)
    assert device.room() == GpuRoom(free_bytes=700 * MIB, total_bytes=1000 * MIB)
    assert device.memory_bytes() == 1037 * MIB
    device.limit_memory(64 * MIB)
    block = cuda.allocator.malloc(64 * MIB)
    assert device.room().free_bytes == 636 * MIB
    assert device.bytes_for_tensors() == 700 * MIB, "what the pool holds is there for tensors"
    with pytest.raises(torch.OutOfMemoryError):
        cuda.allocator.malloc(1)
    cuda.allocator.free(block)
    with pytest.raises(torch.OutOfMemoryError):
        cuda.allocator.malloc(64 * MIB + 1)


def test_a_limit_is_that_of_the_device_that_was_opened() -> None:
    cuda = FakeCuda(work_index=1, allocator=FakeAllocator(capacity=100 * MIB))
    device = CudaDevice(1, cuda=cuda)
    cuda.set_device(0)
    device.limit_memory(10 * MIB)
    assert cuda.allocator.allowed == 10 * MIB


def test_a_processor_has_no_memory_of_its_own_to_be_limited() -> None:
    assert CpuDevice().room() is None
    CpuDevice().limit_memory(1)
    assert torch.zeros(1000).sum() == 0


def test_opening_a_device_makes_it_the_one_that_work_without_a_device_goes_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda(work_index=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(peprof.devices, "CudaDevice", partial(CudaDevice, cuda=cuda))
    assert open_device("cuda:1").torch_device == torch.device("cuda", 1)
    assert cuda.current_index == 1
    open_device("cuda")
    assert cuda.current_index == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_peak_is_the_allocators_own() -> None:
    gc.collect()
    torch.cuda.empty_cache()  # a cached block that is a little larger would be taken, and counted whole
    device = CudaDevice(0)
    with device.memory_meter([]) as meter:
        meter.mark("forward")
        block = torch.empty(8 * 2**20, dtype=torch.uint8, device="cuda")
        del block
        meter.mark(None)
    found = meter.result()
    assert found.peak_bytes - found.start_bytes == 8 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_events_agree_with_the_wall_clock() -> None:
    import time

    device = CudaDevice(0)
    clock = device.clock()
    a = torch.randn(4096, 4096, device="cuda")
    torch.mm(a, a)
    device.synchronize()
    begin = time.perf_counter()
    clock.mark("forward")
    for _ in range(50):
        torch.mm(a, a)
    clock.mark(None)
    (step,) = clock.drain()
    wall_s = time.perf_counter() - begin
    assert 0.8 * wall_s < step.total_s <= wall_s
