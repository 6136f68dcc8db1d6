"""What ``peprof run`` shows on its way: bars on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from peprof.events import Progress
from peprof.reports.columns import failure_words
from peprof.reports.formats import human_bytes, human_clock, human_seconds, metric_words
from peprof.results.figures import metric_figures, short_figures
from peprof.results.record import RunRecord
from peprof.suite.planning import RunSpec

#: Without a terminal a run says where it is at most so often.
SECONDS_BETWEEN_LINES = 5.0

# Characters of a terminal: a wide bar from here on, no loss below there.
_ROOMY, _NARROW = 100, 72
_OTHER_COLUMNS = 60  # what phase, bar, steps, loss and time take
_SHORTEST_NAME = 16

_STYLES = {"ok": "green", "oom": "red", "failed": "red", "timeout": "red", "diverged": "yellow"}


@dataclass(kw_only=True)
class _Active:
    """A run that is going on, or what comes before the first one."""

    name: str
    started_s: float
    said_s: float
    phase: str = ""


class _View(Protocol):
    """Shows lines that stay, and where each run is."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def line(self, text: Text) -> None: ...
    def started(self, key: str, active: _Active) -> None: ...
    def at(self, key: str, active: _Active, event: Progress) -> None: ...
    def gone(self, key: str) -> None: ...
    def overall(self, done: int, total: int, left: str) -> None: ...


class RunProgress:
    """Follows the runs of a suite. A context manager: leaving it gives the terminal back.

    Args:
        console: where to; whether it is a terminal decides how it looks.
        clock: seconds from any start.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._view: _View = _BarView(console) if console.is_terminal else _LineView(console, clock)
        self._active: dict[str, _Active] = {}
        self._total = 0
        self._done = 0
        self._finished_before = 0
        self._run_times_s: list[float] = []
        self._rounds_s: dict[str, float] = {}

    def __enter__(self) -> RunProgress:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def plan(self, total_runs: int, finished_already: int) -> None:
        """Says how much there is to do."""
        self._preparing_is_over()
        self._total = total_runs
        self._finished_before = finished_already
        runs = "1 run" if total_runs == 1 else f"{total_runs} runs"
        before = f", {finished_already} finished before" if finished_already else ""
        self._show_overall()
        self._view.line(Text(f"{runs}{before}"))

    def notice(self, text: str) -> None:
        """Says something that must not be missed."""
        self._view.line(Text(text, style="bold yellow"))

    def tell(self, text: str) -> None:
        """Says something that stays to be read."""
        self._view.line(Text(text))

    def run_started(self, spec: RunSpec, index: int, total: int, words: str = "") -> None:
        """Says that a run starts; ``index`` counts from 1, ``words`` are said behind its name."""
        self._preparing_is_over()
        self._total = max(self._total, total)
        name = f"[{index}/{total}] {_name(spec)}{words}"
        now = self._clock()
        self._active[spec.run_id] = active = _Active(name=name, started_s=now, said_s=now)
        self._view.started(spec.run_id, active)

    def round_started(self, spec: RunSpec, index: int, total: int, number: int) -> None:
        """Says that a round of a run starts; ``index`` and ``number`` count from 1."""
        self.run_started(spec, index, total, f", round {number} of {spec.short.rounds}")

    def round_finished(self, spec: RunSpec) -> None:
        """Says nothing: the run comes later."""
        active = self._active.pop(spec.run_id)
        self._rounds_s[spec.run_id] = self._rounds_s.get(spec.run_id, 0.0) + self._clock() - active.started_s
        self._view.gone(spec.run_id)

    def progress(self, event: Progress) -> None:
        """Shows where a run is."""
        key = event.run_id or ""
        active = self._active.get(key)
        if active is None:
            if key:
                return  # a late word of a run that is over
            active = self._active[key] = _Active(name="", started_s=self._clock(), said_s=float("-inf"))
        self._show_overall()
        self._view.at(key, active, event)

    def run_finished(self, record: RunRecord) -> None:
        """Says how a run ended, with its key figures."""
        active = self._active.pop(record.run_id, None)
        self._view.gone(record.run_id)
        self._done += 1
        if active is not None:  # else another runner did it: that says nothing of our pace
            rounds_s = self._rounds_s.pop(record.run_id, 0.0)
            self._run_times_s.append(rounds_s + self._clock() - active.started_s)
        name = active.name if active is not None else _name(record.spec)
        self._show_overall()
        self._view.line(_result_line(name, record))

    def _preparing_is_over(self) -> None:
        if self._active.pop("", None) is not None:
            self._view.gone("")

    def _show_overall(self) -> None:
        if self._total:
            left = self._seconds_left()
            words = f"about {human_clock(left)} left" if left is not None else ""
            self._view.overall(self._finished_before + self._done, self._total, words)

    def _seconds_left(self) -> float | None:
        """Of all runs, from the mean of those done: rough, since methods differ."""
        if not self._run_times_s:
            return None
        mean = sum(self._run_times_s) / len(self._run_times_s)
        now = self._clock()
        spent = sum(min(now - active.started_s, mean) for active in self._active.values())
        left = (self._total - self._finished_before - self._done) * mean - spent
        return max(left, 0.0) / max(len(self._active), 1)


def _name(spec: RunSpec) -> str:
    return f"{spec.method.label}, seed {spec.seed}"


def _where(event: Progress) -> str:
    """``12/30``, ``12``, or nothing."""
    if event.total is not None:
        return f"{event.step}/{event.total}"
    return str(event.step) if event.step else ""


def _result_line(name: str, record: RunRecord) -> Text:
    """How a run ended: ``lora, seed 0: ok in 34.0 s, accuracy 90.6 %, peak 312 MiB, step 123 ms``."""
    line = Text(f"{name}: ")
    if record.status != "ok":
        return line.append(failure_words(record.status, record.failure), style=_STYLES[record.status])
    line.append("ok", style=_STYLES["ok"])
    parts = [f" in {human_seconds(record.total_time_s)}"]
    score = metric_figures(record).get(record.spec.data.judged_by[0])
    if score:
        parts.append(metric_words(score.metric, score.value))
    if record.short and record.short.memory:
        parts.append(f"peak {human_bytes(record.short.memory.peak_allocated_bytes)}")
    figures = short_figures(record.short)
    if figures:
        steps = f" ({figures.measured_steps} steps)" if figures.stopped_by_time else ""
        parts.append(f"step {human_seconds(figures.step.median)}{steps}")
    return line.append(", ".join(parts))


class _LineView:
    """Lines for logs and pipes: a few a minute and run, none of them ever rewritten."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._left = ""

    def start(self) -> None:
        """Needs nothing."""

    def stop(self) -> None:
        """Needs nothing."""

    def line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def started(self, key: str, active: _Active) -> None:
        self.line(Text(f"{active.name}: started"))

    def at(self, key: str, active: _Active, event: Progress) -> None:
        now = self._clock()
        if now - active.said_s < SECONDS_BETWEEN_LINES:
            return
        active.said_s = now
        parts = [f"{event.phase} {_where(event)}".strip()]
        if event.loss is not None:
            parts.append(f"loss {event.loss:.3f}")
        if event.seconds_left is not None:
            parts.append(f"{human_clock(event.seconds_left)} left")
        if self._left:
            parts.append(f"suite: {self._left}")
        name = f"{active.name}: " if active.name else ""
        self.line(Text(name + ", ".join(parts)))

    def gone(self, key: str) -> None:
        """Leaves what was said."""

    def overall(self, done: int, total: int, left: str) -> None:
        self._left = left


class _BarView:
    """One bar a run and one for the suite, below the lines of the runs that are done.

    Redrawn when a run says something, never by a thread of its own: that would disturb what is being timed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        one_line = Column(no_wrap=True, overflow="ellipsis")
        roomy = console.width >= _ROOMY
        self._has_loss = console.width >= _NARROW
        self._longest_name = max(console.width - _OTHER_COLUMNS, _SHORTEST_NAME)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=one_line),
            TextColumn("{task.fields[phase]}", markup=False, table_column=one_line),
            BarColumn(bar_width=20 if roomy else 10),
            TextColumn("{task.fields[where]}", justify="right", table_column=one_line),
            TextColumn("{task.fields[detail]}", style="dim", table_column=one_line),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._suite: TaskID | None = None

    def start(self) -> None:
        self._bars.start()

    def stop(self) -> None:
        self._bars.stop()

    def line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def started(self, key: str, active: _Active) -> None:
        self.at(key, active, Progress(phase="start"))

    def at(self, key: str, active: _Active, event: Progress) -> None:
        details = [f"loss {event.loss:.3f}"] if event.loss is not None and self._has_loss else []
        if event.seconds_left is not None:
            details.append(f"{human_clock(event.seconds_left)} left")
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task("", total=None, phase="", where="", detail="")
        self._bars.update(
            self._tasks[key],
            description=self._shortened(active.name),
            phase=event.phase,
            total=event.total,
            completed=event.step,
            where=_where(event),
            detail=", ".join(details),
        )
        self._bars.refresh()

    def _shortened(self, name: str) -> str:
        return name if len(name) <= self._longest_name else f"{name[: self._longest_name - 1]}…"

    def gone(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._bars.remove_task(task)

    def overall(self, done: int, total: int, left: str) -> None:
        if self._suite is None:
            self._suite = self._bars.add_task("all runs", total=total, phase="", where="", detail="")
        # Drawn with the line or the run's bar that follows.
        self._bars.update(self._suite, total=total, completed=done, where=f"{done}/{total}", detail=left)
