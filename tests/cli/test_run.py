"""``peprof run`` as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from peprof.cli import main
from peprof.suite.loading import shipped_suites
from tests.running.helpers import write_suite

ROOT = Path(__file__).parents[2]


def peprof(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Runs a command in this process, so that its children share one fork server; gives its exit code."""
    monkeypatch.setattr(sys, "argv", ["peprof", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def data_directory(tmp_path: Path, train: str, validation: str = "sentence\tlabel\na\t0\nb\t1\n") -> Path:
    (tmp_path / "train.tsv").write_text(train)
    (tmp_path / "validation.tsv").write_text(validation)
    return tmp_path


@pytest.mark.slow
def test_it_ends_with_the_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "full"', 'name = "head"')
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r") == 0
    said = capsys.readouterr()
    for word in ("full", "head", "peak memory", "step time", "Random weights", "Synthetic"):
        assert word in said.out
    assert "[1/2] full, seed 0: started" in said.err
    # The same again, as JSON: nothing is run, and stdout holds nothing else.
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r", "--json") == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)["leaderboards"][0]["rows"]
    assert {row["method"] for row in rows} == {"full", "head"}
    assert "started" not in said.err


def test_a_dry_run_shows_the_plan_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "full"', 'name = "lora"\nrank = 3', seeds="[0, 1]")
    monkeypatch.setenv("COLUMNS", "160")
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r", "--dry-run") == 0
    said = capsys.readouterr()
    assert "t: 4 runs, 4 to do" in said.out and "rank=3" in said.out
    assert not (tmp_path / "r").exists() and "rounds" not in said.out
    assert peprof(monkeypatch, "run", suite, "--dry-run", "--set", "short.rounds=3") == 0
    assert "3 rounds" in " ".join(capsys.readouterr().out.split())
    assert peprof(monkeypatch, "run", suite, "--dry-run", "--json", "--only", "lora") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [run["spec"]["method"]["options"]["rank"] for run in plan] == [3, 3]
    assert [run["finished"] for run in plan] == [False, False]


@pytest.mark.slow
def test_a_failed_run_ends_with_exit_code_3_and_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "running" / "faulty"))
    suite = write_suite(tmp_path, 'name = "faulty"\nhow = "exit"', 'name = "head"', phases='"short"')
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r") == 3
    said = capsys.readouterr()
    assert "head" in said.out, "the leaderboard is shown all the same"
    assert "1 of 2 runs failed" in said.err and "exit code 7" in said.err and "Hint:" in said.err


BAD_DATA = {
    "missing column": ("text\tlabel\na\t0\nb\t1\n", ["data.text", "'sentence'", "text, label"]),
    "missing label": ("sentence\tgold\na\t0\nb\t1\n", ["data.label", "'label'", "sentence, gold"]),
    "label out of range": ("sentence\tlabel\na\t0\nb\t-1\n", ["data.label", "row 2", "-1"]),
    "label that is text": ("sentence\tlabel\na\t0\nb\tgood\n", ["data.label", "out of range"]),
    "one class": ("sentence\tlabel\na\t0\nb\t0\n", ["data.label", "two classes"]),
    "no rows": ("sentence\tlabel\n", ["data.path", "no rows", "train.tsv"]),
    "ragged rows": ("sentence\tlabel\na\t0\t1\t2\nb\t1\n", ["data."]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_exit_code_2_with_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    content, words = BAD_DATA[case]
    suite = write_suite(tmp_path, 'name = "head"')
    path = data_directory(tmp_path, content)
    arguments = ("run", suite, "--results", tmp_path / "r", "--set", f"data.path={path}")
    assert peprof(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert "t.toml: " in said and "Traceback" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-suite"], ["no suite 'no-such-suite'", "quickstart"]),
        (["quickstart", "--only", "lorra"], ["lorra", "lora"]),
        (["quickstart", "--device", "gpu"], ["unknown device 'gpu'", "cuda:N"]),
        (["quickstart", "--phase", "long"], ["long", "short"]),
        (["quickstart", "--set", "train.batchsize=4"], ["--set", "train.batchsize", "batch_size"]),
        (["quickstart", "--set", "methods.lora.rank=0"], ["rank=0", "at least 1"]),
        (["quickstart", "--set", "model.name=./nowhere"], ["model.name", "nowhere"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_wrong_usage_is_exit_code_2_with_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    assert peprof(monkeypatch, "run", *arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for word in words:
        assert word in said


def test_results_that_cannot_be_written_are_exit_code_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "head"', phases='"short"')
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "t").write_text("a file where the directory should be")
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r") == 5
    said = capsys.readouterr().err
    assert str(tmp_path / "r" / "t") in said and "Traceback" not in said


@pytest.mark.slow
def test_without_the_hub_it_takes_seconds_to_say_so(tmp_path: Path) -> None:
    import os
    import time

    suite = write_suite(tmp_path, 'name = "head"')
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "peprof", "run", str(suite), "--set", "model.name=bert-base-cased",
         "--set", "model.weights=pretrained", "--results", str(tmp_path / "r")],
        capture_output=True, text=True, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "'bert-base-cased'" in done.stderr and "Hint:" in done.stderr
    assert time.monotonic() - begin < 60, "15 s on an idle machine, importing torch included"


def test_the_help_names_every_suite_that_comes_with_peprof(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peprof(monkeypatch, "run", "--help") == 0
    unbroken = re.sub(r"-\s+", "-", capsys.readouterr().out)  # lines may end at a hyphen
    assert set(shipped_suites()) <= set(re.findall(r"[\w-]+", unbroken))
