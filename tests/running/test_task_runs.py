"""Regression and language modelling from a suite's file to its record and what lies beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from scipy import stats
from transformers import BertConfig, LlamaConfig

from peprof.results.store import find_stores
from peprof.running.runner import run_suite
from peprof.suite.loading import load_suite
from tests.running.helpers import Listener, write_suite

SMALL = {"vocab_size": 200, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
LORA = 'name = "lora"\nrank = 2'


def pairs(directory: Path) -> Path:
    """How many of the words of the one text are in the other, of five."""
    directory.mkdir()
    for split, count in (("train", 32), ("validation", 16)):
        rows = [
            {"sentence1": "a b c d e", "sentence2": " ".join("abcde"[: index % 6]), "label": index % 6}
            for index in range(count)
        ]
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_a_regression_comes_to_its_record(tmp_path: Path) -> None:
    BertConfig(**SMALL, num_attention_heads=2).save_pretrained(tmp_path / "m")
    loaded = load_suite(
        write_suite(tmp_path, LORA, phases='"full"'),
        overrides=[
            f"model.name={tmp_path / 'm'}",
            f"data.path={pairs(tmp_path / 'd')}",
            'data.text=["sentence1", "sentence2"]',
            "data.task=regression",
            "data.max_length=24",
            "train.evaluate_every_steps=2",
        ],
    )
    run_suite(loaded, results=tmp_path / "r", device="cpu", observer=Listener())
    (store,) = find_stores(tmp_path / "r")
    (record,) = store.records()
    assert (record.status, record.failure) == ("ok", None)
    assert record.full is not None and record.data is not None and record.parameters is not None
    result, answers = record.full.result, store.read_predictions(record.run_id)
    assert result is not None and answers is not None
    assert answers.labels == tuple(float(index % 6) for index in range(16))
    assert list(result.metrics) == ["pearson_spearman", "pearson", "spearman"]
    expected = stats.spearmanr(answers.labels, answers.predictions).statistic
    assert result.metrics["spearman"] == pytest.approx(expected)
    low, high = record.full.intervals["spearman"]
    assert -1 <= low <= high <= 1
    assert (result.correct, record.full.correct_bits, record.data.num_labels) == (None, None, 1)
    assert record.parameters.trainable_head == record.parameters.head > 0


@pytest.mark.slow
def test_language_modelling_comes_to_its_record(tmp_path: Path) -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    LlamaConfig(**SMALL, **special, num_attention_heads=2).save_pretrained(tmp_path / "m")
    loaded = load_suite(
        write_suite(tmp_path, LORA),
        overrides=[f"model.name={tmp_path / 'm'}", "model.weights=random", "data.task=language-modelling"],
    )
    run_suite(loaded, results=tmp_path / "r", device="cpu", observer=Listener())
    (store,) = find_stores(tmp_path / "r")
    (record,) = store.records()
    assert (record.status, record.failure) == ("ok", None)
    assert record.model is not None and record.model.architecture == "LlamaForCausalLM"
    assert record.parameters is not None and record.full is not None and record.short is not None
    # Nothing is new for the task: rank 2 on query and value of two layers of width 16 is all that is trained.
    assert record.parameters.head == record.parameters.trainable_head == 0
    assert record.parameters.trainable_backbone == 2 * 2 * 2 * (16 + 16)
    result, answers = record.full.result, store.read_predictions(record.run_id)
    assert result is not None and answers is not None
    assert answers.labels == () and len(answers.predictions) == len(answers.tokens) == 16
    mean = sum(answers.predictions) / sum(answers.tokens)
    assert result.loss == pytest.approx(mean)
    assert result.metrics == {"perplexity": pytest.approx(math.exp(mean))}
    low, high = record.full.intervals["perplexity"]
    assert 1 < low < result.metrics["perplexity"] < high
    assert (result.correct, record.full.correct_bits) == (None, None)
