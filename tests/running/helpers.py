"""Suites that take a second, and a way to run them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from peprof.events import Progress
from peprof.results.record import RunRecord
from peprof.suite.planning import RunSpec

FAULTY = Path(__file__).parent / "faulty"

BASE = """
name = "t"
phases = [{phases}]
[model]
name = "peprof/tiny"
weights = "random"
[data]
name = "peprof/reviews"
max_length = 12
train_rows = {rows}
validation_rows = 16
[train]
batch_size = 8
epochs = 1
seeds = {seeds}
[short]
warmup_steps = 1
extra_warmup_steps = 0
steps = 3
{limits}
"""


def write_suite(
    directory: Path,
    *methods: str,
    phases: str = '"short", "full"',
    rows: int = 32,
    seeds: str = "[0]",
    limits: str = "",
) -> Path:
    """A suite's file; each method is the inside of its table."""
    text = BASE.format(phases=phases, rows=rows, seeds=seeds, limits=limits)
    text += "".join(f"[[methods]]\n{method}\n" for method in methods)
    path = directory / "t.toml"
    path.write_text(text)
    return path


def environment(*, one_thread: bool = True) -> dict[str, str]:
    """For a peprof in a process of its own, with the faulty methods installed.

    Args:
        one_thread: False where a run here is to go on from what the other process has kept: that needs the
            same number of threads.
    """
    paths = [str(FAULTY), *(os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **threads}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "peprof", *map(str, arguments)]


def heed_interrupts() -> None:
    """Tests in the background of a shell inherit that Ctrl-C is ignored, and would hand it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Listener:
    """Hears what a runner says."""

    def __init__(self) -> None:
        self.planned: list[tuple[int, int]] = []
        self.notices: list[str] = []
        self.started: list[str] = []
        self.rounds: list[tuple[str, int]] = []
        self.rounds_finished = 0
        self.events: list[Progress] = []
        self.finished: list[RunRecord] = []

    def plan(self, total_runs: int, finished_already: int) -> None:
        self.planned.append((total_runs, finished_already))

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def run_started(self, spec: RunSpec, index: int, total: int) -> None:
        self.started.append(spec.run_id)

    def round_started(self, spec: RunSpec, index: int, total: int, number: int) -> None:
        self.rounds.append((spec.method.label, number))

    def round_finished(self, spec: RunSpec) -> None:
        self.rounds_finished += 1

    def progress(self, event: Progress) -> None:
        self.events.append(event)

    def run_finished(self, record: RunRecord) -> None:
        self.finished.append(record)
