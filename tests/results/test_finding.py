import json
import shutil

import pytest

from peprof.errors import StoreError, UsageError
from peprof.results.finding import find_run
from peprof.results.store import ResultStore
from tests.reports.profiles import profile
from tests.results.factory import make_dead_record, make_record


@pytest.fixture
def results(tmp_path):
    store = ResultStore(tmp_path / "results" / "sst2")
    store.write(make_record("lora"), memory=profile())
    store.write(make_record("lst"))
    store.write(make_dead_record("full"))
    return tmp_path / "results"


def directory_of(results, label):
    return next(results.glob(f"sst2/runs/{label}-*"))


def test_an_id_its_beginning_a_directory_and_a_file_mean_the_same_run(results):
    directory = directory_of(results, "lora")
    for name in (directory.name, "lor", directory, directory / "memory.json", directory / "record.json"):
        found = find_run(str(name), [results])
        assert (found.name, found.memory) == (directory.name, profile())
        assert found.record is not None and found.record.spec.method.label == "lora"


def test_a_file_of_somebodys_own_loop_and_a_run_that_was_moved(results, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(profile().to_dict()))
    found = find_run(str(tmp_path / "mine.json"), [])
    assert (found.name, found.record, found.memory) == (str(tmp_path / "mine.json"), None, profile())
    shutil.copytree(directory_of(results, "lora"), tmp_path / "elsewhere")
    assert find_run(str(tmp_path / "elsewhere"), []).name == directory_of(results, "lora").name


def test_the_only_run_needs_no_name(results):
    shutil.rmtree(directory_of(results, "lst"))
    shutil.rmtree(directory_of(results, "full"))
    assert find_run(None, [results]).name.startswith("lora-")
    assert find_run(str(results), []).name.startswith("lora-")


def test_several_runs_are_listed(results):
    with pytest.raises(UsageError) as error:
        find_run("l", [results])
    lora, lst = (directory_of(results, label).name for label in ("lora", "lst"))
    model = "distilbert/distilbert-base-uncased, 16 × 64"
    assert error.value.message.splitlines() == [
        "'l' is the beginning of 2 runs; which one?",
        f"  {'run':<{len(lora)}}  method  peak  model",
        f"  {lora}  lora       –  {model}",
        f"  {lst:<{len(lora)}}  lst        –  {model}",
    ]
    with pytest.raises(UsageError, match="there are 3 runs in") as error:
        find_run(None, [results])
    assert any(line.split()[1:3] == ["full", "oom"] for line in error.value.message.splitlines())


def test_one_id_in_two_stores_is_told_apart_by_its_directory(results):
    shutil.copytree(results / "sst2", results / "again")
    with pytest.raises(UsageError, match="is the beginning of 2 runs") as error:
        find_run("lora", [results])
    assert str(directory_of(results, "lora")) in error.value.message
    assert "by their directories" in error.value.hint


def test_an_unknown_run_an_empty_directory_and_a_torn_file(results, tmp_path):
    with pytest.raises(UsageError, match="there is no run, file or directory of runs 'ia3'; in") as error:
        find_run("ia3", [results])
    assert directory_of(results, "lst").name in error.value.message
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="and there are no runs in"):
        find_run("ia3", [tmp_path / "empty"])
    with pytest.raises(UsageError, match="there are no runs in"):
        find_run(None, [tmp_path / "empty"])
    (directory_of(results, "lora") / "memory.json").write_text("{")
    with pytest.raises(StoreError, match="is not complete JSON"):
        find_run("lora", [results])
