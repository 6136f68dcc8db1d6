"""A suite that asks for estimates, run and compared as a user does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from peprof.results.store import ResultStore
from tests.cli.test_run import peprof
from tests.results.factory import MIB
from tests.results.predictions import make_estimate, ran_out
from tests.running.helpers import command, environment, write_suite

METHODS = ('name = "full"', 'name = "lora"\nrank = 3', 'name = "lst"\nreduction = 4', 'name = "bitfit"')


@pytest.mark.slow
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


@pytest.mark.slow
def test_it_may_be_asked_for_on_the_command_line_and_comes_after_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "head"', limits="energy_seconds = 'none'")
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "plain") == 0
    assert "prediction" not in capsys.readouterr().out
    asked = ("--set", "short.estimate=true", "--results", tmp_path / "asked")
    assert peprof(monkeypatch, "run", suite, *asked) == 0
    [path] = (tmp_path / "asked" / "t" / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert record["full"] is not None and record["format_version"] == 5
    assert record["estimate"]["peak_bytes"] == record["short"]["breakdown"]["peak_bytes"]
    assert record["estimate"]["standing"] == {"tensors": "exact"}


LIMIT = 3 * 2**30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of a process's memory")
def test_lack_of_memory_is_foreseen(tmp_path: Path) -> None:
    """With less memory than the tensors of a step need; the same step is told apart by nothing else."""
    import resource

    suite = write_suite(tmp_path, 'name = "full"', phases='"short"', limits="energy_seconds = 'none'")
    done = subprocess.run(
        command(
            "run", suite, "--results", tmp_path / "r", "--device", "cpu", "--no-tensorboard",
            "--set", "short.estimate=true", "--set", "train.batch_size=16384", "--set", "data.max_length=64",
            "--set", "model.attention=eager",
        ),
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "r" / "t" / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    estimate = record["estimate"]
    assert record["status"] == "oom" and estimate["there_bytes"] == LIMIT < estimate["peak_bytes"]
    # By hand, of attention alone: softmax and its copy for dropout, of each of 4 layers and 4 heads.
    assert estimate["peak_bytes"] > 2 * 4 * 4 * (16384 * 64 * 64) * 4
    assert "that there was: foreseen." in " ".join(done.stdout.split())


def test_a_run_that_left_nothing_else_is_shown_by_what_it_would_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ResultStore(tmp_path / "r" / "sst2")
    store.write(ran_out("full", make_estimate(64, there_bytes=32 * MIB)))
    store.write(ran_out("lora", make_estimate(None, problem="why")))
    assert peprof(monkeypatch, "show", "full", "--results", tmp_path / "r") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "whole step 64.0 MiB – –" in said and "of 32.0 MiB that there was: foreseen." in said
    assert peprof(monkeypatch, "show", "full", "--results", tmp_path / "r", "--by", "module") == 2
    assert "isn't known" in capsys.readouterr().err, "whose the memory was is another question"
    assert peprof(monkeypatch, "show", "lora", "--results", tmp_path / "r") == 2
    assert peprof(monkeypatch, "show", "full", "--results", tmp_path / "r", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["record"]["estimate"]["peak_bytes"] == 64 * MIB


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("short.estimat=true", "did you mean 'short.estimate'?"),
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
