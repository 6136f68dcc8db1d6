"""What steps were predicted to need beside what they took, over many of them: 80 on a GPU.

    python -m benchmarks.gpu_estimates --output DIRECTORY [--device cuda]

Writes estimates.json and estimates.md, anew after each model, and keeps the records: the same command goes on
where it stopped. Needs no network: weights are random, data is generated.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peprof.reports.formats import MISSING, human_bytes
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.predicted_columns import error_words
from peprof.results.predicted import FIGURES, Figure, RowPredictions, accuracy, row_predictions
from peprof.results.record import RunRecord
from peprof.running.runner import run_suite
from peprof.suite.loading import LoadedSuite, suite_of_tables

MODELS: dict[str, dict[str, Any]] = {
    "distilbert": {"name": "distilbert-base-uncased", "length": 128, "batches": [8, 32]},
    "bert-large": {"name": "bert-large-uncased", "length": 128, "batches": [8, 32]},
    "t5-base": {"name": "t5-base", "length": 128, "batches": [8, 32]},
    "llama-1b": {"name": "Llama-3.2-1B", "length": 512, "batches": [1, 4]},
}
METHODS = ("full", "lora", "ia3", "bitfit", "lst")
DTYPES = ("float32", "bfloat16")
GOALS = {"peak": (0.005, 0.02), "reserved": (0.01, 0.05)}
"""A figure -> the median and the worst error that are aimed at, as shares of what was measured."""


def suite_of(
    name: str, model: dict[str, Any], *, methods: Sequence[str] = METHODS, dtypes: Sequence[str] = DTYPES
) -> LoadedSuite:
    """A suite that measures the memory of a step and predicts it: by method, type and batch."""
    tables = {
        "name": f"estimates-{name}",
        "phases": ["short"],
        "model": {"name": model["name"], "weights": "random"},
        "data": {"name": "peprof/reviews", "max_length": model["length"]},
        "train": {"seeds": [0]},
        "short": {
            "estimate": True, "warmup_steps": 2, "extra_warmup_steps": 0, "steps": 3, "energy_seconds": None,
        },
        "matrix": {"model": {"dtype": list(dtypes)}, "train": {"batch_size": model["batches"]}},
        "methods": [{"name": method} for method in methods],
    }  # fmt: skip
    return suite_of_tables(tables, name=f"estimates-{name}")


def name_of(record: RunRecord) -> str:
    """``bert-large-uncased, lora, bfloat16, 8 x 128``."""
    spec = record.spec
    shape = f"{spec.train.batch_size} x {spec.data.max_length}"
    return f"{spec.model.name}, {spec.method.label}, {spec.model.dtype}, {shape}"


def compared(records: Iterable[RunRecord]) -> dict[str, Any]:
    """Each case's figures, and how far off they are over all of them."""
    known = list(records)
    rows = [(name_of(record), found) for record in known if (found := row_predictions([record])) is not None]
    over_all = {figure: accuracy(rows, figure) for figure in FIGURES}
    return {
        "cases": len(known),
        "goals": {figure: {"median": middle, "worst": worst} for figure, (middle, worst) in GOALS.items()},
        "accuracy": {figure: asdict(found) if found else None for figure, found in over_all.items()},
        "rows": [
            {
                "case": name_of(record),
                "status": record.status,
                "failure": record.failure.message if record.failure else None,
                **_figures(row_predictions([record])),
            }
            for record in known
        ],
    }


def _figures(found: RowPredictions | None) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for figure in FIGURES:
        figures |= {
            f"predicted_{figure}_bytes": found.predicted_bytes(figure) if found else None,
            f"measured_{figure}_bytes": found.measured_bytes(figure) if found else None,
            f"{figure}_error": found.error(figure) if found else None,
        }
    return figures


def as_markdown(report: dict[str, Any]) -> str:
    """The table of all cases, and over all of them."""
    heads = [
        "case",
        *(f"{word} {figure}" for figure in FIGURES for word in ("predicted", "measured", "error of")),
    ]
    cells = [[row["case"], *_cells(row)] for row in report["rows"]]
    lines = [f"{report['device']}, torch {report['torch']}, transformers {report['transformers']}", ""]
    for figure, found in report["accuracy"].items():
        lines.append(f"- {figure}: {_summary(figure, found)}")
    return "\n".join([*lines, "", markdown_table(heads, cells, numbers=heads[1:]), ""])


def _cells(row: dict[str, Any]) -> list[str]:
    cells: list[str] = []
    for figure in FIGURES:
        sizes = (row[f"predicted_{figure}_bytes"], row[f"measured_{figure}_bytes"])
        error = row[f"{figure}_error"]
        cells += [MISSING if size is None else human_bytes(size) for size in sizes]
        cells.append(MISSING if error is None else f"{error_words(error)} %")
    return cells


def _summary(figure: Figure, found: dict[str, Any] | None) -> str:
    if found is None:
        return "no case has it both predicted and measured"
    words = (
        f"median absolute error {100 * found['median_error']:.2f} %, worst {error_words(found['worst'])} % "
        f"({found['worst_name']}), too low in {100 * found['too_low']:.0f} % of {found['runs']} cases"
    )
    if figure in GOALS:
        middle, worst = GOALS[figure]
        met = found["median_error"] <= middle and abs(found["worst"]) <= worst
        words += f"; goal {100 * middle:g} and {100 * worst:g} %: {'met' if met else 'not met'}"
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this; may be given again")
    chosen = parser.parse_args(arguments)
    output: Path = chosen.output
    output.mkdir(parents=True, exist_ok=True)
    records: list[RunRecord] = []
    for name in chosen.model or MODELS:
        outcome = run_suite(
            suite_of(name, MODELS[name]), results=output / "records", device=chosen.device, trackers=()
        )
        records += outcome.records
        environment = next((one.environment for one in records if one.environment is not None), None)
        report = {
            "device": environment.device_name if environment else None,
            "driver": environment.driver if environment else None,
            "torch": environment.torch if environment else None,
            "cuda": environment.cuda if environment else None,
            "transformers": environment.transformers if environment else None,
            "python": platform.python_version(),
            **compared(records),
        }
        (output / "estimates.json").write_text(json.dumps(report, indent=1) + "\n")
        (output / "estimates.md").write_text(as_markdown(report))
        print(f"{name}: {len(outcome.records)} cases", flush=True)
    print((output / "estimates.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
