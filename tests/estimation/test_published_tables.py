"""The committed estimates of two published tables: what is told today, and how far that is from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.estimated_tables import RESULTS, TABLES
from peprof.cli.estimate import planned
from peprof.estimation.estimating import estimate_runs
from peprof.reports.estimates import plain_rows
from peprof.results.estimates import with_published
from peprof.suite.loading import load_suite


def committed(suite: str) -> dict[str, dict[str, Any]]:
    rows = json.loads((RESULTS / f"{TABLES[suite]}.json").read_text())["rows"]
    return {row["method"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("suite", TABLES)
def test_the_committed_shares_are_what_is_told_today(suite: str) -> None:
    loaded = load_suite(suite)
    found = estimate_runs(planned(loaded, "cuda"), "cuda", source=suite)
    kept = committed(suite)
    assert {estimate.label for estimate in found} >= set(kept)
    for row in plain_rows(with_published(found, loaded.suite)):
        if row["method"] not in kept:  # nothing is published of it
            continue
        before = kept[row["method"]]
        assert row["peak_bytes"] == pytest.approx(before["peak_bytes"], rel=0.005)
        for key in ("share_of_full", "published_share_of_full"):
            assert row[key] == pytest.approx(before[key], abs=0.005)


@pytest.mark.parametrize("suite", TABLES)
def test_the_committed_tables_have_every_row_of_their_suite(suite: str) -> None:
    rows, said = committed(suite), load_suite(suite).suite.published
    assert list(rows) == list(said)
    lines = (RESULTS / f"{TABLES[suite]}.md").read_text().splitlines()
    for label, row in rows.items():
        [line] = [line for line in lines if line.startswith(f"| {label} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert float(cells[-3].removesuffix(" %")) == pytest.approx(100 * row["share_of_full"], abs=0.06)
        assert float(cells[-2].removesuffix(" %")) == pytest.approx(
            100 * said[label].peak_gb / said["full"].peak_gb,  # type: ignore[operator]
            abs=0.06,
        )


def test_ladder_side_tuning_stands_where_it_was_published() -> None:
    """In the published order, and within ten points: one more than by a CPU's kernels, whose bound is in
    tests/profiler/test_published_t5.py.
    """
    rows = committed("lst-table1")
    order = sorted(rows, key=lambda label: rows[label]["share_of_full"])
    assert order == sorted(rows, key=lambda label: rows[label]["published_share_of_full"])
    assert rows["lst"]["share_of_full"] <= 1 - 0.69
    assert all(abs(row["points_above_published"]) <= 10 for row in rows.values())


def test_the_student_table_is_off_by_what_adamw_no_longer_copies() -> None:
    """Full fine-tuning has five copies of the weights at its peak where PyTorch 2.0 had six.

    The last three layers' peak is in the optimizer too, and loses its second temporary as well: 148 MiB.
    """
    rows = committed("klst-table")
    full, last = rows["full"], rows["last_layers"]
    assert full["peak_phase"] == last["peak_phase"] == "optimizer"
    then = (last["peak_bytes"] + last["temporaries_bytes"]) / (full["peak_bytes"] + full["temporaries_bytes"])
    assert then == pytest.approx(last["published_share_of_full"], abs=0.01)


def test_the_student_table_is_that_of_the_benchmark_of_its_own_under_the_same_conditions() -> None:
    """A step written out, with kernels of its own: benchmarks/published_shares.py."""
    kept = json.loads((RESULTS / "published_shares.json").read_text())["results"]
    apart = {row["method"]: row for row in kept if row["condition"] == "eager, CUDA kernels"}
    same = {
        "lora": "LoRA r4, all linears",
        "siva": "SiVA r4, all linears",
        "siva-key-value": "SiVA r4, key and value",
        "lst": "LST r8, 16 side heads",
        "5-lst": "5-LST, 16 side heads",
        "9-lst": "9-LST, 16 side heads",
        "last_layers": "last 3 layers",
    }
    rows = committed("klst-table")
    for label, name in same.items():
        assert 100 * rows[label]["share_of_full"] == pytest.approx(apart[name]["share_percent"], abs=0.2)
