"""What ``peprof run`` and ``peprof show`` say and do of TensorBoard and other trackers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from peprof.reports.terminal import print_tensorboard
from tests.cli.test_run import peprof
from tests.running.helpers import write_suite


def test_a_run_says_where_its_log_lies_and_show_says_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path, 'name = "head"', phases='"short"')
    assert peprof(monkeypatch, "run", suite, "--results", "my results") == 0
    assert "TensorBoard: tensorboard --logdir 'my results/t'\n" in capsys.readouterr().err
    (log,) = Path("my results/t/runs").glob("*/tensorboard")
    assert [path.name for path in log.iterdir()] == ["events.out.tfevents.000000"]
    assert peprof(monkeypatch, "show", "head", "--results", "my results") == 0
    assert f"TensorBoard: tensorboard --logdir '{log}'\n" in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_left_out_where_nobody_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "head"', phases='"short"')
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r", "--no-tensorboard") == 0
    assert "TensorBoard" not in capsys.readouterr().err
    assert not list(tmp_path.rglob("tensorboard"))
    assert peprof(monkeypatch, "show", "head", "--results", tmp_path / "r") == 0
    assert "TensorBoard" not in capsys.readouterr().out


def test_an_unknown_tracker_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, 'name = "head"')
    assert peprof(monkeypatch, "run", suite, "--results", tmp_path / "r", "--tracker", "tensorbord") == 2
    said = capsys.readouterr().err
    assert "there is no tracker 'tensorbord'; there are: tensorboard" in said
    assert "Did you mean 'tensorboard'?" in said and "Traceback" not in said
    assert not (tmp_path / "r").exists()


def test_the_path_is_a_link_in_one_line() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=30, legacy_windows=False)
    directory = Path("/results/a suite/runs/lora-s0-0123456789/tensorboard")
    print_tensorboard(console, directory, indent=1)
    (line,) = file.getvalue().splitlines()
    assert "file:///results/a%20suite/runs/lora-s0-0123456789/tensorboard" in line
    assert "tensorboard --logdir '/results/a suite/runs/lora-s0-0123456789/tensorboard'" in line
