"""What a run leaves beside its record, and that a disk that is full costs no result."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from peprof import load_adapter, load_from_peft
from peprof.running.keeping import keep_adapter
from peprof.running.runner import run_suite
from peprof.suite.catalogue import known_methods
from peprof.suite.loading import load_suite
from peprof.training import adapters, peft_format
from tests.running.helpers import Listener, write_suite


def backbone() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def trained(name: str, **options: Any) -> tuple[nn.Module, Any]:
    method = known_methods()[name].construct(options)
    model: nn.Module = method.apply(backbone())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model, method


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(1, 9).view(2, 4)).logits
    return found


def test_both_formats_are_kept_and_an_earlier_attempts_go(tmp_path: Path) -> None:
    place, warnings = tmp_path / "adapter", list[str]()
    (place / "peft").mkdir(parents=True)
    (place / "peft" / "old").write_text("")
    model, method = trained("lora")
    keep_adapter(model, method, place, warnings.append)
    files = sorted(str(path.relative_to(place)) for path in place.rglob("*.*"))
    assert files == [
        "adapter.json",
        "adapter.safetensors",
        "peft/adapter_config.json",
        "peft/adapter_model.safetensors",
    ]
    assert not warnings
    for again in (load_adapter(backbone(), place), load_from_peft(backbone(), place / "peft")):
        assert torch.equal(logits(again), logits(model))


def test_a_method_without_peers_is_kept_in_one_format_without_a_word(tmp_path: Path) -> None:
    warnings: list[str] = []
    keep_adapter(*trained("lst"), tmp_path / "adapter", warnings.append)
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert not warnings


def test_what_the_library_has_otherwise_is_said(tmp_path: Path) -> None:
    warnings: list[str] = []
    keep_adapter(*trained("prompt_tuning", tokens=2), tmp_path / "adapter", warnings.append)
    (warning,) = warnings
    assert warning.startswith("the adapter in peft's format wasn't kept: prompt tuning of Bert")
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize("full", [adapters, peft_format])
def test_a_full_disk_leaves_a_warning_and_no_half_files(
    full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_file(tensors: object, path: Path, metadata: object = None) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(full, "save_file", save_file)
    warnings: list[str] = []
    keep_adapter(*trained("ia3"), tmp_path / "adapter", warnings.append)
    (warning,) = warnings
    assert "wasn't kept: can't write an adapter into" in warning and "No space left on device" in warning
    left = {path.name for path in tmp_path.rglob("*.*")}
    assert left == (set() if full is adapters else {"adapter.json", "adapter.safetensors"})


def test_a_suite_keeps_adapters_where_it_asks_for_them(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "lora"\nrank = 2', phases='"full"')
    asked = load_suite(path, overrides=("train.save_adapter=true",))
    outcome = run_suite(asked, results=tmp_path / "r", device="cpu", observer=Listener())
    (record,) = outcome.records
    assert record.status == "ok" and record.warnings == ()
    place = outcome.store.run_directory(record.run_id) / "adapter"
    assert {path.name for path in place.iterdir()} == {"adapter.json", "adapter.safetensors", "peft"}
    shapes = {name: tensor.shape for name, tensor in load_file(place / "adapter.safetensors").items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == (
        record.parameters.trainable_backbone + record.parameters.trainable_head  # type: ignore[union-attr]
    )

    plain = run_suite(load_suite(path), results=tmp_path / "r", device="cpu", observer=Listener())
    assert plain.records == outcome.records, "it isn't another run"

    (place.parent / "record.json").unlink()
    again = run_suite(load_suite(path), results=tmp_path / "r", device="cpu", observer=Listener())
    assert again.records[0].run_id == record.run_id
    assert not place.exists(), "what an earlier attempt trained isn't this one's"
