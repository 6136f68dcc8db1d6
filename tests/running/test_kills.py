"""Killed at any moment: nothing finished is lost, nothing is left running, the same command completes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from peprof.results.store import ResultStore
from tests.running.helpers import command, environment, heed_interrupts, write_suite

RUNS = 45
MOMENTS = 20


def start(suite: Path, results: Path, *, one_thread: bool = True) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", suite, "--results", results, "--device", "cpu"),
        env=environment(one_thread=one_thread),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def run_children(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that do runs: children of the fork server, which is a child of the parent."""
    try:
        servers = psutil.Process(parent.pid).children()
        return [child for server in servers for child in server.children()]
    except psutil.NoSuchProcess:
        return []


def family(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(parent.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive, f"left running: {alive}"


def finished(results: Path) -> dict[str, bytes]:
    """The records that say ok, byte by byte; reading them all shows that none is torn."""
    store = ResultStore(results / "t")
    assert store.problems() == []
    return {
        record.run_id: (store.run_directory(record.run_id) / "record.json").read_bytes()
        for record in store.records()
        if record.status == "ok"
    }


@pytest.mark.slow(seconds=200)
@pytest.mark.timeout(900)
def test_killed_at_twenty_moments_each_run_is_recorded_exactly_once(tmp_path: Path) -> None:
    draw = random.Random(20)
    methods = ('name = "head"', 'name = "faulty"', 'name = "bitfit"')
    suite = write_suite(tmp_path, *methods, phases='"short"', seeds="[0]")
    # Seeds don't multiply a short phase; a matrix does.
    batches = list(range(1, RUNS // len(methods) + 1))
    suite.write_text(suite.read_text() + f'[matrix]\n"train.batch_size" = {batches}\n')
    results = tmp_path / "r"
    kept: dict[str, bytes] = {}
    kills = {"parent": 0, "child": 0}
    while sum(kills.values()) < MOMENTS or min(kills.values()) < MOMENTS // 4:
        parent = start(suite, results)
        if draw.random() < 0.3:
            time.sleep(draw.uniform(0.0, 3.0))  # somewhere in the start, before any run
        else:
            deadline = time.monotonic() + 60
            while not run_children(parent) and parent.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            for _ in range(draw.randint(0, 3)):
                time.sleep(draw.uniform(0.0, 1.0))
                for child in run_children(parent):
                    child.send_signal(signal.SIGKILL)
                    kills["child"] += 1
            time.sleep(draw.uniform(0.0, 1.0))
        relatives = family(parent)
        if parent.poll() is None:
            parent.kill()
            kills["parent"] += 1
        _, said = parent.communicate()
        # It may end by itself only when the child that prepares was killed, and says so.
        assert parent.returncode == -signal.SIGKILL or "killed by SIGKILL" in said, said
        assert "Traceback" not in said
        assert_all_gone(relatives)
        now = finished(results) if results.exists() else {}
        for run_id, record in kept.items():
            assert now[run_id] == record, "a finished record was lost or made again"
        kept = now

    done = subprocess.run(
        command("run", suite, "--results", results, "--device", "cpu"),
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    now = finished(results)
    assert len(now) == RUNS
    assert all(now[run_id] == record for run_id, record in kept.items())
    files = sorted(path.name for path in (results / "t" / "runs").glob("*/*") if path.name.startswith("."))
    assert files == [], "no half-written file is left"


@pytest.mark.slow
def test_ctrl_c_ends_the_children_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    hang = 'name = "faulty"\nhow = "hang"\nstep = 2'
    suite = write_suite(tmp_path, 'name = "head"', hang, phases='"short"')
    parent = start(suite, tmp_path / "r")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (
        (tmp_path / "r").exists() and finished(tmp_path / "r") and run_children(parent)
    ):
        time.sleep(0.1)
    time.sleep(0.5)
    relatives = family(parent)
    assert relatives
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == 130
    assert "the same command goes on" in said and "Traceback" not in said and "leaked" not in said
    assert_all_gone(relatives)
    assert len(finished(tmp_path / "r")) == 1


@pytest.mark.slow(seconds=45)
def test_two_runners_do_no_run_twice_and_one_goes_on_when_the_other_dies(tmp_path: Path) -> None:
    methods = ('name = "head"', 'name = "bitfit"', 'name = "faulty"')
    suite = write_suite(tmp_path, *methods, phases='"short"')
    suite.write_text(suite.read_text() + '[matrix]\n"train.batch_size" = [2, 3, 4, 5, 6]\n')
    results = tmp_path / "r"
    both = [start(suite, results) for _ in range(2)]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not results.exists() or len(finished(results)) < 3):
        time.sleep(0.05)
    # Both have one device and take turns at it as it comes; the one that has it now dies. Between two runs
    # neither has it for a moment.
    while not (at_work := [runner for runner in both if run_children(runner)]):
        assert time.monotonic() < deadline and len(finished(results)) < 15, "all was done before one died"
        time.sleep(0.001)
    busy = at_work[0]
    other = both[1 - both.index(busy)]
    relatives = family(busy)
    busy.kill()
    said_before_death = busy.communicate()[1]
    assert_all_gone(relatives)
    kept = finished(results)
    said = other.communicate(timeout=240)[1]
    assert other.returncode == 0, said
    now = finished(results)
    assert len(now) == 15
    assert all(now[run_id] == record for run_id, record in kept.items()), "no run is done twice"
    started = sum(": started" in line for line in (said_before_death + said).splitlines())
    assert started in (15, 16), "each run once, but for the one that was cut off"
