import csv
import io
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from peprof.cli.compare import compare
from peprof.errors import UsageError
from peprof.results.store import ResultStore
from tests.results.factory import make_full, make_record, make_short
from tests.results.trainings import on_the_way


@pytest.fixture
def results(tmp_path):
    for suite, size in (("sst2", 16), ("big", 32)):
        store = ResultStore(tmp_path / "results" / suite)
        for label, peak, correct in (("full", 1000, 790), ("lora", 500, 780)):
            store.write(
                make_record(
                    label,
                    suite=suite,
                    batch_size=size,
                    short=make_short(peak_mib=peak, batch_size=size),
                    full=make_full(correct=correct),
                )
            )
    return tmp_path / "results"


def call(*arguments, **options):
    return CliRunner().invoke(compare, [str(argument) for argument in arguments], **options)


def test_the_results_directory_is_the_default(results, monkeypatch):
    monkeypatch.chdir(results.parent)
    result = call()
    assert result.exit_code == 0
    assert "Table 1 of 2: distilbert/distilbert-base-uncased on stanfordnlp/sst2\n" in result.stdout
    assert "Not comparable with table 1: batch size 32 (table 1: 16).\n" in result.stdout
    assert result.stderr == ""


def test_a_file_gets_all_columns_and_a_given_width_is_kept_to(results, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "Too narrow" not in call(results).stdout
    monkeypatch.setenv("COLUMNS", "60")
    narrow = call(results).stdout
    assert "Too narrow for: trainable" in narrow
    assert max(len(line) for line in narrow.splitlines()) <= 60


def test_one_suite_of_several(results):
    result = call(results / "big")
    assert "Table" not in result.stdout
    assert " batch 32 × 64 tokens " in result.stdout


def test_sorting_columns_and_grouping(results):
    result = call(
        results, "--columns", "memory, seeds", "--sort=-memory", "--group-by", "suite", "--format", "markdown"
    )
    assert result.exit_code == 0, result.output
    tables = result.stdout.split("### ")[1:]
    assert [table.splitlines()[0] for table in tables] == [
        f"Table {number} of 2, suite {suite}: distilbert/distilbert-base-uncased on stanfordnlp/sst2"
        for number, suite in ((1, "big"), (2, "sst2"))
    ]
    assert [line for line in tables[0].splitlines() if line.startswith("| ")] == [
        "| method | peak memory | seeds |",
        "| --- | ---: | ---: |",
        "| ◆ full | 1000 MiB 1.00x | 0 |",
        "| ◆ lora | **500 MiB** 0.50x | 0 |",
    ]


def test_json_and_csv_can_be_read_by_machines(results):
    boards = json.loads(call(results, "--format", "json").stdout)["leaderboards"]
    assert [[row["label"] for row in board["rows"]] for board in boards] == [["full", "lora"]] * 2
    rows = list(csv.DictReader(io.StringIO(call(results, "--format", "csv").stdout)))
    assert [row["memory_ratio"] for row in rows] == ["1.0", "0.5"] * 2


def test_a_damaged_record_is_warned_of_and_the_others_are_shown(results):
    path = next((results / "sst2" / "runs").glob("lora-*/record.json"))
    path.write_text("{")
    result = call(results, "--format", "csv")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"Warning: left out {path}: is not complete JSON (1 bytes)\n")
    assert [row["label"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["full", "full", "lora"]


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda path: None, "does not exist", "'peprof run"),
        (lambda path: path.mkdir(), "there are no results in '", "'peprof run"),
        (lambda path: path.write_text(""), "is not a directory", "'peprof run"),
    ],
)
def test_no_results_say_what_to_run(tmp_path, make, message, hint):
    make(tmp_path / "results")
    result = call(tmp_path / "results")
    assert isinstance(result.exception, UsageError)
    assert message in result.exception.message
    assert hint in result.exception.hint
    assert result.exception.exit_code == 2


def test_nothing_but_damaged_records_is_an_error(results):
    for path in results.rglob("record.json"):
        path.write_text("")
    result = call(results)
    assert isinstance(result.exception, UsageError)
    assert "none of the 4 results in" in result.exception.message
    assert result.stderr.count("Warning: ") == 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--columns=memori", "Did you mean 'memory'?"),
        ("--sort=-acuracy", "Did you mean 'accuracy'?"),
        ("--group-by=sed", "Did you mean 'seed'?"),
    ],
)
def test_misspelt_names_are_told_with_a_guess(results, option, message):
    result = call(results, option)
    assert isinstance(result.exception, UsageError)
    assert message in result.exception.message


def test_the_help_names_every_column():
    from peprof.reports.columns import COLUMNS
    from peprof.results.comparison import GROUP_KEYS

    words = call("--help").output.replace(",", " ").replace(".", " ").split()
    assert set(COLUMNS) <= set(words)
    assert set(GROUP_KEYS) <= set(words)


def test_the_table_needs_no_pandas_no_scipy_no_torch(results):
    code = (
        "import sys; from peprof.cli.compare import compare; compare(sys.argv[1:], standalone_mode=False);"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'numpy', 'filelock'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    for kind in ("rich", "markdown", "json", "csv"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(results), "--format", kind],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def trained(tmp_path):
    store = ResultStore(tmp_path / "results" / "sst2")
    for label, counts in (("full", [700, 890]), ("lora", [800, 870])):
        store.write(on_the_way(label, counts))
    return tmp_path / "results"


def test_another_reference_a_target_and_curves(trained):
    picture = trained.parent / "curves.svg"
    result = call(
        trained, "--against", "lora", "--target", "0.88", "--curves", picture, "--format", "markdown"
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == f"Drawn: {picture}\n"
    assert picture.read_text().startswith("<?xml")
    rows = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")]
    assert rows[0][3] == "difference to lora"
    assert [row[3] for row in rows[2:]] == ["+2.0 not tested", "reference"]
    place = rows[0].index("time to target")
    assert [row[place] for row in rows[2:]] == ["1.67 min", "not reached"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--against=lara", "Did you mean 'lora'?"),
        ("--target=88", "a target of 88 can't be reached: accuracy is at most 1"),
        ("--within=60", "'60' is no amount of training"),
        ("--curves=x.doc", "its ending says nothing of a picture"),
    ],
)
def test_what_can_not_be_compared_or_drawn_is_told(trained, option, message):
    result = call(trained, option)
    assert isinstance(result.exception, UsageError)
    assert message in result.exception.message
