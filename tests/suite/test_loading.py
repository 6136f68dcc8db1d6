"""What is laid over a suite: ``--set``, the offline table, ``--only``, ``--phase``, and where paths lead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peprof.errors import SuiteError, UsageError
from peprof.suite.loading import load_suite
from peprof.suite.overriding import parse_override
from peprof.suite.planning import plan
from peprof.suite.schema import Suite
from tests.suite.conftest import Write

TEXT = """
name = "a"
[model]
name = "org/model"
revision = "v1"
[data]
name = "org/data"
subset = "en"
[train]
batch_size = 32
[[methods]]
name = "full"
[[methods]]
name = "lora"
learning_rate = 1e-3
[[methods]]
name = "lora"
label = "lora-r2.wide"
rank = 2
[matrix]
train.batch_size = [16, 32]
"methods.lora.rank" = [4, 8]
[offline]
model.weights = "random"
data.name = "peprof/reviews"
phases = ["short"]
train.seeds = [7]
methods.lora.rank = 1
"""


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.b=3", "a.b", 3),
        ("a.b = 3.5", "a.b", 3.5),
        ("a.b=[1, 2]", "a.b", [1, 2]),
        ("a.b=true", "a.b", True),
        ('a.b="3"', "a.b", "3"),
        ("a.b=some words", "a.b", "some words"),
        ("a.b=../x=y", "a.b", "../x=y"),
        ("a.b=", "a.b", ""),
        ("a.b=1\nc = 2", "a.b", "1\nc = 2"),
        ('matrix."train.epochs"=[1]', "matrix.train.epochs", [1]),
    ],
)
def test_an_override_is_toml_or_a_bare_string(text: str, key: str, value: object) -> None:
    override = parse_override(text)
    assert (override.key, override.value) == (key, value)


@pytest.mark.parametrize("text", ["train.epochs", "=3", "", "  =  "])
def test_an_override_needs_a_key_and_a_value(text: str) -> None:
    with pytest.raises(UsageError, match="expected key=value") as caught:
        parse_override(text)
    assert caught.value.hint == "For example: --set train.batch_size=16"


def test_an_override_that_is_not_text() -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        parse_override("data.path=\udcff")


def loaded(write: Write, *overrides: str, **more: Any) -> tuple[Suite, Suite]:
    found = load_suite(write(TEXT), overrides=overrides, **more)
    assert found.offline is not None
    return found.suite, found.offline


def test_a_suite_and_its_offline_variant(write_suite: Write) -> None:
    found = load_suite(write_suite(TEXT))
    assert found.text == TEXT
    assert found.source.endswith("suite.toml")
    suite, offline = found.suite, found.offline
    assert offline is not None
    assert (suite.model.weights, offline.model.weights) == ("pretrained", "random")
    assert (suite.data.name, offline.data.name) == ("org/data", "peprof/reviews")
    assert (suite.data.subset, offline.data.subset) == ("en", None)
    assert (suite.phases, offline.phases) == (("short", "full"), ("short",))
    assert (suite.train.seeds, offline.train.seeds) == ((0,), (7,))
    assert (suite.train.batch_size, offline.train.batch_size) == (32, 32)
    assert suite.matrix == {"train.batch_size": (16, 32), "methods.lora.rank": (4, 8)}
    assert offline.matrix == {"train.batch_size": (16, 32)}  # the overlay says one rank
    assert offline.methods[1].options["rank"] == 1
    assert suite.offline is not None
    assert suite.offline["phases"] == ("short",)
    assert offline.offline is None
    assert Suite.model_validate_json(suite.model_dump_json()) == suite


def test_set_wins_over_the_file_and_the_overlay(write_suite: Write) -> None:
    for variant in loaded(
        write_suite, "train.seeds=[1, 2]", "model.weights=pretrained", 'phases=["full"]', "name=b",
        "methods.lora-r2.wide.rank=3", "methods.lora.learning_rate=0.5", "train.max_grad_norm=none",
    ):  # fmt: skip
        assert variant.train.seeds == (1, 2)
        assert variant.model.weights == "pretrained"
        assert variant.phases == ("full",)
        assert variant.name == "b"
        assert variant.methods[2].options["rank"] == 3
        assert variant.methods[1].learning_rate == 0.5
        assert variant.train.max_grad_norm is None


def test_of_two_sets_the_later_wins(write_suite: Write) -> None:
    assert loaded(write_suite, "train.epochs=1", "train.epochs=2")[0].train.epochs == 2


def test_set_ends_the_matrix_of_its_key(write_suite: Write) -> None:
    suite, _ = loaded(write_suite, "train.batch_size=8", "methods.lora.rank=5")
    assert suite.train.batch_size == 8
    assert suite.methods[1].options["rank"] == 5
    assert suite.matrix == {}


def test_set_may_begin_a_matrix(write_suite: Write) -> None:
    for variant in loaded(write_suite, 'matrix."train.epochs"=[1, 2]', "matrix.methods.lora.rank=[6]"):
        assert variant.matrix == {
            "train.batch_size": (16, 32),
            "train.epochs": (1, 2),
            "methods.lora.rank": (6,),
        }


def test_another_source_takes_its_rival_away(write_suite: Write, tmp_path: Path) -> None:
    for name in ("train.tsv", "validation.parquet"):
        (tmp_path / name).write_text("sentence")
    for variant in loaded(write_suite, f"data.path={tmp_path}", "model.name=org/other"):
        assert (variant.data.name, variant.data.path) == (None, str(tmp_path.resolve()))
        assert variant.data.subset is None
        assert (variant.model.name, variant.model.revision) == ("org/other", None)
    for variant in loaded(write_suite, "data.name=org/other", "data.subset=de", "model.revision=v2"):
        assert (variant.data.name, variant.data.subset) == ("org/other", "de")
        assert variant.model.revision == "v2"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs=many", '--set train.epochs: found "many", a string; expected an integer >= 1'),
        ("train.epoch=3", "--set train.epoch: unknown key (found 3); expected one of batch_size, "),
        (
            "tarin.epochs=3",
            "--set tarin.epochs: unknown key; expected one of name, description, phases, model.KEY, "
            "data.KEY, train.KEY, short.KEY, limits.KEY, methods.LABEL.OPTION, matrix.KEY. "
            "Did you mean 'train.epochs'?",
        ),
        ("train=3", "--set train: unknown key; expected train.KEY"),
        ("train.epochs.x=3", "--set train.epochs.x: unknown key; expected train.KEY"),
        ("epochs=3", "--set epochs: unknown key; "),
        ("offline.phases=[]", "--set offline.phases: unknown key; "),
        (
            "methods.lroa.rank=3",
            "--set methods.lroa.rank: addresses no method; expected methods.LABEL.OPTION with LABEL one of "
            "full, lora, lora-r2.wide. Did you mean 'lora'?",
        ),
        ("methods.lora.name=full", "--set methods.lora.name: a method's name can't be set from outside"),
        (
            "methods.lora.rnak=3",
            "--set methods.lora.rnak: unknown key (found 3); expected one of train_head, rank, alpha, "
            "dropout, noise, targets, bias, init. Did you mean 'methods.lora.rank'?",
        ),
        ("methods.lora.rank=3.5", "--set methods.lora.rank: found 3.5; expected an integer"),
        (
            'data.text=["a", 1]',
            "--set data.text[1]: found 1; expected a string",
        ),
        ("matrix.train.epochs=[0]", "--set matrix.train.epochs[0]: found 0; expected an integer >= 1"),
        (
            "data.path=/no/where",
            '--set data.path: there is no such directory: "/no/where"; expected a directory with train and',
        ),
    ],
)  # fmt: skip
def test_a_wrong_set_names_itself_and_is_told_once(write_suite: Write, override: str, line: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(write_suite(TEXT), overrides=[override])
    told = [str(fault) for fault in caught.value.faults]
    assert len(told) == 1, told
    assert told[0].startswith(line)


def test_only_keeps_methods_by_label_or_name(write_suite: Write) -> None:
    suite, _ = loaded(write_suite, only=["lora"])
    assert [method.label for method in suite.methods] == ["lora", "lora-r2.wide"]  # both are LoRA by name
    suite, offline = loaded(write_suite, only=["lora-r2.wide", "full"])
    assert [method.label for method in suite.methods] == ["full", "lora-r2.wide"]
    assert [method.label for method in offline.methods] == ["full", "lora-r2.wide"]
    assert suite.matrix == {"train.batch_size": (16, 32)}  # nothing of lora's is left


def test_only_with_an_unknown_method(write_suite: Write) -> None:
    with pytest.raises(UsageError) as caught:
        load_suite(write_suite(TEXT), only=["lroa"])
    assert caught.value.message == "--only lroa: the suite has no such method. Did you mean 'lora'?"
    assert caught.value.hint == "Its methods: full, lora, lora-r2.wide."


def test_phases_are_restricted(write_suite: Write) -> None:
    suite, offline = loaded(write_suite, phases=["short"])
    assert suite.phases == offline.phases == ("short",)
    full = load_suite(write_suite(TEXT), phases=["full"])
    assert full.suite.phases == ("full",)
    assert full.offline is None  # the overlay has no full phase, so nothing is left to run offline
    with pytest.raises(UsageError, match=r"no such phase; expected one of short, full\. Did you mean 'full'"):
        load_suite(write_suite(TEXT), phases=["ful"])
    with pytest.raises(UsageError, match="the suite has no such phase; it has short"):
        load_suite(write_suite('phases = ["short"]\n' + TEXT), phases=["full"])


def test_phases_come_in_order_and_once(write_suite: Write) -> None:
    suite, _ = loaded(write_suite, 'phases=["full", "short", "full"]')
    assert suite.phases == ("short", "full")


def test_what_is_published_stands_beside_the_methods_and_decides_nothing(write_suite: Write) -> None:
    said = '[methods.published]\nsource = "a table"\npeak_gb = 5.5\n'
    plain, told = TEXT, TEXT.replace("rank = 2\n", f"rank = 2\n{said}")
    without, suite = (load_suite(write_suite(text)).suite for text in (plain, told))
    assert {label: item.peak_gb for label, item in suite.published.items()} == {"lora-r2.wide": 5.5}
    assert plan(suite, device="cpu") == plan(without, device="cpu")


def test_paths_lead_from_where_one_is_then_from_the_file(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_suite(TEXT)
    here = tmp_path / "here"
    for folder in (here / "rows", path.parent / "rows", path.parent / "net"):
        folder.mkdir(parents=True)
        for name in ("train.csv", "validation.csv", "config.json"):
            (folder / name).write_text("{}")
    monkeypatch.chdir(here)
    overrides = ["data.path=rows", "model.name=net", "matrix.data.path=['rows']"]
    suite = load_suite(path, overrides=overrides).suite
    assert suite.data.path == str((here / "rows").resolve())
    assert suite.model.name == str((path.parent / "net").resolve())
    assert suite.matrix["data.path"] == (str((here / "rows").resolve()),)
    monkeypatch.chdir(tmp_path)
    assert load_suite(path, overrides=overrides).suite.data.path == str((path.parent / "rows").resolve())


def test_data_of_a_matrix_is_looked_at_with_the_suites_splits(write_suite: Write, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "train.tsv").write_text("a")
    (folders[0] / "dev.tsv").write_text("a")
    overrides = ["data.validation_split=dev", f"matrix.data.path={[str(folder) for folder in folders]}"]
    with pytest.raises(SuiteError) as caught:
        load_suite(write_suite(TEXT), overrides=overrides)
    (fault,) = caught.value.faults
    assert fault.key == "--set matrix.data.path[1]"
    assert fault.problem == f"no file for the split 'dev' in {folders[1]}"


def test_the_embedded_model_is_never_a_directory(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peprof" / "tiny").mkdir(parents=True)
    (tmp_path / "peprof" / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert loaded(write_suite, "model.name=peprof/tiny")[0].model.name == "peprof/tiny"


def test_a_folder_called_like_a_hub_id_without_a_model_is_left_alone(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert loaded(write_suite)[0].model.name == "org/model"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, peprof.suite.loading, peprof.suite.planning\n"
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'peprof_methods') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
