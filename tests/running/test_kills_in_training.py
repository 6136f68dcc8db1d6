"""A full training killed at any moment goes on from its last checkpoint: one record, the same to the bit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from peprof.suite.loading import load_suite
from tests.running.helpers import write_suite
from tests.running.test_kills import assert_all_gone, family, run_children, start
from tests.running.test_resuming import LORA, found, run

KILLS = 10


def long_suite(directory: Path) -> Path:
    """400 steps of a hundredth of a second, kept after each tenth."""
    path = write_suite(directory, LORA, rows=1600)
    text = path.read_text().replace(
        "epochs = 1", "epochs = 2\nevaluate_every_steps = 10\ncheckpoint_every_seconds = 1e-9\nkeep = 'best'"
    )
    path.write_text(text)
    return path


def until(condition: Callable[..., object], *arguments: object) -> None:
    deadline = time.monotonic() + 300
    while not condition(*arguments):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_newer(file: Path, time_ns: int) -> bool:
    return file.exists() and file.stat().st_mtime_ns > time_ns


@pytest.mark.slow(seconds=100)
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    draw = random.Random(5)
    path, results = long_suite(tmp_path), tmp_path / "r"
    plain, plain_store, _ = run(load_suite(path), tmp_path / "plain")
    assert plain.full is not None and plain.full.steps == 400

    directory = results / "t" / "runs" / plain.run_id
    kept = directory / "checkpoint" / "training.pt"
    steps: list[int] = []  # resumed at
    for kill in range(KILLS):
        parent = start(path, results, one_thread=False)
        if kill == 0:  # in the short phase, or before it
            until(run_children, parent)
        for _ in range(draw.randint(1, 3) if kill else 0):
            until(is_newer, kept, kept.stat().st_mtime_ns if kept.exists() else 0)
        time.sleep(draw.uniform(0.0, 0.05 if kill else 0.5))
        relatives = family(parent)
        of_parent = [psutil.Process(parent.pid)]
        for victim in (run_children(parent) or of_parent) if draw.random() < 0.5 else of_parent:
            victim.send_signal(signal.SIGKILL)
        _, said = parent.communicate(timeout=60)
        assert_all_gone(relatives)
        assert "Traceback (" not in said
        steps += [int(line.rpartition(" ")[2]) for line in said.splitlines() if "resumed at step" in line]

    record, store, heard = run(load_suite(path), results)
    steps += [int(notice.rpartition(" ")[2]) for notice in heard.notices if "resumed at step" in notice]
    assert record.full is not None
    assert record.full.resumes == KILLS - 1, "each attempt but the first two went on from an earlier one"
    # A parent that is killed may not have said all that it heard.
    assert steps and steps == sorted(set(steps)) and steps[0] >= 10 and steps[-1] < 400
    assert record.status == "ok" and record.warnings == ()
    assert [r.run_id for r in store.records()] == [plain.run_id] and store.problems() == []
    assert found(record, store) == found(plain, plain_store)
    assert {path.name for path in directory.iterdir() if path.is_dir()} == {"tensorboard"}
    assert not [path for path in directory.rglob(".*") if path.name != "run.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_parent_takes_its_child_along_and_the_last_checkpoint_counts(
    sent: signal.Signals, tmp_path: Path
) -> None:
    path = long_suite(tmp_path)
    parent = start(path, tmp_path / "r", one_thread=False)
    until(lambda: list((tmp_path / "r").glob("t/runs/*/checkpoint/training.pt")))
    relatives = family(parent)
    assert run_children(parent)
    parent.send_signal(sent)
    parent.communicate(timeout=30)
    assert parent.returncode == (130 if sent == signal.SIGINT else 143)
    assert_all_gone(relatives)
    record, _, _ = run(load_suite(path, overrides=("limits.run_seconds=300",)), tmp_path / "r")
    assert record.status == "ok" and record.attempt == 1 and record.full is not None
    assert record.full.resumes == 1 and record.full.steps == 400
