"""The plan of ``peprof run --dry-run``: what would be run, and what is there already."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from peprof.suite.planning import RunSpec


def print_plan(console: Console, specs: Sequence[RunSpec], finished: Collection[str]) -> None:
    """Prints a table with a row a run; what all runs have in common stands above it.

    Args:
        console: where to.
        specs: in the order in which they would be run.
        finished: run ids that have a record.
    """
    first = specs[0]
    left = sum(spec.run_id not in finished for spec in specs)
    console.print(f"{first.suite}: {len(specs)} runs, {left} to do", style="bold", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("method", "options", "model", "data"):
        table.add_column(name, overflow="fold")
    for name in ("batch", "length", "rate", "seed"):
        table.add_column(name, justify="right")
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
            ", ".join(spec.phases),
            "done" if spec.run_id in finished else "to do",
        )
    console.print(table)


def _options(options: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    return ", ".join(f"{key}={shown(value)}" for key, value in options.items()) or "–"


def plan_as_json(specs: Sequence[RunSpec], finished: Collection[str]) -> str:
    """The plan as JSON: a list of runs with ``run_id``, ``finished`` and the whole ``spec``."""
    runs = [
        {
            "run_id": spec.run_id,
            "finished": spec.run_id in finished,
            "spec": spec.model_dump(mode="json"),
        }
        for spec in specs
    ]
    return json.dumps(runs, indent=2)
