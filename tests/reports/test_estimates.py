"""Estimates and fits as people and machines see them: whole outputs of values made by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from peprof.reports.estimates import estimates_as_csv, estimates_as_markdown, print_estimates
from peprof.reports.fits import fits_as_markdown
from peprof.results.estimates import GROUPS, Estimate, Fit, grouped_bytes
from peprof.results.record import ParameterCounts
from peprof.suite.planning import plan
from peprof.suite.schema import Suite
from tests.reports.profiles import MIB, profile


def estimate(method: str, **changes: object) -> Estimate:
    suite = Suite.model_validate(
        {
            "name": "t",
            "phases": ("short",),
            "model": {"name": "bert-base"},
            "data": {"name": "any/data"},
            "methods": ({"name": method, "label": method},),
        }
    )
    values: dict[str, object] = {
        "spec": plan(suite, device="cuda")[0],
        "kind": "cuda",
        "profile": profile(),
        "counts": ParameterCounts(backbone=109_000_000, head=0, trainable_backbone=9, trainable_head=1),
        "architecture": "BertForSequenceClassification",
        **changes,
    }
    return Estimate(**values)  # type: ignore[arg-type]


def test_the_groups_of_a_peak_add_up_to_it() -> None:
    peak = profile().peak
    groups = grouped_bytes(peak.categories)
    assert groups == {
        "parameters": 22 * MIB, "gradients": 2 * MIB, "optimizer": 0, "activations": 50 * MIB,
        "temporaries": 0, "other": 6 * MIB,
    }  # fmt: skip
    assert sum(groups.values()) == peak.total_bytes
    assert set(groups) == {*GROUPS, "other"}


TABLE = """\
 bert-base: 109M parameters, BertForSequenceClassification
 batch 32 · length 128 · float32 · classification · adamw · sdpa attention

 method       peak   in         parameters   gradients   optimizer   activations   temporaries      other   of full
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 full     80.0 MiB   backward     22.0 MiB    2.00 MiB         0 B      50.0 MiB           0 B   6.00 MiB   100.0 %
 lst             –   –                   –           –           –             –             –          –         –

 lst: it is too narrow
 Assumed: 2 classes.
"""  # noqa: E501


def test_a_table_for_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=130)
    found = [
        estimate("full", assumptions=("2 classes",)),
        estimate("lst", profile=None, counts=None, architecture=None, problem="it is too narrow"),
    ]
    print_estimates(console, found)
    said = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    assert said.startswith(TABLE)
    assert "Exact: the bytes of all tensors" in said and "a GPU's operators" in said


def test_markdown_and_csv() -> None:
    row = "| full | 80.0 MiB | backward | 22.0 MiB | 2.00 MiB | 0 B | 50.0 MiB | 0 B | 6.00 MiB | 100.0 % |"
    assert row in estimates_as_markdown([estimate("full")]).splitlines()
    head, line = estimates_as_csv([estimate("full")]).splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert cells["peak_bytes"] == str(80 * MIB) and cells["label"] == "exact"


@pytest.mark.parametrize("fits", [True, False])
def test_what_fits_names_what_binds_and_what_helps(fits: bool) -> None:
    found = estimate("full")
    fit = Fit(
        dimension="batch",
        memory_bytes=100 * MIB,
        largest=7 if fits else None,
        estimate=found,
        beyond=found,
        need_bytes=80 * MIB,
        checkpointed=12,
    )
    rows = fits_as_markdown([{"batch": fit}]).splitlines()
    number = "7" if fits else "none"
    words = "gradient checkpointing: batch 12"
    assert f"| full | {number} | 80.0 MiB | – | – | activations | {words} |" in rows
