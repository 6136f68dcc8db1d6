"""What people and machines read of predictions, whole."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console

from peprof.reports.columns import COLUMNS, default_columns, sort_rows
from peprof.reports.export import to_csv, to_json, to_markdown
from peprof.reports.leaderboard import print_leaderboards
from peprof.reports.predicted_columns import KEYS, error_words
from peprof.reports.predicted_table import print_predicted
from peprof.results.comparison import Leaderboard, leaderboards
from peprof.results.finding import FoundRun
from peprof.results.record import RunRecord
from tests.reports import boards
from tests.results.factory import MIB, make_record, make_short
from tests.results.predictions import (
    GPU,
    counted_by_allocator,
    counted_by_ledger,
    make_estimate,
    on_a_gpu,
    predicted,
    ran_out,
)

RECORDS = (
    predicted("full", make_estimate(100), counted_by_ledger(100)),
    predicted("lora", make_estimate(50), counted_by_ledger(40, counter_mib=60)),
    predicted("lst", make_estimate(30), counted_by_ledger(40, counter_mib=45)),
    predicted("head", make_estimate(None, problem="can't be told."), counted_by_ledger(20, counter_mib=21)),
    ran_out("bitfit", make_estimate(64, there_bytes=32 * MIB)),
)
ON_GPU: dict[str, Any] = {"environment": GPU, "device": "cuda"}


def shown(*records: RunRecord, width: int = 160, columns: list[str] | None = None) -> str:
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    print_leaderboards(console, leaderboards(records), columns=columns)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def table(text: str) -> dict[str, list[str]]:
    """Method -> what stands in its row; columns lie two blanks or more apart."""
    lines = [line.strip() for line in text.splitlines()]
    names = {record.spec.method.label for record in RECORDS}
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    return {row[0].split()[0]: [cell.strip() for cell in row] for row in rows if row and row[0] in names}


@pytest.mark.parametrize(
    ("error", "words"),
    [(0.0, "0"), (0.25, "+25.0"), (-0.2, "−20.0"), (0.0005, "+0.1"), (1e-6, "+<0.1"), (-0.0004, "−<0.1"),
     (11.5, "+1150.0")],
)  # fmt: skip
def test_errors_in_words(error: float, words: str) -> None:
    assert error_words(error) == words


def test_a_leaderboard_has_both_and_the_error() -> None:
    text = shown(*RECORDS, columns=["memory", "predicted", "counted", "prediction_error"])
    assert table(text) == {
        "head": ["head", "21.0 MiB", "0.14x", "–", "–", "–"],
        "lst": ["lst", "45.0 MiB", "0.30x", "30.0 MiB", "40.0 MiB", "−25.0"],
        "lora": ["lora", "60.0 MiB", "0.40x", "50.0 MiB", "40.0 MiB", "+25.0"],
        "full": ["full", "150 MiB", "1.00x", "100 MiB", "100 MiB", "0"],
        "bitfit": ["bitfit", "–", "64.0 MiB", "–", "–"],
    }
    whole = " ".join(text.split())
    assert (
        "Predicted peaks (bytes of tensors, held against the ledger's count of the measured step): over 3 "
        "runs the median absolute error is 25.0 %, the worst −25.0 % (lst); 33.3 % of the runs needed more "
        "than was predicted."
    ) in whole
    assert (
        "bitfit, seed 0, ran out of memory in 'short: warm-up'; a step was predicted to need 64.0 MiB (its "
        "tensors alone) of 32.0 MiB that there was: foreseen."
    ) in whole
    assert "No prediction for head: can't be told." in whole
    assert "reserved" not in whole


def test_it_is_among_the_usual_columns_where_a_run_has_both() -> None:
    [board] = leaderboards(RECORDS)
    usual = [column.key for column in default_columns(board)]
    assert usual[usual.index("memory") :][:4] == ["memory", "predicted", "counted", "prediction_error"]
    on_gpu = leaderboards([predicted("lora", on_a_gpu(96, 250), counted_by_allocator(128, 200), **ON_GPU)])
    usual = [column.key for column in default_columns(on_gpu[0])]
    assert "counted" not in usual, "the peak that it is held against stands there already"
    assert {"predicted", "prediction_error"} <= set(usual)


def test_what_was_counted_isnt_told_twice_and_the_status_stays_longer_than_predictions() -> None:
    same = [
        predicted("full", make_estimate(100), counted_by_ledger(100, counter_mib=100)),
        predicted("lora", make_estimate(50), counted_by_ledger(40, counter_mib=40.01)),  # reads the same
    ]
    [board] = leaderboards(same)
    usual = [column.key for column in default_columns(board)]
    assert {"predicted", "prediction_error"} <= set(usual) and "counted" not in usual
    [board] = leaderboards([*same, RECORDS[2]])
    assert "counted" in [column.key for column in default_columns(board)]
    order = sorted(usual, key=lambda key: COLUMNS[key].importance or 0, reverse=True)
    assert order.index("status") < order.index("prediction_error") < order.index("predicted")
    assert COLUMNS["counted"].importance < COLUMNS["predicted"].importance  # type: ignore[operator]
    lines = [line.rstrip() for line in shown(*same, width=80).splitlines()]
    assert lines[4:9] == [
        "            trainable                       error of",
        " method   body + head      peak memory  prediction %      step time  status",
        " ──────────────────────────────────────────────────────────────────────────",
        " lora    66.4M + 592K  40.0 MiB  0.40x         +25.0  200 ms  1.00x  ok",
        " full    66.4M + 592K   100 MiB  1.00x             0  200 ms  1.00x  ok",
    ]
    assert "Too narrow for: predicted, samples." in " ".join(lines)


def test_nothing_changes_where_no_run_has_both() -> None:
    for board in [*boards.whole(), *boards.offline()]:
        assert not {column.key for column in default_columns(board)} & set(KEYS)
        assert "redict" not in to_markdown([board])
    without = make_record("lora", short=make_short(), phases=("short",))
    only = ran_out("full", make_estimate(64, there_bytes=None))
    text = " ".join(shown(without, only).split())
    assert "predicted peak" not in text and "median error" not in text
    assert "predicted to need 64.0 MiB (its tensors alone), how much there was isn't known." in text


def test_a_gpus_pool_is_told_of_too() -> None:
    records = [
        predicted(
            "full", on_a_gpu(96, 250, assumptions=("something",)), counted_by_allocator(128, 200), **ON_GPU
        ),
        predicted("lora", on_a_gpu(96, 150), counted_by_allocator(96, 200), **ON_GPU),
        ran_out("lst", on_a_gpu(96, 250, there_bytes=1024 * MIB), environment=GPU, device="cuda"),
    ]
    text = " ".join(shown(*records).split())
    assert (
        "Predicted peaks (bytes of tensors, held against the allocator's peak, which has rounding and "
        "workspaces too): over 2 runs the median absolute error is 12.5 %, the worst −25.0 % (full); 50.0 % "
        "of the runs needed more than was predicted."
    ) in text
    assert (
        "Predicted reserved memory (simulated, held against what the pool held): over 2 runs the median "
        "absolute error is 25.0 %, the worst −25.0 % (lora); 50.0 % of the runs needed more than was "
        "predicted."
    ) in text
    assert "Predicted for full on the assumption of something." in text
    assert (
        "lst, seed 0, ran out of memory in 'short: warm-up'; a step was predicted to need 250 MiB "
        "(simulated) of 1.00 GiB that there was: not foreseen."
    ) in text
    columns = ["reserved", "predicted_reserved", "reserved_error", "predicted_device"]
    cells = [line.split() for line in shown(*records, columns=columns).splitlines()]
    assert ["lora", "200", "MiB", "150", "MiB", "−25.0", "662", "MiB"] in cells


def test_machines_get_plain_figures() -> None:
    found: list[Leaderboard] = leaderboards(RECORDS)
    rows = {row["label"]: row for row in json.loads(to_json(found))["leaderboards"][0]["rows"]}
    assert rows["lora"]["predicted_peak_bytes"] == 50 * MIB
    assert rows["lora"]["predicted_peak_held_against_bytes"] == 40 * MIB
    assert rows["lora"]["predicted_peak_error"] == 0.25
    assert rows["head"]["predicted_peak_error"] is None and rows["bitfit"]["predicted_peak_error"] is None
    assert rows["lora"]["predicted_reserved_bytes"] is None
    lines = {row["label"]: row for row in csv.DictReader(io.StringIO(to_csv(found)))}
    assert (lines["lst"]["predicted_peak_error"], lines["head"]["predicted_peak_error"]) == ("-0.25", "")
    markdown = to_markdown(found)
    assert "| predicted peak | counted peak | error of prediction % |" in markdown
    assert "| 50.0 MiB | 40.0 MiB | +25.0 |" in markdown
    assert "- bitfit, seed 0, ran out of memory" in markdown


def test_rows_are_sorted_by_it() -> None:
    [board] = leaderboards(RECORDS)
    names = [row.name for row in sort_rows(board, "prediction_error").rows]
    assert names == ["lst", "full", "lora", "head", "bitfit"]
    assert all(COLUMNS[key].numeric for key in KEYS)


def of_one(record: RunRecord) -> list[str]:
    console = Console(width=100, file=io.StringIO(), legacy_windows=False)
    print_predicted(console, FoundRun(name="lora-s0", record=record, memory=None))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_one_run_is_shown_by_phase() -> None:
    record = predicted(
        "lora", on_a_gpu(96, 250, assumptions=("this",)), counted_by_allocator(128, 200), **ON_GPU
    )
    assert of_one(record) == [
        "",
        " Predicted beside measured",
        " phase       predicted  measured    error",
        " ────────────────────────────────────────",
        " forward      48.0 MiB  64.0 MiB  −25.0 %",
        " backward     96.0 MiB   128 MiB  −25.0 %",
        " whole step   96.0 MiB   128 MiB  −25.0 %",
        " Predicted are bytes of tensors, held against the allocator's peak, which has rounding and",
        " workspaces too.",
        " Reserved by the pool: predicted 250 MiB (simulated), measured 200 MiB, +25.0 %.",
        " Used on the device: predicted 762 MiB (assumed), not measured.",
        " Assumed: this.",
    ]


def test_one_run_without_enough_memory_or_without_a_prediction() -> None:
    lines = " ".join(" ".join(of_one(ran_out("lora", make_estimate(64, there_bytes=32 * MIB)))).split())
    assert "whole step 64.0 MiB – –" in lines
    assert lines.endswith(
        "lora-s0 ran out of memory in 'short: warm-up'; a step was predicted to need 64.0 MiB (its tensors "
        "alone) of 32.0 MiB that there was: foreseen."
    )
    problem = of_one(predicted("lora", make_estimate(None, problem="why"), counted_by_ledger(1)))
    assert problem == ["", " Predicted beside measured", " No prediction: why."]
    assert of_one(make_record("lora")) == []
