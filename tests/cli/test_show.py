import csv
import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from peprof.breakdown.values import StepProfile
from peprof.cli.show import show
from peprof.errors import UsageError
from peprof.results.store import ResultStore
from tests.reports.profiles import profile
from tests.results.factory import make_dead_record, make_full, make_record


@pytest.fixture
def results(tmp_path):
    store = ResultStore(tmp_path / "results" / "sst2")
    store.write(make_record("lora"), memory=profile())
    store.write(make_dead_record("full"))
    return tmp_path / "results"


def call(results, *arguments):
    return CliRunner().invoke(show, ["--results", str(results), *map(str, arguments)])


def test_a_table_by_default(results, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call(results, "lora")
    assert result.exit_code == 0, result.output
    assert "lora on distilbert/distilbert-base-uncased" in result.stdout
    assert "At the peak, by category" in result.stdout and "At the peak, by module" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert (
        "At the peak of forward, by operator"
        in call(results, "lora", "--by", "operator", "--phase", "forward").stdout
    )


def test_where_the_time_of_a_full_phase_went(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    full = make_full(train_time_s=90.0).model_copy(update={"wall_time_s": 100.0, "waiting_time_s": 0.5})
    store = ResultStore(tmp_path / "results" / "sst2")
    store.write(make_record("both", full=full), memory=profile())
    store.write(make_record("trained", full=full, phases=("full",)))
    both = call(tmp_path / "results", "both").stdout
    assert "At the peak, by category" in both
    assert "training steps 1.50 min 90.0 % " in " ".join(both.split())
    trained = call(tmp_path / "results", "trained")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.startswith(" trained on distilbert") and "At the peak" not in trained.stdout
    assert "waiting for batches 500 ms 0.5 % " in " ".join(trained.stdout.split())
    asked = call(tmp_path / "results", "trained", "--by", "module")
    assert isinstance(asked.exception, UsageError) and "isn't known" in asked.exception.message


def test_json_csv_and_what_is_saved(results):
    content = json.loads(call(results, "lora", "--format", "json").stdout)
    assert TypeAdapter(StepProfile).validate_python(content["memory"]) == profile()
    assert content["record"]["spec"]["method"]["label"] == "lora"
    rows = list(csv.DictReader(io.StringIO(call(results, "lora", "--format", "csv").stdout)))
    assert {row["division"] for row in rows} == {"category", "module", "operator", "owner"}
    result = call(results, "lora", "--saved", "--by", "operator")
    assert "Kept, by operator that saved it" in result.stdout and "Kept, by module" not in result.stdout
    rows = list(csv.DictReader(io.StringIO(call(results, "lora", "--saved", "--format", "csv").stdout)))
    assert len(rows) == 5


def test_a_picture_and_clean_output_beside_it(results, tmp_path):
    result = call(results, "lora", "--format", "json", "--plot", tmp_path / "a.svg")
    assert json.loads(result.stdout) and result.stderr == f"Drawn: {tmp_path / 'a.svg'}\n"
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "there is no run"),
        ((), "there are 2 runs in"),
        (("full",), "whose the memory of 'full-s0-"),
        (("lora", "--phase", "warmup"), "has no phase 'warmup'"),
        (("lora", "--phase", "forward", "--saved"), "don't go together"),
        (("lora", "--saved", "--by", "owner"), "can't be divided by owner"),
        (("lora", "--plot", "a.gif"), "its ending says nothing of a picture"),
        (("lora", "--plot", "no/where/a.svg"), "there is no directory 'no/where'"),
    ],
)
def test_wrong_use_is_one_message_and_exit_code_2(results, arguments, message):
    result = call(results, *arguments)
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2
    assert message in result.exception.message and result.exception.hint
    assert result.stdout == ""


def test_the_command_never_imports_torch_nor_what_only_pictures_need(results):
    code = (
        "import sys; from peprof.cli.show import show\n"
        f"show.main(['lora', '--results', {str(results)!r}], standalone_mode=False)\n"
        "found = {'torch', 'plotly', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_pictures_never_import_torch(results, tmp_path):
    code = (
        "import sys; from peprof.cli.show import show\n"
        f"show.main(['lora', '--results', {str(results)!r}, '--plot', {str(tmp_path / 'a.html')!r}],"
        " standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
