# ruff: noqa: E501 - lines stand here as they are printed
import io
import re

import pytest
from rich.console import Console

from peprof.events import Progress
from peprof.reports.progress import RunProgress
from tests.results.factory import make_dead_record, make_full, make_record, make_short


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def play(progress, clock):
    """Two runs of a suite of four, of which one was finished before and one is never started."""
    full = make_record("full", short=make_short(peak_mib=312, step_ms=(123,) * 5), full=make_full())
    lora = make_dead_record("lora", seed=1, hint="Take a smaller batch.")
    with progress:
        progress.progress(Progress(phase="setup: checking the suite"))
        clock.now_s += 1
        progress.progress(Progress(phase="setup: checking the suite"))
        clock.now_s += 5
        progress.progress(Progress(phase="setup: pre-training peprof/tiny", step=30, total=600, loss=4.25))
        progress.plan(4, 1)
        progress.notice("OFFLINE: the hub can't be reached")
        progress.run_started(full.spec, 2, 4)
        for step in range(60):
            clock.now_s += 1
            progress.progress(
                Progress(
                    phase="full: training",
                    step=step + 1,
                    total=60,
                    loss=1 - step / 100,
                    seconds_left=59.0 - step,
                    run_id=full.run_id,
                )
            )
            if step == 11:
                break
        progress.run_finished(full)
        progress.run_started(lora.spec, 3, 4)
        clock.now_s += 6
        progress.progress(Progress(phase="short: warm-up", step=2, run_id=lora.run_id))
        progress.run_finished(lora)
        progress.progress(Progress(phase="short: warm-up", step=3, run_id=lora.run_id))


def test_plain_lines(clock):
    file = io.StringIO()
    play(RunProgress(Console(file=file, width=60), clock=clock), clock)
    assert (
        file.getvalue()
        == """\
setup: checking the suite
setup: pre-training peprof/tiny 30/600, loss 4.250
4 runs, 1 finished before
OFFLINE: the hub can't be reached
[2/4] full, seed 0: started
[2/4] full, seed 0: full: training 5/60, loss 0.960, 0:55 left
[2/4] full, seed 0: full: training 10/60, loss 0.910, 0:50 left
[2/4] full, seed 0: ok in 10.2 min, accuracy 90.6 %, peak 312 MiB, step 123 ms
[3/4] lora, seed 1: started
[3/4] lora, seed 1: short: warm-up 2, suite: about 0:18 left
[3/4] lora, seed 1: out of memory in 'short: warm-up', asked for 2.00 GiB: out of memory → Take a smaller batch.
"""
    )


def test_rounds_are_told_and_their_time_counts_for_their_run(clock):
    records = [make_record(label, short=make_short(), rounds=2) for label in ("full", "lora")]
    file = io.StringIO()
    progress = RunProgress(Console(file=file, width=60), clock=clock)
    with progress:
        progress.plan(2, 0)
        for number in (1, 2):
            for index, record in enumerate(records, start=1):
                progress.round_started(record.spec, index, 2, number)
                clock.now_s += 10
                progress.round_finished(record.spec)
        progress.run_started(records[0].spec, 1, 2)
        clock.now_s += 20
        progress.run_finished(records[0])
        progress.run_started(records[1].spec, 2, 2)
        clock.now_s += 5
        progress.progress(Progress(phase="short: memory", run_id=records[1].run_id))
    lines = file.getvalue().splitlines()
    assert lines[1:5] == [
        "[1/2] full, seed 0, round 1 of 2: started",
        "[2/2] lora, seed 0, round 1 of 2: started",
        "[1/2] full, seed 0, round 2 of 2: started",
        "[2/2] lora, seed 0, round 2 of 2: started",
    ]
    assert (
        lines[-1] == "[2/2] lora, seed 0: short: memory, suite: about 0:35 left"
    )  # 40 s the first, 5 s spent


def terminal(clock, width=100):
    file = io.StringIO()
    return file, RunProgress(
        Console(file=file, width=width, force_terminal=True, color_system=None), clock=clock
    )


def frames(file):
    """What was drawn between movements of the cursor."""
    return [part for part in re.split(r"\x1b\[[0-9?]*[a-zA-Z]|\r", file.getvalue()) if part.strip()]


def test_bars_on_a_terminal(clock):
    file, progress = terminal(clock)
    play(progress, clock)
    lines = [" ".join(line.split()) for frame in frames(file) for line in frame.splitlines()]
    bar = "━╸╺ "
    told = ["".join(" " if c in bar else c for c in line) for line in lines]
    told = [" ".join(line.split()) for line in told]
    assert "setup: pre-training peprof/tiny 30/600 loss 4.250" in told
    assert "[2/4] full, seed 0 full: training 12/60 loss 0.890, 0:48 left" in told
    assert "all runs 1/4" in told
    assert "all runs 2/4 about 0:24 left" in told
    assert "[2/4] full, seed 0: ok in 10.2 min, accuracy 90.6 %, peak 312 MiB, step 123 ms" in told
    assert "OFFLINE: the hub can't be reached" in told
    assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_the_cursor_comes_back_after_an_interrupt(clock):
    file, progress = terminal(clock)
    with pytest.raises(KeyboardInterrupt), progress:
        progress.plan(2, 0)
        raise KeyboardInterrupt
    assert file.getvalue().endswith(("\x1b[?25h", "\x1b[2K", "\r"))
    assert "\x1b[?25h" in file.getvalue()


def test_a_line_fits_a_narrow_terminal(clock):
    file, progress = terminal(clock, width=60)
    record = make_record("lora@targets=attention.query+attention.value+feedforward.up,rank=64")
    with progress:
        progress.run_started(record.spec, 1, 1)
        progress.progress(
            Progress(phase="short: timing", step=1, total=2, loss=0.5, seconds_left=9, run_id=record.run_id)
        )
    drawn = [line for frame in frames(file) for line in frame.splitlines()]
    assert max(len(line) for line in drawn) <= 60
    assert any(re.search(r"^\[1/1\] lora@targ… short: timing .* 1/2 0:09 left", line) for line in drawn)


def test_runs_side_by_side_are_kept_apart(clock):
    file = io.StringIO()
    records = [make_record(label) for label in ("full", "lora")]
    with RunProgress(Console(file=file, width=100), clock=clock) as progress:
        progress.plan(4, 0)
        for index, record in enumerate(records, start=1):
            progress.run_started(record.spec, index, 4)
        clock.now_s = 10
        for record in records:
            progress.progress(Progress(phase="short: timing", step=3, total=9, run_id=record.run_id))
        progress.run_finished(records[0])
        progress.progress(Progress(phase="short: timing", step=4, total=9, run_id=records[1].run_id))
        clock.now_s = 15
        progress.progress(Progress(phase="short: timing", step=5, total=9, run_id=records[1].run_id))
    assert file.getvalue().splitlines()[3:] == [
        "[1/4] full, seed 0: short: timing 3/9",
        "[2/4] lora, seed 0: short: timing 3/9",
        "[1/4] full, seed 0: ok in 10.2 min",
        # three runs at the 10 s of the one that is done, less the 10 s that this one has had
        "[2/4] lora, seed 0: short: timing 5/9, suite: about 0:20 left",
    ]


def test_a_run_of_another_runner_counts_as_done_but_says_nothing_of_the_pace(clock):
    file = io.StringIO()
    with RunProgress(Console(file=file, width=100), clock=clock) as progress:
        progress.plan(2, 0)
        progress.run_finished(make_record("full"))
        mine = make_record("lora")
        progress.run_started(mine.spec, 2, 2)
        clock.now_s = 6
        progress.progress(Progress(phase="setup", run_id=mine.run_id))
    assert file.getvalue().splitlines() == [
        "2 runs",
        "full, seed 0: ok in 10.2 min",
        "[2/2] lora, seed 0: started",
        "[2/2] lora, seed 0: setup",
    ]
