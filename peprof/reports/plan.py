"""The plan of ``peprof run --dry-run``: what would be run, and what is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from peprof.reports.formats import MISSING, human_bytes
from peprof.reports.terminal import INDENT, rule_of, say
from peprof.results.estimates import Estimate
from peprof.suite.catalogue import MethodEntry, known_methods
from peprof.suite.planning import RunSpec

ESTIMATE_NOTE = "estimate: all tensors of a training step, to the byte; an allocator needs more."
POOL_NOTE = (
    "estimate: what the device's allocator would hold in a training step, simulated; context not in it."
)


_SETTINGS: Mapping[str, Callable[[RunSpec], str]] = {
    "model": lambda spec: spec.model.name + (" (random weights)" if spec.model.weights == "random" else ""),
    "data": lambda spec: str(spec.data.path or spec.data.name),
    "phases": lambda spec: _phases(spec),
    "batch": lambda spec: str(spec.train.batch_size),
    "length": lambda spec: str(spec.data.max_length),
    "rate": lambda spec: f"{spec.train.learning_rate:g}",
    "seed": lambda spec: str(spec.seed),
}
"""Heads -> what a run has there; where all have the same, it stands above the table."""


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
        memory_bytes: of the device for tensors; ``None`` where that isn't known.
    """
    found = estimates or {}
    left = sum(spec.run_id not in finished for spec in specs)
    say(console, f"{specs[0].suite}: {len(specs)} runs, {left} to do", "bold")
    values = {head: [value(spec) for spec in specs] for head, value in _SETTINGS.items()}
    shared = {head: cells[0] for head, cells in values.items() if len(set(cells)) == 1}
    say(console, " · ".join(f"{head} {text}" for head, text in shared.items()), "dim")
    table = Table(box=rule_of(console), pad_edge=False, show_edge=False, header_style="bold")
    heads = ["method", "options", *(head for head in values if head not in shared)]
    heads += [*(["estimate"] if found else []), "state"]
    for head in heads:
        right = head in ("batch", "length", "rate", "seed", "estimate")
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    methods = known_methods()
    for place, spec in enumerate(specs):
        table.add_row(
            spec.method.label,
            _options(_chosen(spec, methods)),
            *(cells[place] for head, cells in values.items() if head not in shared),
            *([_need(found.get(spec.run_id))] if found else []),
            "done" if spec.run_id in finished else "to do",
        )
    console.print()
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
    console.print()
    if found:
        say(console, _estimate_note(list(found.values())), "dim")
    for words in _warnings(specs, found, memory_bytes):
        say(console, words, "bold yellow")


def _chosen(spec: RunSpec, methods: Mapping[str, MethodEntry]) -> dict[str, Any]:
    """What the suite says of a method otherwise than the method itself."""
    chosen = methods[spec.method.name].chosen(spec.method.options)
    return chosen | ({"gradient_checkpointing": True} if spec.method.gradient_checkpointing else {})


def _estimate_note(estimates: Sequence[Estimate]) -> str:
    return POOL_NOTE if any(one.reserved_bytes is not None for one in estimates) else ESTIMATE_NOTE


def _warnings(
    specs: Sequence[RunSpec], estimates: Mapping[str, Estimate], memory_bytes: int | None
) -> list[str]:
    """Which runs won't fit, and of which it can't be told, each once."""
    lines: dict[str, None] = {}
    for spec in specs:
        estimate = estimates.get(spec.run_id)
        if estimate is None:
            continue
        if estimate.problem is not None:
            lines[f"{spec.method.label}: no estimate: {estimate.problem}"] = None
        need = estimate.need_bytes
        if need is not None and memory_bytes is not None and need > memory_bytes:
            there = human_bytes(memory_bytes)
            lines[f"{spec.method.label}, seed {spec.seed}, won't fit: {human_bytes(need)} of {there}."] = None
    return list(lines)


def _need(estimate: Estimate | None) -> str:
    need = estimate.need_bytes if estimate is not None else None
    return MISSING if need is None else human_bytes(need)


def _peak_bytes(estimate: Estimate | None) -> int | None:
    return estimate.peak_bytes if estimate is not None else None


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
