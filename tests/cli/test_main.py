"""What every command does at its end, and README's commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from peprof.cli import commands, main
from peprof.results.store import ResultStore
from tests.results.factory import make_full, make_record, make_short

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = ResultStore(tmp_path / "results" / "sst2")
    for label in ("full", "lora"):
        store.write(make_record(label, short=make_short(), full=make_full()))
    return tmp_path


def test_the_reader_of_a_pipe_may_go_before_the_end(results: Path) -> None:
    """1 is the code of a regression: a closed pipe must not look like one."""
    line = f"{shlex.quote(sys.executable)} -m peprof compare results | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=results, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_one_message(results: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = f"{shlex.quote(sys.executable)} -m peprof compare results --format csv > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=results, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "No space left" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "keeps_runs"), [("run", True), ("compare", False), ("methods", False)])
def test_only_what_keeps_runs_promises_to_go_on(
    command: str, keeps_runs: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("peprof.running.runner.run_suite", interrupted)
    if command != "run":
        monkeypatch.setattr(commands.commands[command], "callback", interrupted)
    arguments = {"run": ["quickstart"], "compare": ["results"], "methods": []}[command]
    monkeypatch.setattr("sys.argv", ["peprof", command, *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().err
    assert stop.value.code == 130 and "Interrupted." in said
    assert ("the same command goes on from there" in said) == keeps_runs


def readme_commands(name: str) -> list[str]:
    lines = re.findall(rf"^peprof {name}.*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return [line.partition("  #")[0].partition(" > ")[0].strip() for line in lines]


@pytest.mark.parametrize("line", readme_commands("compare"))
def test_readmes_compare_commands_work(results: Path, line: str) -> None:
    for version in ("main", "branch"):
        shutil.copytree(results / "results" / "sst2", results / "results" / version)
    arguments = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "peprof", *arguments], cwd=results, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "lora" in done.stdout, done.stderr


def readme_output(word: str) -> str:
    """What README's only example with ``word`` in it prints."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (example,) = [block for block in blocks if word in block]
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_readmes_profile_of_a_loop_says_whose_the_memory_is() -> None:
    said = readme_output("import profile_step")
    assert "optimizer" in said and "KiB" in said


@pytest.mark.slow
def test_readmes_example_of_a_marked_loop_runs() -> None:
    peak_bytes = int(readme_output("measure_memory").split()[0])
    # At the least: weights, two moments, the batch, all in float32.
    assert peak_bytes > 4 * (3 * (512 * 2 + 2) + 64 * 512)


@pytest.mark.parametrize("line", readme_commands("export"))
def test_readmes_export_commands_work(results: Path, line: str) -> None:
    for machine in ("laptop", "cluster"):
        (results / machine).symlink_to(results / "results", target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-m", "peprof", *shlex.split(line)[1:]],
        cwd=results,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.startswith("Exported 2 "), done.stderr
