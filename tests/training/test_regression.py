"""A head with one output: its loss, its answers, its type."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from peprof.devices import open_device
from peprof.suite.schema import DataConfig, ModelConfig
from peprof.training.backbone import load_backbone
from peprof.training.batches import RegressionSplit
from peprof.training.data import Split
from peprof.training.evaluation import evaluate
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.tasks import encode

PAIRS = (("a film", "a good film"), ("bad", "good"), ("a", "a a a a"), ("dull film", "film"))
DATA = DataConfig(name="x", text=("s", "t"), task="regression", max_length=16, metrics=("pearson", "mse"))
TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def made(tmp_path: object, dtype: str = "float32") -> tuple[BertForSequenceClassification, RegressionSplit]:
    BertConfig(**TINY, intermediate_size=16, hidden_dropout_prob=0.0).save_pretrained(str(tmp_path))
    texts = [text for pair in PAIRS for text in pair]
    torch.manual_seed(0)
    found = load_backbone(
        ModelConfig(name=str(tmp_path), weights="random", dtype=dtype),  # type: ignore[arg-type]
        num_labels=1, texts=lambda: texts, source="s.toml", task="regression",
    )  # fmt: skip
    split = Split(texts=PAIRS, labels=(3.8, 0.0, 5.0, 2.5))
    encoded = encode(split, DATA, found.tokenizer, found.model.config, source="s.toml")
    assert isinstance(encoded, RegressionSplit) and isinstance(found.model, BertForSequenceClassification)
    return found.model, encoded


def test_the_head_has_one_output_and_learns_by_squared_errors(tmp_path: object) -> None:
    model, split = made(tmp_path)
    assert model.classifier.out_features == 1
    batch = split.batch([0, 1, 3])
    output = model.eval()(**batch.inputs)
    wanted = torch.tensor([3.8, 0.0, 2.5])
    assert float(output.loss) == pytest.approx(float(((output.logits[:, 0] - wanted) ** 2).mean()))


def test_answers_are_in_the_splits_order(tmp_path: object) -> None:
    model, split = made(tmp_path)
    score = evaluate(model, split, open_device("cpu"), batch_size=3)
    with torch.no_grad():
        alone = [float(model.eval()(**split.batch([row]).inputs).logits) for row in range(4)]
    assert score.predictions.predictions == pytest.approx(tuple(alone), rel=1e-5, abs=1e-6)
    assert score.predictions.labels == (3.8, 0.0, 5.0, 2.5)
    assert list(score.metrics) == ["pearson", "mse"] and score.correct is None
    assert score.metrics["mse"] == pytest.approx(score.loss, rel=1e-5)


def test_half_precision_trains(tmp_path: object) -> None:
    model, split = made(tmp_path, dtype="bfloat16")
    batch = split.batch([0, 1])
    assert batch.inputs["labels"].dtype == torch.bfloat16
    model(**batch.inputs).loss.backward()
    assert model.classifier.weight.grad is not None


def test_a_pair_is_read_as_one_row_of_both() -> None:
    texts = [text for pair in PAIRS for text in pair]
    tokenizer = make_tokenizer(texts, BertConfig(**TINY))
    split = RegressionSplit(Split(texts=PAIRS, labels=(1.0,) * 4), tokenizer, 16)
    ids = split.batch([1]).inputs["input_ids"][0].tolist()
    bare = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("bad", "good")}
    assert [bare["bad"], bare["good"]] == [ids[1], ids[3]], "begin, text, end, text, end"
