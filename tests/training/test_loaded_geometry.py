"""What the model that is trained holds, beyond its configuration: an output matrix, a cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from peprof.suite.metrics import Task
from peprof.suite.schema import ModelConfig
from peprof.training.backbone import check_model, load_backbone

LLAMA = {
    "vocab_size": 99,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def on_meta(name: str, task: Task) -> PreTrainedModel:
    config = ModelConfig(name=name, weights="random")
    model = check_model(config, num_labels=2, max_length=8, source="suite", task=task)
    assert model is not None
    return model


@pytest.mark.parametrize(
    ("name", "published"),
    [("t5-v1_1-small", 76_961_152), ("t5-v1_1-base", 247_577_856), ("t5-small", 60_506_624)],
)
def test_a_t5_that_writes_has_the_published_parameters(name: str, published: int) -> None:
    model = on_meta(name, "text-to-text")
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def test_an_output_matrix_of_its_own_is_as_random_as_the_embedding_and_another(tmp_path: Path) -> None:
    geometry = {
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 4,
        "d_ff": 8,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 400,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(geometry))
    backbone = load_backbone(
        ModelConfig(name=str(tmp_path), weights="random", dtype="bfloat16"),
        num_labels=2,
        texts=lambda: ["good film", "bad film"],
        source="suite",
        task="text-to-text",
        words=("negative", "positive"),
    )
    embedding, output = (
        backbone.model.get_submodule(name).get_parameter("weight").detach() for name in ("shared", "lm_head")
    )
    assert output.dtype == torch.bfloat16
    assert not torch.equal(output, embedding)
    assert float(output.float().std()) == pytest.approx(float(embedding.float().std()), rel=0.05)


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_decoder_that_classifies_keeps_no_keys_and_values(tmp_path: Path, weights: str) -> None:
    LlamaForSequenceClassification(LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    if weights == "pretrained":
        words = WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="[PAD]").save_pretrained(
            tmp_path
        )
    backbone = load_backbone(
        ModelConfig.model_validate({"name": str(tmp_path), "weights": weights}),
        num_labels=2,
        texts=lambda: ["good film", "bad film"],
        source="suite",
    )
    ids = torch.ones(2, 5, dtype=torch.long)
    for model in (backbone.model.train(), backbone.model.eval()):
        output = model(input_ids=ids, labels=torch.tensor([0, 1]))
        assert output.past_key_values is None and output.loss.isfinite()
