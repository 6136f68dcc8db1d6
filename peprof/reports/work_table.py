"""The work of a step and what using a model costs, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from peprof.breakdown.sizes import human_percent
from peprof.reports.formats import MISSING, human_bytes, human_large, human_ratio, human_seconds
from peprof.reports.terminal import print_table, say
from peprof.results.work_figures import InferenceFigures, PhaseRate, WorkFigures


def print_work(console: Console, figures: WorkFigures) -> None:
    """Prints operations, bytes and rates by phase, and what the rates are held against.

    Args:
        console: where to.
        figures: of a run's training step.
    """
    rows = [_rate_cells(one) for one in (*figures.phases, figures.step)]
    heads = ["phase", "operations", "bytes", "time", "per s"]
    if any(one.mfu is not None for one in figures.phases):
        heads.append("of peak")
    print_table(console, "What a training step has to do", heads, rows)
    say(console, f"Peak: {figures.peak_words}.", "dim")
    if figures.uncounted:
        say(console, f"Not counted, as no formula is known: {', '.join(figures.uncounted)}.", "yellow")


def print_inference(console: Console, figures: Sequence[InferenceFigures]) -> None:
    """Prints what the plain backbone, the adapted model and the merged one cost when they are used.

    Args:
        console: where to.
        figures: of a run; at least one.
    """
    generates = any(one.prefill_s is not None for one in figures)
    heads = ["model", "forward", "of plain", "peak"]
    if generates:
        heads += ["first token", "per token", "of plain"]
    print_table(console, "What using the model costs", heads, [_use_cells(one) for one in figures])
    if generates and any(one.cached is False for one in figures):
        say(console, "It generates without a cache of keys and values.", "dim")


def _rate_cells(one: PhaseRate) -> tuple[str, ...]:
    return (
        one.phase,
        human_large(one.flops),
        human_bytes(one.bytes_accessed),
        MISSING if one.seconds is None else human_seconds(one.seconds),
        MISSING if not one.flops_per_s else human_large(one.flops_per_s),
        MISSING if not one.mfu else f"{human_percent(one.mfu)} %",
    )


def _use_cells(one: InferenceFigures) -> tuple[str, ...]:
    def seconds(value: float | None) -> str:
        return MISSING if value is None else human_seconds(value)

    def ratio(value: float | None) -> str:
        return MISSING if value is None else human_ratio(value)

    peak = MISSING if one.peak_bytes is None else human_bytes(one.peak_bytes)
    return (
        one.form,
        seconds(one.forward_s),
        ratio(one.forward_ratio),
        peak,
        seconds(one.prefill_s),
        seconds(one.token_s),
        ratio(one.token_ratio),
    )
