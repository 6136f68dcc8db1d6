"""Real processes that try a size: what the death, the error or the silence of one means."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from peprof.errors import RunFailedError
from peprof.events import Progress
from peprof.results.measured_fits import Trial
from peprof.running.executors import local
from peprof.running.executors.local import Exit
from peprof.running.tasks import Slot
from peprof.running.tries import Tries, _without_answer
from peprof.suite.loading import load_suite
from peprof.suite.planning import RunSpec, plan
from tests.running.helpers import write_suite

SLOT = Slot(device="cpu", lock="cpu")
LIMIT = 10**9


def spec_of(tmp_path: Path, method: str, limits: str = "") -> RunSpec:
    suite = load_suite(write_suite(tmp_path, method, phases='"short"', limits=limits)).suite
    return plan(suite, device="cpu")[0]


@pytest.fixture
def tries() -> Iterator[Tries]:
    with Tries(SLOT, source="t.toml", notice=lambda text: None) as made:
        yield made


def tried(tries: Tries, spec: RunSpec, limit: int = LIMIT) -> Trial:
    return tries(spec, spec.train.batch_size, limit, lambda event: None)


@pytest.mark.slow
def test_a_size_fits_up_to_its_peak_and_no_further(tmp_path: Path, tries: Tries) -> None:
    spec, heard = spec_of(tmp_path, 'name = "head"'), list[Progress]()
    found = tries(spec, 8, LIMIT, heard.append)
    assert found.ended == "fits" and found.fits and found.peak_bytes is not None
    assert (found.reserved_bytes, found.alloc_retries, found.phase, found.message) == (None,) * 4
    assert [event.phase for event in heard] == ["setup", "step 1 of 2", "step 2 of 2"]
    assert tried(tries, spec, found.peak_bytes).fits is True
    over = tried(tries, spec, found.peak_bytes - 1)
    assert (over.ended, over.fits, over.peak_bytes) == ("over", False, found.peak_bytes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "step", "ended", "fits", "words", "phase"),
    [
        ("oom", 1, "oom", False, "you tried to allocate 36028797018963968 bytes", "forward of step 1 of 2"),
        ("oom", 2, "oom", False, "DefaultCPUAllocator", "forward of step 2 of 2"),
        ("oom", 0, "oom", False, "DefaultCPUAllocator", "setup"),
        ("kill", 2, "killed", False, "killed by SIGKILL", "step 2 of 2"),
        ("exit", 1, "died", None, "exit code 7; its last words: these are my last words", "step 1 of 2"),
        ("raise", 2, "failed", None, "RuntimeError: mat1 and mat2 shapes", "forward of step 2 of 2"),
    ],
)
def test_what_an_end_means(
    how: str, step: int, ended: str, fits: bool | None, words: str, phase: str, tmp_path: Path, tries: Tries
) -> None:
    spec = spec_of(tmp_path, f'name = "faulty"\nhow = "{how}"\nstep = {step}')
    found = tried(tries, spec)
    assert (found.ended, found.fits, found.phase, found.peak_bytes) == (ended, fits, phase, None)
    assert found.message is not None and words in found.message
    assert tried(tries, spec_of(tmp_path, 'name = "head"')).fits, "the next one has a process of its own"


@pytest.mark.slow
def test_one_that_takes_too_long_is_ended(tmp_path: Path, tries: Tries) -> None:
    spec = spec_of(tmp_path, 'name = "faulty"\nhow = "hang"', limits="[limits]\nrun_seconds = 6")
    found = tried(tries, spec)
    assert (found.ended, found.fits) == ("timeout", None) and "limits.run_seconds" in str(found.message)
    assert 6 <= found.seconds < 20 and not tries._executor.busy_slots()


@pytest.mark.slow
def test_it_waits_for_another_peprof_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    other: list[FileLock | None] = [local._locked(SLOT)]
    assert other[0] is not None
    locked, looks = local._locked, 0

    def looked_up(slot: Slot) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert other[0] is not None
            other[0].release()
        return locked(slot)

    monkeypatch.setattr(local, "_locked", looked_up)
    with Tries(SLOT, source="t.toml", notice=notices.append) as tries:
        assert tried(tries, spec_of(tmp_path, 'name = "head"')).fits
    assert looks == 3 and len(notices) == 1 and "another peprof is measuring on cpu" in notices[0]


@pytest.mark.slow
def test_leaving_ends_what_is_going_on_and_a_processor_has_no_room_of_its_own(tmp_path: Path) -> None:
    begin = time.monotonic()

    def hear(event: Progress) -> None:
        if event.phase == "step 1 of 2":
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Tries(SLOT, source="t.toml", notice=lambda text: None) as tries,
    ):
        assert tries.room() is None
        tries(spec_of(tmp_path, 'name = "faulty"\nhow = "hang"'), 8, LIMIT, hear)
    assert time.monotonic() - begin < 60
    lock = local._locked(SLOT)
    assert lock is not None, "nobody has the device any more"
    lock.release()


@pytest.mark.parametrize(("on_host", "ended"), [(True, "killed"), (False, "died")])
def test_the_system_kills_for_the_hosts_memory_and_never_for_a_gpus(on_host: bool, ended: str) -> None:
    class Child:
        def log_tail(self) -> str:
            return ""

    found, words = _without_answer(Exit(code=-9), Child(), None, on_host=on_host)  # type: ignore[arg-type]
    assert found == ended and "SIGKILL" in words


def test_whoever_asks_for_a_devices_memory_in_vain_is_told_the_last_line_of_why(
    tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    traceback = "Traceback (most recent call last):\n  File 'x'\nRuntimeError: no driver\n\n"
    monkeypatch.setattr(tries, "_answer", lambda *_: Exit(code=1))
    monkeypatch.setattr(tries, "_started", lambda task: SimpleNamespace(log_tail=lambda: traceback))
    with pytest.raises(RunFailedError) as raised:
        tries.room()
    assert raised.value.hint == "RuntimeError: no driver"
