"""The plan of ``peprof run --dry-run``: what would be run, and what is there already."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from peprof.reports.formats import MISSING, human_bytes
from peprof.results.estimates import Estimate
from peprof.suite.planning import RunSpec

ESTIMATE_NOTE = "estimate: all tensors of a training step, to the byte; an allocator needs more."


def print_plan(
    console: Console,
    specs: Sequence[RunSpec],
    finished: Collection[str],
    estimates: Mapping[str, Estimate] | None = None,
    *,
    memory_bytes: int | None = None,
) -> None:
    """Prints a table with a row a run; what all runs have in common stands above it.

    Args:
        console: where to.
        specs: in the order in which they would be run.
        finished: run ids that have a record.
        estimates: by run id; ``None`` shows none.
        memory_bytes: of the device; ``None`` where that isn't known.
    """
    first = specs[0]
    left = sum(spec.run_id not in finished for spec in specs)
    console.print(f"{first.suite}: {len(specs)} runs, {left} to do", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("method", "options", "model", "data"):
        table.add_column(name, overflow="fold")
    for name in ("batch", "length", "rate", "seed"):
        table.add_column(name, justify="right")
    if estimates is not None:
        table.add_column("estimate", justify="right")
    table.add_column("phases")
    table.add_column("state")
    for spec in specs:
        table.add_row(
            spec.method.label,
            _options(spec.method.options),
            spec.model.name + (" (random weights)" if spec.model.weights == "random" else ""),
            str(spec.data.path or spec.data.name),
            str(spec.train.batch_size),
            str(spec.data.max_length),
            f"{spec.train.learning_rate:g}",
            str(spec.seed),
            *([_peak(estimates.get(spec.run_id))] if estimates is not None else []),
            _phases(spec),
            "done" if spec.run_id in finished else "to do",
        )
    console.print(table)
    if estimates is not None:
        console.print(ESTIMATE_NOTE, style="dim", highlight=False)
    for spec in specs:
        peak = _peak_bytes((estimates or {}).get(spec.run_id))
        if peak is not None and memory_bytes is not None and peak > memory_bytes:
            there = human_bytes(memory_bytes)
            text = f"{spec.method.label}, seed {spec.seed}, won't fit: {human_bytes(peak)} of {there}."
            console.print(text, style="bold yellow", highlight=False)


def _peak_bytes(estimate: Estimate | None) -> int | None:
    return estimate.peak_bytes if estimate is not None else None


def _peak(estimate: Estimate | None) -> str:
    peak = _peak_bytes(estimate)
    return MISSING if peak is None else human_bytes(peak)


def _phases(spec: RunSpec) -> str:
    """``short in 3 rounds, full``."""
    rounds = f" in {spec.short.rounds} rounds" if spec.short.rounds > 1 else ""
    return ", ".join(phase + (rounds if phase == "short" else "") for phase in spec.phases)


def _options(options: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return ", ".join(f"{key}={shown(value)}" for key, value in options.items()) or "–"


def plan_as_json(
    specs: Sequence[RunSpec], finished: Collection[str], estimates: Mapping[str, Estimate] | None = None
) -> str:
    """The plan as JSON: a list of runs with ``run_id``, ``finished``, the estimate and the whole ``spec``."""
    runs = [
        {
            "run_id": spec.run_id,
            "finished": spec.run_id in finished,
            "estimated_peak_bytes": _peak_bytes((estimates or {}).get(spec.run_id)),
            "spec": spec.model_dump(mode="json"),
        }
        for spec in specs
    ]
    return json.dumps(runs, indent=2)
