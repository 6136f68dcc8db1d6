from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from peprof.errors import SuiteError
from peprof.suite.schema import DataConfig
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split, load_data
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer

ROWS = [('a "quoted" film', 1), ("null", 0), ("NA", 1), ("dull , dull , dull", 0)]


def write(directory: Path, ending: str, *, split: str, rows: list[tuple[str, int]] = ROWS) -> None:
    path = directory / f"{split}{ending}"
    if ending == ".tsv":
        path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    elif ending == ".jsonl":
        path.write_text("".join(json.dumps({"sentence": t, "label": y}) + "\n" for t, y in rows))
    else:
        frame = pd.DataFrame(rows, columns=["sentence", "label"])
        frame.to_csv(path, index=False) if ending == ".csv" else frame.to_parquet(path)


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    for split in ("train", "validation"):
        write(tmp_path, ending, split=split)
    data = load_data(DataConfig(path=str(tmp_path)), source="s.toml")
    assert data.train.texts == tuple((text,) for text, _ in ROWS)
    assert data.train.labels == tuple(label for _, label in ROWS)
    assert (data.facts.train_rows, data.facts.num_labels, data.facts.synthetic) == (4, 2, False)


def test_the_fingerprint_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    found = set()
    for ending in (".tsv", ".jsonl"):
        directory = tmp_path / ending
        directory.mkdir()
        for split in ("train", "validation"):
            write(directory, ending, split=split)
        found.add(load_data(DataConfig(path=str(directory)), source="s").facts.fingerprint)
    assert len(found) == 1
    write(directory, ".jsonl", split="train", rows=[*ROWS[:-1], ("dull , dull , dul", 0)])
    assert load_data(DataConfig(path=str(directory)), source="s").facts.fingerprint not in found


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"text": ("sentense",)}, "data.text", ["no column 'sentense'", "sentence, label", "'sentence'?"]),
        ({"label": "lable"}, "data.label", ["no column 'lable'", "Did you mean 'label'?"]),
        ({"train_split": "training"}, "data.path", ["no file for the split 'training'", "training.tsv"]),
        ({"text": ("label",)}, "data.text", ["row 1", "holds 1", "expected text"]),
        ({"label": "sentence"}, "data.label", ["4 rows", "labels that differ", "column of classes"]),
    ],
)
def test_wrong_columns_and_splits_are_named(
    tmp_path: Path, change: dict[str, object], key: str, words: list[str]
) -> None:
    for split in ("train", "validation"):
        write(tmp_path, ".tsv", split=split)
    config = DataConfig.model_validate({"path": str(tmp_path), **change})
    with pytest.raises(SuiteError) as error:
        load_data(config, source="suites/mine.toml")
    text = error.value.message
    assert text.startswith("suites/mine.toml: ") and f"{key}: " in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ([("a", 0), ("b", -1)], ROWS, ["row 2", "label -1 is out of range"]),
        ([("a", 0), ("b", 2)], ROWS, ["are 0, 2", "without gaps"]),
        ([("a", 1), ("b", 1)], ROWS, ["are 1", "at least two classes"]),
        (ROWS, [("a", 0), ("b", 7)], ["row 2", "'validation'", "label 7 is out of range", "0 to 1"]),
        ([], ROWS, ["no rows", "train.tsv"]),
    ],
)
def test_wrong_labels_and_empty_splits_are_named(
    tmp_path: Path, train: list[tuple[str, int]], validation: list[tuple[str, int]], words: list[str]
) -> None:
    write(tmp_path, ".tsv", split="train", rows=train)
    write(tmp_path, ".tsv", split="validation", rows=validation)
    with pytest.raises(SuiteError) as error:
        load_data(DataConfig(path=str(tmp_path)), source="s.toml")
    for word in words:
        assert word in error.value.message


@pytest.mark.parametrize("content", ["", "sentence\tlabel\nx\t1\ty\tz\n", "\x00\x01\x02"])
def test_a_file_that_cannot_be_read_is_one_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.tsv").write_text(content)
    write(tmp_path, ".tsv", split="validation")
    with pytest.raises(SuiteError) as error:
        load_data(DataConfig(path=str(tmp_path)), source="s.toml")
    assert "data." in error.value.message and len(error.value.message.splitlines()) <= 3


def test_several_faults_come_together(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path, ".csv", split=split)
    config = DataConfig(path=str(tmp_path), text=("premise", "hypothesis"), label="gold")
    with pytest.raises(SuiteError) as error:
        load_data(config, source="s.toml")
    assert len(error.value.faults) == 6, "three columns in two splits"


def words_split() -> tuple[Split, EncodedSplit]:
    texts = tuple((" ".join(["word"] * count),) for count in (1, 5, 3, 9, 2, 7, 4))
    split = Split(texts=texts, labels=(0, 1, 0, 1, 0, 1, 1))
    tokenizer = make_tokenizer((text for row in texts for text in row), known_config("roberta-base"))
    return split, EncodedSplit(split, tokenizer, max_length=8)


def test_batches_are_padded_to_the_longest_row_or_to_max_length() -> None:
    _, encoded = words_split()
    batch = encoded.batch([0, 2])
    assert batch.inputs["input_ids"].shape == (2, 5), "three words, begin and end"
    assert batch.real_tokens == 3 + 5
    assert batch.inputs["attention_mask"].sum() == 8
    assert (batch.inputs["input_ids"][0, 3:] == 1).all(), "RoBERTa's padding has the id 1"
    assert batch.inputs["labels"].tolist() == [0, 0]
    fixed = encoded.batch([0, 3], pad_to_max_length=True)
    assert fixed.inputs["input_ids"].shape == (2, 8)
    assert fixed.real_tokens == 3 + 8, "nine words are cut"


def test_an_epoch_has_each_row_once_in_an_order_that_the_seed_decides() -> None:
    split, encoded = words_split()

    def lengths(seed: int) -> list[int]:
        return [int(n) for b in encoded.epoch(3, seed=seed) for n in b.inputs["attention_mask"].sum(1)]

    assert sorted(lengths(0)) == sorted(min(len(row[0].split()) + 2, 8) for row in split.texts)
    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)
    assert [len(b.inputs["labels"]) for b in encoded.epoch(3, seed=0)] == [3, 3, 1]


def test_fixed_shapes_repeat_rows_where_there_are_few() -> None:
    _, encoded = words_split()
    batches = encoded.fixed_shape(5, 4, seed=0)
    assert [tuple(b.inputs["input_ids"].shape) for b in batches] == [(5, 8)] * 4


def test_a_made_tokenizer_keeps_to_the_models_vocabulary_and_special_ids() -> None:
    config = known_config("roberta-base", vocab_size=8)
    tokenizer = make_tokenizer(["the the the film film is a long one"], config)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 0, 2)
    ids = tokenizer("the film is quite unknown")["input_ids"]
    assert ids[0] == 0 and ids[-1] == 2 and max(ids) < 8
    assert ids[1] != ids[2] and ids[4] == ids[5] == tokenizer.unk_token_id
