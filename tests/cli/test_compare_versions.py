"""``peprof compare BASE NEW`` as it is called: what it prints, and the codes that it ends with."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peprof.results.store import ResultStore
from tests.results.factory import ENVIRONMENT, make_dead_record, make_full, make_record, make_short

STEPS = [200, 196, 204, 198, 202, 199, 201, 197, 203]
ROOT = Path(__file__).parents[2]


def fine(label="lora", factor=1.0, **values):
    values = {"short": make_short(step_ms=[factor * step for step in STEPS]), "full": make_full(), **values}
    return make_record(label, **values)


@pytest.fixture
def place(tmp_path):
    """Versions of one suite, by name."""
    versions = {
        "base": [fine("full"), fine()],
        "same": [fine("full"), fine()],
        "slow": [fine("full"), fine(factor=1.1)],
        "failed": [fine("full"), make_dead_record("lora", status="failed")],
        "torch": [
            fine(label, environment=ENVIRONMENT.model_copy(update={"torch": "2.14.0"}))
            for label in ("full", "lora")
        ],
        "less": [fine("full")],
    }
    for name, records in versions.items():
        for record in records:
            ResultStore(tmp_path / name / "sst2").write(record)
    return tmp_path


def peprof(place, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "peprof", "compare", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("base same", 0, "Compared: 2 methods"),
        ("base slow", 0, "Compared: 2 methods"),
        ("base same --fail-on step_time:5%,peak_allocated:2%,accuracy:1pt", 0, "Passed: "),
        (
            "base slow --fail-on step_time:5%",
            1,
            "Regression: step_time of lora +10.0 % (limit step_time:5%).",
        ),
        ("base slow --fail-on step_time:15%", 0, "Passed: "),
        ("slow base --fail-on step_time:5%", 0, "Passed: "),
        ("base failed", 3, "Failed: 1 run of lora"),
        ("base failed --fail-on step_time:5%", 3, "Failed: 1 run of lora"),
        ("failed base", 0, "Compared: 2 methods"),
        ("base torch", 4, "Not comparable: lora: torch 2.14.0 (base: 2.13.0)."),
        ("base torch --ignore torch", 0, "Ignored: torch 2.14.0 (base: 2.13.0)."),
        ("base torch --ignore cuda,Torch --fail-on step_time:5%", 0, "Passed: "),
        ("base less", 0, "Only in base: lora."),
        ("base less --fail-on step_time:5%", 4, "Not comparable: lora missing in new."),
        ("base same --fail-on peak_reserved:1%", 4, "peak_reserved was measured in no method"),
    ],
)
@pytest.mark.parametrize("form", ["rich", "markdown"])
def test_the_exit_code_says_what_came_out_of_it(place, arguments, code, words, form):
    done = peprof(place, *arguments.split(), "--format", form)
    assert (done.returncode, done.stderr) == (code, "")
    assert words in done.stdout.replace("\\", "").replace("\n ", " ")


@pytest.mark.parametrize("form", ["json", "csv"])
def test_machines_get_the_same_code(place, form):
    done = peprof(place, "base", "slow", "--fail-on", "step_time:5%", "--format", form)
    assert done.returncode == 1
    if form == "json":
        assert json.loads(done.stdout)["exit_code"] == 1
    else:
        marks = {
            (row["method"], row["metric"]): row["mark"] for row in csv.DictReader(io.StringIO(done.stdout))
        }
        assert marks["lora", "step_time"] == "worse" and marks["full", "step_time"] == "same"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("base nowhere", "does not exist"),
        ("base slow --fail-on step_tme:5%", "Did you mean 'step_time'?"),
        ("base slow --ignore trch", "Did you mean 'torch'?"),
        ("base slow --confidence 1", "--confidence"),
        ("base slow --sort memory", "--sort: only for leaderboards"),
        ("base slow --columns memory --against full", "--columns, --against: only for leaderboards"),
        ("base --fail-on step_time:5%", "--fail-on: only for two versions"),
        ("base slow same --ignore torch", "--ignore: only for two versions"),
        ("base slow --together --only-changed", "--only-changed: only for two versions"),
    ],
)
def test_wrong_use_is_told_with_2(place, arguments, words):
    done = peprof(place, *arguments.split())
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_directory_without_results_is_wrong_use(place):
    (place / "empty").mkdir()
    done = peprof(place, "base", "empty")
    assert done.returncode == 2 and "there are no results in 'empty'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "tables"),
    [("base", 1), ("base slow --together", 1), ("base same torch", 2), ("base torch --together", 2)],
)
def test_any_other_number_of_directories_is_laid_together(place, arguments, tables):
    done = peprof(place, *arguments.split(), "--format", "json")
    assert done.returncode == 0 and len(json.loads(done.stdout)["leaderboards"]) == tables


def test_record_files_are_versions_too(place):
    files = [str(next((place / name).rglob("lora-*/record.json"))) for name in ("base", "slow")]
    done = peprof(place, *files, "--fail-on", "step_time:5%")
    assert done.returncode == 1 and "full" not in done.stdout


def test_a_result_that_can_not_be_read_is_warned_of_and_no_pass(place):
    next((place / "same").rglob("lora-*/record.json")).write_text("{")
    done = peprof(place, "base", "same")
    assert done.returncode == 4 and "Warning: left out" in done.stderr
    assert "Not comparable: 1 result can't be read." in done.stdout


def test_only_changed_leaves_out_the_rest(place):
    done = peprof(place, "base", "slow", "--only-changed", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["method"] for row in rows} == {"lora"} and {row["mark"] for row in rows} == {"worse"}
    assert "Nothing changed beyond noise." in peprof(place, "base", "same", "--only-changed").stdout


@pytest.mark.parametrize("form", ["rich", "markdown", "json", "csv"])
@pytest.mark.parametrize(("new", "code"), [("slow", 1), ("same", 0)])
def test_a_reader_that_has_seen_enough_changes_no_verdict(place, form, new, code):
    command = (
        f"{shlex.quote(sys.executable)} -m peprof compare base {new} --fail-on step_time:5% --format {form}"
    )
    line = f"{command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_full_disk_is_no_verdict(place):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = f"{shlex.quote(sys.executable)} -m peprof compare base slow --fail-on step_time:5% > /dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "Traceback" not in done.stderr


def test_nothing_slow_is_imported(place):
    code = (
        "import sys, contextlib, io\n"
        "from peprof.cli import main\n"
        "sys.argv = ['peprof', 'compare', 'base', 'slow']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n    main()\n"
        "print(*sorted({'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def workflow():
    """README's GitHub Actions workflow."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (text,) = [block for block in blocks if "peprof compare" in block]
    return yaml.safe_load(text)


def test_readmes_workflow_is_one_and_its_steps_lead_to_a_comparison():
    found = workflow()
    assert "pull_request" in found[True]  # YAML 1.1 reads 'on' as true
    (job,) = found["jobs"].values()
    commands = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    for directory in ("base", "new"):
        assert f"--results $RUNNER_TEMP/{directory}" in commands
    assert "peprof compare $RUNNER_TEMP/base $RUNNER_TEMP/new" in commands


@pytest.mark.parametrize(("new", "code"), [("same", 0), ("slow", 1), ("failed", 3)])
def test_readmes_workflow_fails_for_a_regression_and_leaves_a_summary(place, tmp_path, new, code):
    (job,) = workflow()["jobs"].values()
    (script,) = [step["run"] for step in job["steps"] if "peprof compare" in step.get("run", "")]
    (place / "runner").mkdir()
    for name, version in (("base", "base"), ("new", new)):
        (place / "runner" / name).symlink_to(place / version, target_is_directory=True)
    summary = tmp_path / "summary.md"
    done = subprocess.run(
        # GitHub runs a step's script by 'bash -e'; peprof is on the path there.
        ["bash", "-e", "-c", f'peprof() {{ {shlex.quote(sys.executable)} -m peprof "$@"; }}\n{script}'],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "RUNNER_TEMP": str(place / "runner"),
            "GITHUB_STEP_SUMMARY": str(summary),
        },
    )
    assert done.returncode == code, done.stderr
    assert summary.read_text().startswith("**" + {0: "Passed", 1: "Regression", 3: "Failed"}[code])
