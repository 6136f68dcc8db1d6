"""The sampler's process: it starts, follows a stand-in GPU, and ends whatever happens beside it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from peprof.meters.sampler import Sampler, nvml_sampler
from peprof.meters.window import look_at
from tests.meters.fake_nvml import UUID

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _finds_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def gpu_sampler() -> Sampler:
    return nvml_sampler(UUID, os.getpid(), library="tests.meters.fake_nvml")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_it_follows_a_gpu_from_a_process_of_its_own(tmp_path: Path) -> None:
    with gpu_sampler() as sampler:
        pid = sampler.pid
        assert pid not in (None, os.getpid())
        time.sleep(0.5)
    assert pid is not None
    assert gone(pid)
    trace = sampler.trace()
    assert trace.why_cut is None
    first, last = trace.readings[0], trace.readings[-1]
    assert first.missing["process_bytes"].startswith("the library doesn't list this process")
    assert (first.power_w, first.memory_used_bytes) == (200.0, 900 * 2**20)
    assert last.at_s - first.at_s > 0.5
    assert last.energy_j is not None
    # On one clock with this process; the counter moves in tenths of a second, and a busy machine looks late.
    assert last.energy_j == pytest.approx(200.0 * (last.at_s - first.at_s), abs=200.0 * 0.4)
    assert abs(time.perf_counter() - last.at_s) < 60


def test_while_it_is_at_work_this_process_has_nothing_to_do() -> None:
    """No thread, no call, no signal: steps can't feel what doesn't run beside them."""
    own = psutil.Process()
    threads, handlers = own.num_threads(), [signal.getsignal(number) for number in signal.valid_signals()]
    with gpu_sampler() as sampler:
        assert sampler.pid != own.pid
        calls: list[str] = []
        sys.setprofile(lambda frame, event, argument: calls.append(event))
        try:
            time.sleep(0.2)  # several of its periods
        finally:
            sys.setprofile(None)
        assert calls == ["c_call", "c_return", "c_call"]  # sleep, back from it, and setprofile
        assert own.num_threads() == threads
        assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    assert len(sampler.trace().readings) >= 5


def test_it_ends_with_an_exception_of_what_is_measured() -> None:
    sampler = gpu_sampler()
    with pytest.raises(ZeroDivisionError), sampler:
        pid = sampler.pid
        _ = 1 / 0
    assert pid is not None
    assert gone(pid)
    assert sampler.trace().readings


def test_what_was_seen_stays_when_it_is_killed() -> None:
    with gpu_sampler() as sampler:
        begin_s = time.perf_counter()
        time.sleep(0.3)
        assert sampler.pid is not None
        os.kill(sampler.pid, signal.SIGKILL)
        time.sleep(0.3)
        end_s = time.perf_counter()
    trace = sampler.trace()
    assert trace.readings
    assert trace.why_cut == "the sampler's process ended by itself (signal 9)"
    seen = look_at(trace, begin_s, end_s)
    assert (seen.energy_j, seen.integrated_j) == (None, None)
    assert seen.unavailable["energy_j"] == seen.unavailable["integrated_j"] == trace.why_cut


def test_a_library_that_crashes_takes_nobody_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML", "crash")
    with gpu_sampler() as sampler:
        deadline_s = time.perf_counter() + 30
        while psutil.Process(sampler.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.perf_counter() < deadline_s
            time.sleep(0.02)
    trace = sampler.trace()
    assert trace.readings
    assert trace.why_cut == (
        "the sampler's process ended by itself (exit code 1): RuntimeError: the library has crashed"
    )


def test_a_process_that_cannot_even_begin() -> None:
    with nvml_sampler(UUID, 1, library="no_such_library") as sampler:
        pass
    assert sampler.trace().readings == ()
    assert sampler.trace().why_cut == (
        "the sampler's process ended by itself (exit code 1): "
        "ModuleNotFoundError: No module named 'no_such_library'"
    )
    seen = look_at(sampler.trace(), 1.0, 6.0)
    assert seen.energy_j is None
    assert set(seen.unavailable.values()) == {sampler.trace().why_cut}


def test_it_never_imports_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, peprof.meters.process, peprof.meters.sampler, peprof.meters.window, "
        "peprof.meters.nvml_source, peprof.meters.rapl\nprint({'torch', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
