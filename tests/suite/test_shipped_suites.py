"""The suites that people run by name, against the methods that this distribution declares."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from peprof.errors import SuiteError
from peprof.suite import catalogue
from peprof.suite.catalogue import known_methods
from peprof.suite.loading import LoadedSuite, load_suite, shipped_suites
from peprof.suite.planning import plan

CHECKOUT = Path(__file__).parents[2]
FILES = sorted((CHECKOUT / "suites").glob("*.toml"))
SEVEN = {"full", "lora", "ia3", "bitfit", "lst", "last_layers", "head"}


@pytest.fixture(autouse=True)
def declared_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyproject.toml declares, so that the tests hold before an installation too."""
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    points = [EntryPoint(name, value, catalogue.GROUP) for name, value in declared[catalogue.GROUP].items()]
    monkeypatch.setattr(catalogue, "entry_points", lambda *, group: points)


def test_every_declared_method_can_be_read() -> None:
    methods = known_methods()
    assert set(methods) >= SEVEN
    for method in methods.values():
        assert method.problem is None
        assert method.complete
        assert method.summary
        for option in method.options:
            assert option.required or option.default_known, (method.name, option.name)
            assert option.meaning, (method.name, option.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_suite_is_right(path: Path) -> None:
    found = load_suite(path)
    assert found.suite.name == path.stem
    assert found.suite.description
    if found.suite.model.quantization is None:  # or full fine-tuning would be refused
        assert found.suite.methods[0].name == "full"  # the yardstick of every ratio
    assert len(plan(found.suite, device="cpu")) >= len(found.suite.methods)


def by_name(name: str) -> LoadedSuite:
    return load_suite(name)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml", "suites/quickstart.toml"])
def test_a_shipped_suite_is_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert by_name(name).suite.name == "quickstart"
    (tmp_path / "quickstart").mkdir()  # a folder of that name is no suite
    assert by_name(name).suite.name == "quickstart"


def test_names_of_the_shipped_suites() -> None:
    assert set(shipped_suites()) == {path.stem for path in FILES} >= {"quickstart", "sst2", "sst2-minilm"}


def test_quickstart_needs_nothing_from_outside() -> None:
    suite = by_name("quickstart").suite
    assert (suite.model.name, suite.data.name) == ("peprof/tiny", "peprof/reviews")
    assert {method.name for method in suite.methods} == SEVEN
    assert (suite.train.batch_size, suite.data.max_length) == (32, 48)
    assert suite.phases == ("short", "full")


def test_sst2_takes_three_seeds_and_knows_what_to_do_offline() -> None:
    found = by_name("sst2")
    assert found.suite.train.seeds == (0, 1, 2)
    assert {method.name for method in found.suite.methods} == SEVEN
    assert len(plan(found.suite, device="cuda")) == 3 * 7
    offline = found.offline
    assert offline is not None
    assert (offline.model.name, offline.model.weights) == ("distilbert/distilbert-base-uncased", "random")
    assert (offline.data.name, offline.phases, offline.train.seeds) == ("peprof/reviews", ("short",), (0,))
    # A short phase uses the batch and length of the suite, not a toy's.
    assert (offline.train.batch_size, offline.data.max_length) == (32, 64)
    assert offline.short.max_seconds == 30.0


def test_sst2_minilm_is_short_enough_for_a_cpu() -> None:
    suite = by_name("sst2-minilm").suite
    assert suite.model.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (suite.train.max_steps, suite.train.batch_size, suite.train.seeds) == (400, 32, (0,))
    assert [method.name for method in suite.methods] == ["full", "lora", "ia3", "lst", "head"]
    assert suite.short.max_seconds == 20.0


def test_sst2_t5_writes_words_online_and_offline() -> None:
    found = by_name("sst2-t5")
    assert found.offline is not None
    for suite in (found.suite, found.offline):
        data = suite.data
        assert (data.task, data.prefix) == ("text-to-text", "sst2 sentence: ")
        assert data.verbalizers == ("negative", "positive")
    assert [method.name for method in found.suite.methods] == ["full", "lora", "ia3", "lst", "bitfit"]
    assert (found.suite.model.name, found.offline.model.weights) == ("google-t5/t5-base", "random")


def test_lst_table1_is_measured_as_published() -> None:
    suite = by_name("lst-table1").suite
    assert (suite.train.batch_size, suite.data.max_length) == (100, 128)
    options = {method.label: method.options for method in suite.methods}
    assert list(options) == ["full", "adapters", "lora", "bitfit", "prompt_tuning", "lst"]
    assert (options["lora"]["rank"], options["prompt_tuning"]["tokens"]) == (32, 100)
    assert options["lst"]["backbone_layers"] == (1, 2, 3, 5, 6, 7, 9, 10, 11)


def test_klst_table_has_the_eight_published_rows() -> None:
    suite = by_name("klst-table").suite
    assert (suite.model.name, suite.train.batch_size) == ("FacebookAI/roberta-large", 16)
    rows = [(method.label, method.name) for method in suite.methods]
    assert rows == [
        ("full", "full"), ("lora", "lora"), ("lst", "lst"), ("last_layers", "last_layers"), ("siva", "siva"),
        ("siva-key-value", "siva"), ("5-lst", "lst"), ("9-lst", "lst"),
    ]  # fmt: skip
    options = {method.label: method.options for method in suite.methods}
    assert len(options["lora"]["targets"]) == len(options["siva"]["targets"]) == 6
    assert options["siva-key-value"]["targets"] == ("attention.key", "attention.value")
    assert [options[label]["window"] for label in ("5-lst", "9-lst")] == [5, 9]
    assert {options[label]["fusion"] for label in ("5-lst", "9-lst")} == {"window"}
    assert options["last_layers"]["count"] == 3


def test_glue_has_nine_tasks_each_with_its_own_columns_and_metrics() -> None:
    found = by_name("glue")
    tasks = {spec.data.subset: spec.data for spec in plan(found.suite, device="cuda")}
    assert {name: (data.text, data.judged_by) for name, data in tasks.items()} == {
        "cola": (("sentence",), ("matthews",)),
        "sst2": (("sentence",), ("accuracy",)),
        "mrpc": (("sentence1", "sentence2"), ("f1", "accuracy")),
        "stsb": (("sentence1", "sentence2"), ("pearson_spearman", "pearson", "spearman")),
        "qqp": (("question1", "question2"), ("f1", "accuracy")),
        "mnli": (("premise", "hypothesis"), ("accuracy",)),
        "qnli": (("question", "sentence"), ("accuracy",)),
        "rte": (("sentence1", "sentence2"), ("accuracy",)),
        "wnli": (("sentence1", "sentence2"), ("accuracy",)),
    }
    assert {data.name for data in tasks.values()} == {"nyu-mll/glue"}
    assert [name for name, data in tasks.items() if data.task == "regression"] == ["stsb"]
    splits = {name: data.validation_split for name, data in tasks.items()}
    assert splits.pop("mnli") == "validation_matched" and set(splits.values()) == {"validation"}
    assert len(plan(found.suite, device="cuda")) == 9 * len(found.suite.methods)
    offline = found.offline
    assert offline is not None and (offline.data.name, offline.model.weights) == ("peprof/reviews", "random")
    assert len(plan(offline, device="cpu")) == len(offline.methods), "one data set, not nine"


def test_a_suite_may_be_told_what_a_method_is_called_here(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[model]\nname = "peprof/tiny"\n[data]\nname = "peprof/reviews"\n')
    with path.open("a") as file:
        file.write('[[methods]]\nname = "shira"\n')
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert (
        "methods[0] (shira).name: there is no method 'shira': SHiRA is sparse with select = \"random\"; "
        "expected sparse"
    ) in str(caught.value)


@pytest.mark.parametrize("name", ["billions", "billions-nf4", "billions-t5"])
def test_a_row_that_recomputes_layers_says_so_in_its_label(name: str) -> None:
    """Beside rows that keep their activations it would look cheaper by its method."""
    methods = by_name(name).suite.methods
    for method in methods:
        if method.gradient_checkpointing:
            assert method.label.endswith("-checkpointed") or method.label == "qlora"  # which the paper does
