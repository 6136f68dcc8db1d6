"""Adapters saved and loaded: the same logits on another copy, and clear words for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from peprof.errors import StoreError, UsageError
from peprof.suite.catalogue import known_methods
from peprof.training.adapters import load_adapter, save_adapter

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "targets": ("attention.query", "feedforward.down")},
    "ia3": {},
    "bitfit": {},
    "lst": {"reduction": 2},
    "last_layers": {"count": 1},
}


def backbone(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def logits(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 31, (3, 7), generator=generator)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids).logits
    return found


def scattered(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", OPTIONS)
def test_a_loaded_adapter_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    plain = backbone()
    before = logits(plain)
    method = known_methods()[name].construct(OPTIONS[name])
    trained = scattered(method.apply(plain))
    save_adapter(trained, method, tmp_path / "new" / "adapter")

    torch.manual_seed(99)  # what the method draws anew must not matter
    again = load_adapter(backbone(), tmp_path / "new" / "adapter")
    assert not torch.allclose(logits(again), before)
    assert torch.equal(logits(again), logits(trained))
    saved = load_file(tmp_path / "new" / "adapter" / "adapter.safetensors")
    assert sum(t.numel() for t in saved.values()) == sum(
        p.numel() for p in trained.parameters() if p.requires_grad
    )


def test_shapes_that_follow_from_data_are_those_that_were_saved(tmp_path: Path) -> None:
    method = known_methods()["sparse"].construct({"select": "fisher", "count": 500, "examples": 3})
    examples = {"input_ids": torch.arange(1, 22).view(3, 7), "labels": torch.tensor([0, 1, 1])}
    trained = scattered(method.apply_with_data(backbone(), [examples]))
    save_adapter(trained, method, tmp_path)
    assert torch.equal(logits(load_adapter(backbone(), tmp_path)), logits(trained))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    method = known_methods()["lora"].construct({})
    save_adapter(method.apply(backbone()), method, tmp_path)
    return tmp_path


def test_another_backbone_is_refused_before_anything_is_copied(saved: Path) -> None:
    config = backbone().config
    config.hidden_size, config.intermediate_size = 32, 24
    with pytest.raises(UsageError, match=r"lora_A' is \(8, 16\), the model's is \(8, 32\)"):
        load_adapter(BertForSequenceClassification(config), saved)
    config.hidden_size, config.num_hidden_layers = 16, 1
    with pytest.raises(UsageError, match=r"layer\.1\.attention\.self\.query\.lora_A' isn't in the model"):
        load_adapter(BertForSequenceClassification(config), saved)


def test_each_damage_has_its_own_message(saved: Path) -> None:
    with pytest.raises(UsageError, match="holds no adapter"):
        load_adapter(backbone(), saved / "nowhere")
    description = json.loads((saved / "adapter.json").read_text())

    (saved / "adapter.json").write_text(json.dumps({**description, "method": "gone"}))
    with pytest.raises(UsageError, match="its method 'gone' isn't installed"):
        load_adapter(backbone(), saved)
    (saved / "adapter.json").write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(StoreError, match="has format version 99"):
        load_adapter(backbone(), saved)
    (saved / "adapter.json").write_text("{")
    with pytest.raises(StoreError, match="is not an adapter's description"):
        load_adapter(backbone(), saved)

    (saved / "adapter.json").write_text(json.dumps(description))
    (saved / "adapter.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(StoreError, match=r"adapter.safetensors: can't be read"):
        load_adapter(backbone(), saved)
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds no adapter\.safetensors"):
        load_adapter(backbone(), saved)


def test_a_method_without_a_name_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    class Own:
        pass

    with pytest.raises(UsageError, match="isn't installed under a name"):
        save_adapter(nn.Linear(1, 1), Own(), tmp_path)
    (tmp_path / "file").write_text("")
    method = known_methods()["ia3"].construct({})
    with pytest.raises(StoreError, match="can't write an adapter into"):
        save_adapter(method.apply(backbone()), method, tmp_path / "file" / "below")
