"""Data of each task from local files: GLUE's columns, classes as words, numbers, texts alone; and faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from peprof.errors import SuiteError
from peprof.suite.loading import load_suite
from peprof.suite.planning import plan
from peprof.suite.schema import DataConfig
from peprof.training.data import LoadedData, load_data

Rows = list[dict[str, Any]]

# Sentences of the kind that the tasks have, under the very columns and features of the hub's nyu-mll/glue.
GLUE: dict[str, tuple[list[str], list[str] | None, Rows]] = {
    "cola": (["sentence"], ["unacceptable", "acceptable"], [
        {"sentence": "They drank the pub dry.", "label": 1}, {"sentence": "They drank the pub.", "label": 0},
    ]),
    "sst2": (["sentence"], ["negative", "positive"], [
        {"sentence": "a gorgeous film", "label": 1}, {"sentence": "dull", "label": 0},
    ]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"], [
        {"sentence1": "He sold it.", "sentence2": "It was sold by him.", "label": 1},
        {"sentence1": "He sold it.", "sentence2": "She bought one.", "label": 0},
    ]),
    "stsb": (["sentence1", "sentence2"], None, [
        {"sentence1": "A plane is taking off.", "sentence2": "An air plane is taking off.", "label": 5.0},
        {"sentence1": "A man plays.", "sentence2": "A woman reads.", "label": 0.636},
    ]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"], [
        {"question1": "How old is he?", "question2": "What is his age?", "label": 1},
        {"question1": "How old is he?", "question2": "Who is he?", "label": 0},
    ]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"], [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0},
        {"premise": "It rains.", "hypothesis": "He is sad.", "label": 1},
        {"premise": "It rains.", "hypothesis": "It is dry.", "label": 2},
    ]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"], [
        {"question": "Where?", "sentence": "In Rome.", "label": 0},
        {"question": "Where?", "sentence": "In May.", "label": 1},
    ]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"], [
        {"sentence1": "He won.", "sentence2": "He played.", "label": 0},
        {"sentence1": "He played.", "sentence2": "He won.", "label": 1},
    ]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"], [
        {"sentence1": "It was too big.", "sentence2": "The trophy was too big.", "label": 1},
        {"sentence1": "It was too big.", "sentence2": "The case was too big.", "label": 0},
    ]),
}  # fmt: skip


def glue_directory(directory: Path) -> Path:
    """A copy of each task as ``Dataset.to_parquet`` writes it, with GLUE's own split names."""
    for task, (_, names, rows) in GLUE.items():
        numbered = [{**row, "idx": index} for index, row in enumerate(rows)]
        found = datasets.Dataset.from_list(numbered)
        if names is not None:
            found = found.cast_column("label", datasets.ClassLabel(names=names))
        (directory / task).mkdir(parents=True)
        for split in ("train", "validation_matched" if task == "mnli" else "validation"):
            found.to_parquet(directory / task / f"{split}.parquet")
    return directory


def test_the_shipped_suite_reads_a_local_copy_of_each_task(tmp_path: Path) -> None:
    loaded = load_suite("glue", overrides=[f"data.path={glue_directory(tmp_path / 'glue')}"])
    seen = {}
    for spec in plan(loaded.suite, device="cpu"):
        assert spec.data.path is not None
        seen[Path(spec.data.path).name] = spec.data
    assert list(seen) == list(GLUE)
    for task, config in seen.items():
        columns, names, rows = GLUE[task]
        found = load_data(config, source="glue.toml")
        assert found.train.texts == tuple(tuple(row[column] for column in columns) for row in rows)
        assert found.validation.labels == tuple(row["label"] for row in rows)
        assert found.facts.class_names == tuple(names or ())
        assert found.facts.num_labels == (len(names) if names else 1)


def write(directory: Path, **splits: Rows) -> DataConfig:
    for split, rows in splits.items():
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(directory))


def load(directory: Path, train: Rows, validation: Rows | None = None, **changes: object) -> LoadedData:
    config = write(directory, train=train, validation=train if validation is None else validation)
    return load_data(DataConfig.model_validate({**dict(config), **changes}), source="s.toml")


def rows(*labels: object) -> Rows:
    return [{"sentence": f"text {index}", "label": label} for index, label in enumerate(labels)]


def test_words_become_classes_in_their_sorted_order(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        rows("neutral", "contradiction", "entailment", "neutral"),
        rows("entailment", "neutral"),
    )
    assert found.facts.class_names == ("contradiction", "entailment", "neutral")
    assert (found.train.labels, found.validation.labels) == ((2, 0, 1, 2), (1, 2))
    assert found.facts.num_labels == 3


def test_words_of_a_tab_separated_file_may_look_like_numbers_in_one_split(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("sentence\tlabel\na\t1\nb\tnone\nc\t2\nd\t1\n")
    (tmp_path / "validation.tsv").write_text("sentence\tlabel\na\t1\nb\t2\n")
    found = load_data(DataConfig(path=str(tmp_path)), source="s.toml")
    assert found.facts.class_names == ("1", "2", "none")
    assert (found.train.labels, found.validation.labels) == ((0, 2, 1, 0), (0, 1))


def test_words_are_written_in_the_order_of_their_classes(tmp_path: Path) -> None:
    found = load(
        tmp_path, rows("pos", "neg", "pos"), task="text-to-text", verbalizers=("negative", "positive")
    )
    assert found.train.labels == (1, 0, 1), "neg before pos"


def test_numbers_stay_what_they_are(tmp_path: Path) -> None:
    found = load(tmp_path, rows(0, 2.5, -1), task="regression")
    assert found.train.labels == (0.0, 2.5, -1.0)
    assert (found.facts.num_labels, found.facts.class_names) == (1, ())


def test_texts_alone_need_no_label_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    texts = [{"text": "= A title ="}, {"text": ""}, {"text": " \n"}, {"text": "A sentence ."}]
    found = load(tmp_path, texts, task="language-modelling", text=("text",))
    assert found.train.texts == (("= A title =",), ("A sentence .",))
    assert (found.train.labels, found.facts.train_rows, found.facts.num_labels) == ((), 2, 0)
    shorter = load(tmp_path, texts, task="language-modelling", text=("text",), train_rows=1)
    assert shorter.facts.train_rows == 1 and shorter.facts.fingerprint != found.facts.fingerprint


def test_a_prompt_may_be_empty(tmp_path: Path) -> None:
    pairs = [{"q": "", "a": "yes"}, {"q": "why?", "a": "so"}]
    found = load(tmp_path, pairs, task="language-modelling", text=("q", "a"))
    assert found.train.texts == (("", "yes"), ("why?", "so"))


PAIR = {"task": "language-modelling", "text": ("q", "a")}


@pytest.mark.parametrize(
    ("train", "validation", "changes", "words"),
    [
        (rows(1.0, None), None, {"task": "regression"}, ["row 2", "'train'", "None is no finite number"]),
        (rows(1.0, "x"), None, {"task": "regression"}, ["data.", "label"]),
        (rows(True, False), None, {"task": "regression"}, ["row 1", "True is no finite number"]),
        (rows("a", "b", "a"), rows("a", "c"), {},
         ["row 2 of split 'validation'", "label 'c' occurs nowhere", "a, b, as in split 'train'"]),
        (rows("a", "a"), None, {}, ["labels in split 'train' are a", "at least two classes"]),
        (rows("a", " ", "a"), None, {}, ["row 2", "label ' ' is no class"]),
        (rows("a", None, "a"), None, {}, ["row 2", "label None is no class"]),
        (rows("a", "b", "c"), None, {}, ["all 3 rows", "labels that differ"]),
        (rows(0.5, 1.0), None, {}, ["row 1", "label 0.5 is out of range", "whole number from 0, or a word"]),
        ([{"q": "a", "a": ""}], None, PAIR, ["data.text", "row 1", "column 'a' holds ''"]),
        ([{"q": None, "a": "x"}], None, PAIR, ["data.text", "row 1", "column 'q' holds None"]),
        ([{"q": "a"}], None, PAIR, ["data.text", "no column 'a'", "one of: q"]),
        ([{"t": ""}], None, {"task": "language-modelling", "text": ("t",)}, ["no text in column 't'"]),
    ],
)  # fmt: skip
def test_what_a_task_cannot_use_is_named_with_its_row(
    tmp_path: Path, train: Rows, validation: Rows | None, changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(SuiteError) as error:
        load(tmp_path, train, validation, **changes)
    for word in words:
        assert word in error.value.message


def test_a_hidden_test_splits_labels_are_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"row 1 of .*'validation': label -1 is out of range"):
        load(tmp_path, rows(0, 1), rows(-1, -1))


def test_a_collection_of_the_hub_is_asked_for_by_its_subset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    names = datasets.ClassLabel(names=["no", "yes"])
    split = datasets.Dataset.from_list(rows(0, 1)).cast_column("label", names)

    def answer(*given: object) -> datasets.DatasetDict:
        asked.append(given)
        return datasets.DatasetDict({"train": split, "validation_matched": split})

    monkeypatch.setattr(datasets, "load_dataset", answer)
    config = DataConfig(name="nyu-mll/glue", subset="mnli", validation_split="validation_matched")
    found = load_data(config, source="s.toml")
    assert asked == [("nyu-mll/glue", "mnli")]
    assert (found.train.labels, found.facts.class_names) == ((0, 1), ("no", "yes"))
    with pytest.raises(SuiteError, match=r"no split 'validation'.*Did you mean 'validation_matched'"):
        load_data(config.model_copy(update={"validation_split": "validation"}), source="s.toml")
