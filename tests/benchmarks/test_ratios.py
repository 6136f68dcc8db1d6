"""The gate on benchmarks' ratios: what fails, what doesn't, and how the baseline is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ratios
from benchmarks.ratios import Kind, Mode, Ratio, Recorded, compare, main, noted, table, updated


def ratio(name: str, value: float, kind: Kind = "time", mode: Mode = "quick") -> Ratio:
    return Ratio(name=name, value=value, kind=kind, mode=mode)


def recorded(value: float, tolerance: float = 0.1) -> Recorded:
    return Recorded(value=value, tolerance=tolerance)


def run_of(path: Path, *found: Ratio) -> Path:
    """As pytest-benchmark writes it: ratios of one benchmark, and a benchmark without any."""
    benchmarks: list[dict[str, Any]] = [
        {"name": "test_one", "extra_info": {"ratios": [noted(one) for one in found], "step_ms": 3.0}},
        {"name": "test_two", "extra_info": {}},
    ]
    path.write_text(json.dumps({"machine_info": {}, "benchmarks": benchmarks}))
    return path


def baseline_of(path: Path, **quick: Recorded) -> Path:
    ratios.write_baseline(path, {"quick": quick, "full": {"slow": recorded(2.0)}}, {"torch": "2.13.0"})
    return path


@pytest.mark.parametrize(
    ("value", "word", "is_fault"),
    [(1.1, "ok", False), (1.1001, "WORSE", True), (0.9, "ok", False), (0.8999, "better", False)],
)
def test_a_ratio_may_be_as_far_away_as_its_tolerance(value: float, word: str, is_fault: bool) -> None:
    (verdict,) = compare([ratio("a", value)], {"quick": {"a": recorded(1.0)}})
    assert (verdict.word, verdict.is_fault) == (word, is_fault)


def test_what_is_new_is_no_fault_and_what_is_gone_is_one() -> None:
    verdicts = compare([ratio("new", 1.0)], {"quick": {"gone": recorded(1.0)}, "full": {"x": recorded(1.0)}})
    assert [(one.name, one.word) for one in verdicts] == [("gone", "NOT MEASURED"), ("new", "new")]


def test_bytes_are_held_tightly_and_times_are_not() -> None:
    ratios_of = [ratio("bytes", 1.0, "memory"), ratio("seconds", 1.0), ratio("whole", 1.0, "process")]
    baseline = updated({"quick": {}, "full": {}}, [ratios_of])
    slower = [ratio(one.name, 1.01, one.kind) for one in ratios_of]
    assert {one.name: one.word for one in compare(slower, baseline)} == {
        "bytes": "WORSE",
        "seconds": "ok",
        "whole": "ok",
    }


def test_the_check_shows_faults_first_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run.json", ratio("fine", 1.05), ratio("slow", 1.5), ratio("new", 0.25))
    baseline = baseline_of(
        tmp_path / "baseline.json", fine=recorded(1.0), slow=recorded(1.2), gone=recorded(0.5)
    )
    assert main(["check", str(run), "--baseline", str(baseline)]) == 1
    said = capsys.readouterr()
    assert said.out == (
        "ratio  measured  baseline  at most\n"
        "gone          –    0.5000   0.5500  NOT MEASURED\n"
        "slow     1.5000    1.2000   1.3200  WORSE\n"
        "fine     1.0500    1.0000   1.1000  ok\n"
        "new      0.2500         –        –  new\n"
        "\n"
        "1 to be recorded: 'python -m benchmarks.ratios record', on a quiet machine\n"
    )
    assert said.err == "\n2 of 4 ratios got worse, or weren't measured\n"


def test_a_partial_run_lacks_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run.json", ratio("fine", 1.0))
    baseline = str(baseline_of(tmp_path / "baseline.json", fine=recorded(1.0), gone=recorded(0.5)))
    assert main(["check", str(run), "--baseline", baseline]) == 1
    assert main(["check", str(run), "--baseline", baseline, "--partial"]) == 0


def test_recording_takes_medians_and_keeps_tolerances_and_other_modes(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path / "baseline.json", widened=recorded(1.0, 0.5), gone=recorded(0.5))
    runs = [
        run_of(tmp_path / f"{value}.json", ratio("widened", value), ratio("peak", 1.0, "memory"))
        for value in (1.9, 1.1, 1.2)
    ]
    assert main(["record", *map(str, runs), "--baseline", str(baseline)]) == 0
    assert ratios.load_baseline(baseline) == {
        "quick": {"widened": recorded(1.2, 0.5), "peak": recorded(1.0, 0.001)},
        "full": {"slow": recorded(2.0)},
    }
    assert main(["check", str(runs[2]), "--baseline", str(baseline)]) == 0
    assert main(["check", str(runs[0]), "--baseline", str(baseline)]) == 1  # 1.9 by 1.2


def test_recording_some_leaves_the_others(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path / "baseline.json", a=recorded(1.0), b=recorded(2.0))
    run = run_of(tmp_path / "run.json", ratio("b", 3.0))
    assert main(["record", str(run), "--partial", "--baseline", str(baseline)]) == 0
    assert ratios.load_baseline(baseline)["quick"] == {"a": recorded(1.0), "b": recorded(3.0)}


def test_recording_measures_in_both_modes_and_writes_nothing_if_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes: list[str] = []

    def measure(mode: Mode, folder: Path, number: int) -> Path:
        modes.append(mode)
        if len(modes) > 4:
            raise ratios.RatiosError("benchmarks failed")
        return run_of(folder / f"{mode}{number}.json", ratio("a", len(modes), mode=mode))

    monkeypatch.setattr(ratios, "measure", measure)
    baseline = tmp_path / "baseline.json"
    assert main(["record", "--repeats", "2", "--baseline", str(baseline)]) == 0
    assert modes == ["quick", "full"] * 2
    before = baseline.read_text()
    assert ratios.load_baseline(baseline)["full"] == {"a": recorded(3.0, 0.10)}  # of 2 and 4
    assert main(["record", "--baseline", str(baseline)]) == 2
    assert baseline.read_text() == before
    assert capsys.readouterr().err == "Error: benchmarks failed\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no file of pytest-benchmark"),
        ('{"benchmarks": [{"extra_info": {}}]}', "has no ratio"),
        (
            json.dumps({"benchmarks": [{"extra_info": {"ratios": [noted(ratio("a", 1.0))] * 2}}]}),
            "two benchmarks measure a ratio of one name: a",
        ),
    ],
)
def test_runs_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    run = tmp_path / "run.json"
    run.write_text(content)
    assert main(["check", str(run)]) == 2
    assert said in capsys.readouterr().err


def test_a_baseline_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run.json", ratio("a", 1.0))
    assert main(["check", str(run), "--baseline", str(tmp_path / "none.json")]) == 2
    assert "write it with 'python -m benchmarks.ratios record'" in capsys.readouterr().err


def test_the_repositorys_baseline_can_be_read() -> None:
    baseline = ratios.load_baseline(ratios.BASELINE)
    assert all(0 < one.tolerance < 1 for entries in baseline.values() for one in entries.values())


def test_a_table_without_verdicts_has_its_heads() -> None:
    assert table([]) == "ratio  measured  baseline  at most"
