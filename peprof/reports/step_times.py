"""How long a run's steps took, by phase and by each clock, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from peprof.breakdown.sizes import human_percent
from peprof.reports.formats import MISSING, human_seconds, signed
from peprof.reports.terminal import print_table, say
from peprof.results.figures import ShortFigures, short_figures
from peprof.results.record import PhaseTimes, ShortResult
from peprof.results.statistics import median, quantile, quartiles

_PHASES = ("forward", "backward", "clip", "optimizer", "step")
_MEANINGS = {
    "waited": "waited: wall time of other steps, the device waited for at the end of each phase",
    "queued": "queued: the host's time, which doesn't wait",
    "queue empty": "queue empty: the host's, with nothing queued before",
}
_CLOCKS = {"cuda_events": "by the device's events", "perf_counter": "by the host's clock"}


def print_step_times(console: Console, short: ShortResult) -> None:
    """Prints the timing pass by phase, what the other clocks say of it, and how sure it is.

    Args:
        console: where to.
        short: of a record; one whose timing pass didn't finish has nothing to print.
    """
    figures, times = short_figures(short), short.times
    if figures is None or times is None:
        return
    heads = ["phase", "median", "quartiles", "90 %"]
    others = {"waited": times.wall, "queued": times.host, "queue empty": times.enqueue}
    known = {name: clock for name, clock in others.items() if clock is not None and clock.step_s}
    rows = [
        (*_own_cells(samples), *(_median(_samples(clock, phase)) for clock in known.values()))
        for phase in _PHASES
        if (samples := (phase, _samples(times, phase)))[1]
    ]
    print_table(console, "How long a training step takes", [*heads, *known], rows)
    if known:
        say(console, f"{'; '.join(_MEANINGS[name] for name in known)}.".capitalize(), "dim")
    for words in (_how_measured(figures, times.clock), *_beyond_steps(figures)):
        say(console, words, "dim")


def _samples(times: PhaseTimes, phase: str) -> Sequence[float]:
    found: Sequence[float] | None = getattr(times, f"{phase}_s")
    return found or ()


def _own_cells(named: tuple[str, Sequence[float]]) -> tuple[str, ...]:
    phase, samples = named
    parts = quartiles(samples)
    return (
        phase,
        human_seconds(parts.median),
        f"{human_seconds(parts.q1)} – {human_seconds(parts.q3)}",
        human_seconds(quantile(samples, 0.9)),
    )


def _median(samples: Sequence[float]) -> str:
    return human_seconds(median(samples)) if samples else MISSING


def _how_measured(figures: ShortFigures, clock: str) -> str:
    rounds = f" in {figures.rounds} rounds, methods in turns" if figures.rounds > 1 else ""
    words = (
        f"{figures.measured_steps} steps{rounds} {_CLOCKS[clock]}, after {figures.warmup_steps} to warm up"
    )
    if figures.warmed_up is False:
        words += " that did not take equally long yet"
    interval = figures.step_interval
    if interval is not None:
        words += (
            f"; the median step lies between {human_seconds(interval.low)} and "
            f"{human_seconds(interval.high)} (95 %)"
        )
    return f"{words}."


def _beyond_steps(figures: ShortFigures) -> list[str]:
    """What else there is to say: of the slowest steps, of the whole pass, and of who limits whom."""
    found = []
    if figures.step_p99_s is not None:
        found.append(f"99 of 100 steps within {human_seconds(figures.step_p99_s)}.")
    if figures.pass_step_s is not None:
        found.append(f"The whole pass by its steps: {human_seconds(figures.pass_step_s)}.")
    if figures.unsteady:
        drifted = ""
        if figures.drift is not None:
            share = signed(human_percent(abs(figures.drift)), figures.drift)
            drifted = f"{share} % from the first third to the last, "
        found.append(f"Unsteady: {drifted}quartiles {human_percent(figures.spread)} % apart.")
    if figures.launch_bound:
        found.append("Launch-bound: the host takes as long to queue a step as the device to do it.")
    return found
