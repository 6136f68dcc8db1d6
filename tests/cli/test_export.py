"""``peprof export``: what it writes is read by other libraries and held against the records."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import pytest
from click.testing import CliRunner
from openpyxl import load_workbook
from python_calamine import CalamineWorkbook

from peprof.cli.export import export
from peprof.errors import PeprofError, StoreError, UsageError
from peprof.results.record import Failure
from peprof.results.store import ResultStore
from tests.results.factory import ENVIRONMENT, MIB, make_dead_record, make_full, make_record, make_short

LINKS = ("suite_file", "tensorboard", "record_file", "run_directory")


def keep(directory: Path, *records, logged: bool = True) -> None:
    store = ResultStore(directory)
    for record in records:
        store.write(record, suite_toml='name = "sst2"\n')
        if logged:
            log = store.run_directory(record.run_id) / "tensorboard"
            log.mkdir()
            (log / "events.out.tfevents.1").write_bytes(b"x")


def finished(label="full", *, peak=1000.0, correct=790, **values):
    return make_record(label, short=make_short(peak_mib=peak), full=make_full(correct=correct), **values)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds of two methods, and one that ran out of memory and has no log."""
    directory = tmp_path / "results" / "sst2"
    keep(
        directory,
        *(
            finished(
                label,
                seed=seed,
                peak=peak,
                correct=correct + seed,
                options={"rank": 8} if label == "lora" else {},
            )
            for label, peak, correct in (("full", 1000, 790), ("lora", 512.5, 780))
            for seed in (0, 1)
        ),
    )
    keep(directory, make_dead_record("lst", message="=1+1 was asked\x1b for"), logged=False)
    return tmp_path / "results"


def call(*arguments):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


def good(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def sheet(path: Path, name: str = "runs") -> list[dict]:
    """Rows as another library reads them."""
    header, *rows = CalamineWorkbook.from_path(path).get_sheet_by_name(name).to_python()
    return [dict(zip(header, row, strict=True)) for row in rows]


def hyperlinks(path: Path) -> dict[str, str]:
    """Cell -> target, from the first sheet's XML."""
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    relation = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
    with zipfile.ZipFile(path) as archive:
        cells = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml")).iter(f"{space}hyperlink")
        relations = ElementTree.fromstring(archive.read("xl/worksheets/_rels/sheet1.xml.rels"))
    target_of = {one.get("Id"): one.get("Target") for one in relations}
    return {cell.get("ref"): target_of[cell.get(relation)] for cell in cells}


def test_a_spreadsheet_holds_the_records_values_as_another_library_reads_it(results):
    path = results / "results.xlsx"
    done = good(results, "--to", path)
    assert done.stderr == f"Exported 5 runs: {path}\n" and done.stdout == ""
    rows = sheet(path)
    assert [(row["label"], row["seed"], row["status"]) for row in rows] == [
        ("full", 0, "ok"),
        ("full", 1, "ok"),
        ("lora", 0, "ok"),
        ("lora", 1, "ok"),
        ("lst", 0, "oom"),
    ]
    lora = rows[2]
    expected = {
        "conditions": "A",
        "settings": "rank=8",
        "options": '{"rank": 8}',
        "metric": "accuracy",
        "metric_value": 780 / 872,
        "accuracy": 780 / 872,
        "peak_allocated_bytes": 512.5 * MIB,
        "peak_allocated_mib": 512.5,
        "step_s": 0.2,
        "forward_s": 0.05,
        "train_time_s": 600.0,
        "trainable_backbone": 66_362_880,
        "hostname": "box",
        "torch": "2.13.0",
        "started_at": "2026-01-02T03:04:05Z",
        "suite_file": "suite.toml",
    }
    assert {name: lora[name] for name in expected} == pytest.approx(expected)
    dead = rows[4]
    assert dead["failure_message"] == "=1+1 was asked\N{REPLACEMENT CHARACTER} for"
    assert dead["peak_allocated_bytes"] == dead["metric_value"] == dead["tensorboard"] == ""
    assert "driver" not in lora, "a column without any value"


def test_the_sheets_explain_conditions_and_columns(results):
    path = results / "results.xlsx"
    good(results, "--to", path)
    book = CalamineWorkbook.from_path(path)
    assert book.sheet_names == ["runs", "conditions", "columns"]
    conditions = {row["conditions"]: row["A"] for row in sheet(path, "conditions")}
    assert (conditions["runs"], conditions["batch size"], conditions["device name"]) == (
        5,
        "16",
        "Xeon 8481C",
    )
    columns = {row["column"]: row for row in sheet(path, "columns")}
    assert set(sheet(path)[0]) <= set(columns)
    assert (columns["peak_allocated_mib"]["unit"], columns["peak_allocated_bytes"]["unit"]) == (
        "MiB",
        "bytes",
    )
    assert columns["driver"]["has values"] == "no" and columns["label"]["has values"] == "yes"
    assert all(row["meaning"] for row in columns.values())
    with zipfile.ZipFile(path) as archive:
        xml = archive.read("xl/worksheets/sheet1.xml").decode()
    assert '<autoFilter ref="A1:' in xml and 'state="frozen"' in xml and "<f>" not in xml


@pytest.mark.parametrize("name", ["results", "a b", "50%20 ü#1&'2"])
def test_a_spreadsheets_links_work_and_go_on_working_when_all_is_moved(results, tmp_path, name):
    directory = results.rename(tmp_path / name) if name != "results" else results
    path = directory / "out.xlsx"
    good(directory, "--to", path)
    moved = tmp_path / "elsewhere" / "deeper"
    moved.parent.mkdir()
    shutil.move(directory, moved)
    targets = [unquote(target) for target in hyperlinks(moved / "out.xlsx").values()]
    assert len(targets) == 5 * 4 - 1, "the dead run has no log"
    assert all(not Path(target).is_absolute() for target in targets)
    places = [moved / target for target in targets]
    assert all(place.exists() for place in places)
    assert {place.name for place in places if place.parent.name != "runs"} == {
        "suite.toml",
        "record.json",
        "tensorboard",
    }
    # Relative paths may lead out of the file's directory as well.
    outside = tmp_path / "tables" / "out.xlsx"
    outside.parent.mkdir()
    good(moved, "--to", outside)
    assert all((outside.parent / unquote(target)).exists() for target in hyperlinks(outside).values())


def test_more_links_than_a_sheet_may_have_are_paths(results, monkeypatch):
    monkeypatch.setattr("peprof.reports.collection_sheets._MOST_LINKS", 9)
    good(results, "--to", results / "out.xlsx")
    assert len(hyperlinks(results / "out.xlsx")) == 2 * 4
    places = [row["suite_file"] for row in sheet(results / "out.xlsx")]
    assert places[:2] == ["suite.toml"] * 2 and all((results / place).is_file() for place in places[2:])


def test_exact_bytes_fold_into_the_column_at_their_left(results):
    good(results, "--to", results / "out.xlsx")
    runs = load_workbook(results / "out.xlsx")["runs"]
    columns = {cell.value: runs.column_dimensions[cell.column_letter] for cell in runs[1]}
    exact, shown = columns["peak_allocated_bytes"], columns["peak_allocated_mib"]
    assert exact.hidden and exact.outlineLevel == 1 and not shown.hidden
    assert runs.sheet_properties.outlinePr.summaryRight is False
    assert runs.freeze_panes == "D2" and runs.auto_filter.ref.startswith("A1:")
    cell = next(row[exact.min - 1] for row in runs.iter_rows(min_row=2))
    assert (cell.value, cell.number_format) == (1000 * MIB, "#,##0")


def test_links_hold_where_the_results_are_linked_to(results, tmp_path):
    other = tmp_path / "far" / "away"
    other.mkdir(parents=True)
    (other / "linked").symlink_to(results, target_is_directory=True)
    path = other / "linked" / "out.csv"
    good(other / "linked", "--to", path)
    (tmp_path / "short").symlink_to(other, target_is_directory=True)
    through = tmp_path / "short" / "out.csv"
    good(results, "--to", through)
    for file in (path, through):
        rows = list(csv.DictReader(file.open()))
        assert all((file.parent / row["suite_file"]).is_file() for row in rows)


def test_csv_and_parquet_are_read_back_with_their_values(results):
    for name in ("out.csv", "out.parquet"):
        good(results, "--to", results / name)
    texts = list(csv.DictReader((results / "out.csv").open()))
    frame = pd.read_parquet(results / "out.parquet")
    assert list(texts[0]) == list(frame.columns)
    assert float(texts[2]["accuracy"]) == frame.accuracy[2] == 780 / 872
    assert int(texts[2]["peak_allocated_bytes"]) == frame.peak_allocated_bytes[2] == int(512.5 * MIB)
    assert str(frame.peak_allocated_bytes.dtype) == "Int64" and str(frame.git_dirty.dtype) == "boolean"
    assert texts[4]["accuracy"] == "" and frame.accuracy[4] is pd.NA
    for name in LINKS:
        for text, value in zip([row[name] for row in texts], frame[name], strict=True):
            assert text == ("" if value is pd.NA else value)
            assert not text or (results / text).exists()
    assert texts[4]["tensorboard"] == ""


def test_json_has_values_conditions_and_meanings(results):
    good(results, "--to", results / "out.json")
    content = json.loads((results / "out.json").read_text())
    assert content["runs"][2]["options"] == {"rank": 8}
    assert content["runs"][2]["accuracy"] == 780 / 872
    assert content["runs"][4]["accuracy"] is None
    (group,) = content["conditions"]
    assert (group["group"], group["runs"], group["differs"]) == ("A", 5, None)
    assert [column["name"] for column in content["columns"]] == list(content["runs"][0])


def test_markdown_is_a_table_for_people_with_links(results):
    good(results, "--to", results / "out.md", "--columns", "conditions,label,seed,metric_value,"
         "peak_allocated_bytes,step_s,trainable_backbone,tensorboard")  # fmt: skip
    run_id = finished("lora", options={"rank": 8}).run_id
    lines = (results / "out.md").read_text().splitlines()
    assert lines[0] == (
        "| conditions | label | seed | metric value | peak allocated | step |"
        " trainable backbone | tensorboard |"
    )
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    assert lines[4] == (
        f"| A | lora | 0 | 0.8945 | 512 MiB | 200 ms | 66,362,880 |"
        f" [tensorboard](sst2/runs/{run_id}/tensorboard) |"
    )
    assert lines[6] == "| A | lst | 0 | – | – | – | – | – |"
    assert lines[8].startswith("- A: model distilbert/distilbert-base-uncased; ")


def test_markdown_has_the_important_columns_unless_told_otherwise(results):
    good(results, "--to", results / "some.md")
    good(results, "--to", results / "all.md", "--columns", "all")
    some, every = ((results / name).read_text().splitlines()[0].count("|") for name in ("some.md", "all.md"))
    assert 10 < some < 25 < every


def test_machines_are_laid_together_and_told_apart(tmp_path):
    other = ENVIRONMENT.model_copy(update={"device_name": "EPYC 9004", "threads": 8, "hostname": "cluster"})
    keep(tmp_path / "laptop", finished())
    keep(tmp_path / "cluster", finished(environment=other), finished("lora", environment=other))
    path = tmp_path / "both.xlsx"
    done = good(tmp_path / "laptop", tmp_path / "cluster", "--to", path)
    assert done.stderr == f"Exported 3 runs, in 2 groups that can't be compared: {path}\n"
    rows = sheet(path)
    assert [(row["conditions"], row["label"], row["hostname"]) for row in rows] == [
        ("A", "full", "cluster"),
        ("A", "lora", "cluster"),
        ("B", "full", "box"),
    ]
    assert rows[0]["differs"] == ""
    assert rows[2]["differs"] == "device name Xeon 8481C (A: EPYC 9004); threads 2 (A: 8)"
    threads = next(row for row in sheet(path, "conditions") if row["conditions"] == "threads")
    assert (threads["A"], threads["B"]) == ("8", "2")


def test_a_copied_directory_is_told_and_counts_once_over_seeds(results, tmp_path):
    shutil.copytree(results, tmp_path / "copy")
    done = good(results, tmp_path / "copy", "--to", tmp_path / "out.csv")
    assert "5 of 10 runs are copies of others; they are listed all the same" in done.stderr
    assert len(list(csv.DictReader((tmp_path / "out.csv").open()))) == 10
    good(results, tmp_path / "copy", "--to", tmp_path / "out.csv", "--aggregate")
    assert [row["runs"] for row in csv.DictReader((tmp_path / "out.csv").open())] == ["2", "2", "1"]
    done = good(results, results / "sst2", "--to", tmp_path / "out.csv")
    assert "copies" not in done.stderr, "one directory, named twice"


def test_aggregated_methods_come_with_their_runs(results):
    path = results / "out.xlsx"
    good(results, "--to", path, "--aggregate")
    methods, runs = sheet(path, "methods"), sheet(path, "runs")
    assert [(row["label"], row["runs"], row["status"], row["seeds"]) for row in methods] == [
        ("full", 2, "ok", "[0, 1]"),
        ("lora", 2, "ok", "[0, 1]"),
        ("lst", 1, "oom", "[0]"),
    ]
    assert len(runs) == 5
    assert methods[1]["metric_value"] == pytest.approx((780 + 781) / 2 / 872)
    assert json.loads(methods[1]["metric_by_seed"]) == {"0": 780 / 872, "1": 781 / 872}


def as_format_2(record) -> str:
    """What the version before wrote: without the keys that format 3 brought."""
    content = record.model_dump(mode="json")
    content["format_version"] = 2
    for name in ("git_commit", "git_dirty"):
        del content["environment"][name]
    for name in (
        "result_step", "intervals", "correct_bits", "stopped_by", "wall_time_s", "waiting_time_s",
        "checkpoint_time_s", "resumes", "peak", "energy_j",
    ):  # fmt: skip
        del content["full"][name]
    for evaluation in content["full"]["evaluations"]:
        del evaluation["metrics"], evaluation["energy_j"]
    return json.dumps(content)


def test_records_of_the_format_before_are_exported_too(results):
    record = finished("bitfit", correct=700)
    directory = results / "sst2" / "runs" / record.run_id
    directory.mkdir()
    (directory / "record.json").write_text(as_format_2(record))
    good(results, "--to", results / "out.csv")
    row = next(row for row in csv.DictReader((results / "out.csv").open()) if row["label"] == "bitfit")
    assert (row["format_version"], row["metric"], row["conditions"]) == ("2", "accuracy", "A")
    assert float(row["metric_value"]) == 700 / 872
    assert row["git_commit"] == row["suite_file"] == row["tensorboard"] == ""


def test_a_damaged_record_costs_no_other(results):
    run_id = finished().run_id
    (results / "sst2" / "runs" / run_id / "record.json").write_text("{")
    done = good(results, "--to", results / "out.json")
    assert f"left out {results}/sst2/runs/{run_id}/record.json: is not complete JSON" in done.stderr
    content = json.loads((results / "out.json").read_text())
    assert len(content["runs"]) == 4
    assert [run_id in problem for problem in content["problems"]] == [True]


def test_numbers_that_are_none_and_endless_texts_are_bearable(tmp_path):
    full = make_full().model_copy(update={"final_loss": float("nan")})
    failure = Failure(phase="full: training", kind="X", message="long " * 10_000)
    keep(tmp_path, make_record(status="diverged", full=full, failure=failure))
    for name in ("out.xlsx", "out.csv", "out.parquet", "out.md", "out.json"):
        good(tmp_path, "--to", tmp_path / name, "--columns", "all")
    (row,) = sheet(tmp_path / "out.xlsx")
    assert row["final_loss"] == "NaN" and row["failure_message"].startswith("long long")
    assert json.loads((tmp_path / "out.json").read_text())["runs"][0]["final_loss"] == "NaN"


def fails(*arguments) -> PeprofError:
    result = call(*arguments)
    assert isinstance(result.exception, PeprofError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("results", "--to", "out.xls"), "can't export to 'out.xls': its ending says nothing of a table"),
        (("results", "--to", "out"), "can't export to 'out': its ending says nothing of a table"),
        (("results", "--to", "no/out.csv"), "can't export to 'no/out.csv': there is no directory 'no'"),
        (("results", "--to", "folder.csv"), "can't export to 'folder.csv': it is a directory"),
        (("nowhere", "--to", "out.csv"), "the results directory 'nowhere' does not exist"),
        (("folder.csv", "--to", "out.csv"), "there are no results in 'folder.csv'"),
        (("results", "--to", "out.csv", "--columns", "labl"), "no column 'labl'; did you mean 'label'?"),
        (("results", "--to", "out.csv", "--columns", "seeds"), "an export of runs has no column 'seeds'"),
    ],
)
def test_bad_use_is_one_message(results, monkeypatch, arguments, said):
    monkeypatch.chdir(results.parent)
    Path("folder.csv").mkdir()
    error = fails(*arguments)
    assert isinstance(error, UsageError) and error.exit_code == 2
    assert said in error.message and error.hint
    assert not Path("out.csv").exists()


def test_a_missing_library_is_named_before_anything_is_read(results, monkeypatch):
    monkeypatch.setattr("peprof.reports.collection_file.find_spec", lambda name: None)
    error = fails("nowhere", "--to", results / "out.xlsx")
    assert error.message == ".xlsx files need the library openpyxl, which isn't installed"
    assert "pip install 'peprof[export]'" in error.hint
    good(results, "--to", results / "out.csv")


def test_a_file_that_is_there_is_replaced_as_a_whole_or_not_at_all(results, monkeypatch):
    path = results / "out.csv"
    path.write_text("before")
    good(results, "--to", path)
    assert path.read_text().startswith("conditions,")
    path.write_text("before")

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("peprof.results.atomic.os.fsync", full_disk)
    error = fails(results, "--to", path)
    assert isinstance(error, StoreError) and error.exit_code == 5
    assert error.message == f"can't write '{path}': No space left on device"
    assert path.read_text() == "before"
    assert not list(results.glob(".*.tmp"))


def test_through_a_link_the_file_itself_is_replaced(results, tmp_path):
    (tmp_path / "real.csv").write_text("before")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    good(results, "--to", tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("conditions,")


def test_the_command_never_imports_torch(results):
    code = (
        "import sys; from peprof.cli import commands;"
        "[commands.main([*sys.argv[1:-1], sys.argv[-1] + end], standalone_mode=False)"
        " for end in ('.xlsx', '.parquet', '.md')];"
        "sys.exit('torch' in sys.modules)"
    )
    arguments = ["export", str(results), "--aggregate", "--to", str(results / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_hundreds_of_records_come_through(tmp_path):
    store = ResultStore(tmp_path / "many")
    for number in range(300):
        record = finished(f"m{number % 30}", seed=number // 30)
        directory = store.run_directory(record.run_id)
        directory.mkdir(parents=True)
        (directory / "record.json").write_text(record.model_dump_json())
    good(tmp_path, "--to", tmp_path / "out.xlsx", "--aggregate")
    assert len(sheet(tmp_path / "out.xlsx", "runs")) == 300
    assert [row["runs"] for row in sheet(tmp_path / "out.xlsx", "methods")] == [10] * 30
