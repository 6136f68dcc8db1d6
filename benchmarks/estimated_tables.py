"""Two published tables by ``peprof estimate``, kept: its markdown, and its rows without whose each byte is.

    python -m benchmarks.estimated_tables

writes benchmarks/results/estimated_lst_table1 and estimated_student_table, as .md and .json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

from peprof.cli.estimate import checked, published
from peprof.estimation.estimating import estimate_runs
from peprof.reports.estimates import estimates_as_markdown, plain_rows
from peprof.suite.loading import load_suite

RESULTS = Path(__file__).parent / "results"
TABLES = {"lst-table1": "estimated_lst_table1", "klst-table": "estimated_student_table"}
"""A suite -> the name of its files."""


def main() -> None:
    """Estimates both on a GPU's operators."""
    for suite, name in TABLES.items():
        loaded = load_suite(suite)
        found = published(estimate_runs(checked(loaded, "cuda"), "cuda", source=suite), loaded)
        said = {label: item.model_dump(exclude_none=True) for label, item in loaded.suite.published.items()}
        written = {
            "command": f"peprof estimate {suite} --format json",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rows": plain_rows(found),
            "published": said,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
        (RESULTS / f"{name}.md").write_text(estimates_as_markdown(found) + "\n")


if __name__ == "__main__":
    main()
