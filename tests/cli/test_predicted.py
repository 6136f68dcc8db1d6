"""A suite that asks for estimates, run and compared as a user does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_run import peprof
from tests.running.helpers import write_suite

METHODS = ('name = "full"', 'name = "lora"\nrank = 3', 'name = "lst"\nreduction = 4', 'name = "bitfit"')


def test_what_was_predicted_is_what_the_ledger_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(
        tmp_path, *METHODS, phases='"short"', limits="energy_seconds = 'none'\nestimate = true"
    )
    results = tmp_path / "r"
    assert peprof(monkeypatch, "run", suite, "--results", results) == 0
    assert "error of" in capsys.readouterr().out
    records = [json.loads(path.read_text()) for path in (results / "t" / "runs").glob("*/record.json")]
    measured = {
        record["spec"]["method"]["label"]: record["short"]["breakdown"]["peak_bytes"] for record in records
    }
    assert len(set(measured.values())) == len(METHODS), "an error of 0 would say little of equal methods"

    assert peprof(monkeypatch, "compare", results, "--format", "json") == 0
    [board] = json.loads(capsys.readouterr().out)["leaderboards"]
    assert {row["label"]: row["predicted_peak_bytes"] for row in board["rows"]} == measured
    assert [row["predicted_peak_error"] for row in board["rows"]] == [0.0] * len(METHODS)

    assert peprof(monkeypatch, "compare", results, "--columns", "predicted,prediction_error") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "over 4 runs the median absolute error is 0 %, the worst 0 %" in text
    assert "0.0 % of the runs needed more than was predicted" in text
    assert peprof(monkeypatch, "show", "lora", "--results", results) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    both = next(line for line in lines if line[:2] == ["whole", "step"])
    assert both[2:4] == both[4:6] and both[6:] == ["0", "%"]


def test_one_run_may_be_asked_on_the_command_line_and_goes_on_after_being_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attempt that goes on takes the short phase over and predicts what that one had measured."""
    suite = write_suite(
        tmp_path, 'name = "head"', rows=640, limits="energy_seconds = 'none'\n[limits]\nrun_seconds = 1000"
    )
    asked = ("run", suite, "--set", "short.estimate=true", "--set", "train.max_steps=3", "--results")
    assert peprof(monkeypatch, *asked, tmp_path / "r") == 0
    [path] = (tmp_path / "r" / "t" / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert record["full"] is not None
    assert record["estimate"]["peak_bytes"] == record["short"]["breakdown"]["peak_bytes"]
    assert record["format_version"] == 5


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("short.estimat=true", "did you mean 'estimate'"),
        ("short.estimate=maybe", "true or false"),
        ("estimate=true", "short.estimate"),
    ],
)
def test_a_typo_is_told(
    override: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = write_suite(tmp_path, *METHODS)
    assert peprof(monkeypatch, "run", suite, "--set", override, "--results", tmp_path / "r") == 2
    assert says.lower() in capsys.readouterr().err.lower()
