"""Tuners of the ``peft`` library through the bridge: what runs, what is refused and why."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import pytest
import torch
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.peft_bridge import PeftTuner
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peprof.suite.catalogue import known_methods
from peprof.suite.library import library_tuners
from tests.methods.method_geometries import batch, scatter, tiny

WIDE = 256  # some tuners' defaults don't fit narrower layers


def wide(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if architecture == "distilbert":
        return DistilBertForSequenceClassification(
            DistilBertConfig(vocab_size=61, dim=WIDE, hidden_dim=WIDE, n_heads=4, n_layers=2, dropout=0.0)
        )
    if architecture == "t5":
        t5 = T5Config(
            vocab_size=61, d_model=WIDE, d_kv=64, d_ff=WIDE, num_layers=2, num_heads=4, dropout_rate=0.0,
            decoder_start_token_id=0,
        )  # fmt: skip
        return T5ForConditionalGeneration(t5)
    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=61,
            hidden_size=WIDE,
            intermediate_size=WIDE,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
            num_labels=2,
        )
    )


def tried(tuner: str, architecture: str) -> str | None:
    """Trains two steps; the reason if it is refused."""
    entry = known_methods()[f"peft:{tuner}"]
    if entry.problem:
        return entry.problem
    method = entry.construct({})
    try:
        model = method.apply(wide(architecture))
    except UnsupportedModelError as refusal:
        return str(refusal)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    for step in range(2):
        loss = model(**batch(architecture)).loss
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
        method.after_step(model, step, 2)
        optimizer.zero_grad()
    assert any("classif" in name or "score" in name for name in trained) == (architecture != "t5")
    names = dict(model.named_parameters())
    assert all(torch.equal(names[name], value) for name, value in frozen.items())
    return None


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["distilbert", "t5", "llama"])
def test_most_tuners_run_and_the_others_say_why(architecture: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = {tuner: tried(tuner, architecture) for tuner in library_tuners()}
    reasons = {tuner: reason for tuner, reason in refused.items() if reason is not None}
    assert set(PeftTuner.needs) & set(refused) <= set(reasons)
    assert len(refused) - len(reasons) >= 36, reasons
    assert all(len(reason) > 20 for reason in reasons.values())


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "llama"])
def test_targets_by_role_are_the_librarys_targets_by_name(architecture: str) -> None:
    names = {
        "distilbert": ["k_lin", "lin1"],
        "bert": ["key", "intermediate.dense"],
        "llama": ["k_proj", "up_proj"],
    }[architecture]
    roles = ["attention.key", "feedforward.up"]
    method = known_methods()["peft:LORA"].construct({"targets": roles, "r": 4, "lora_dropout": 0.0})
    ours = scatter(method.apply(tiny(architecture)))
    theirs = peft.get_peft_model(tiny(architecture), peft.LoraConfig(r=4, target_modules=names))
    for name, parameter in theirs.named_parameters():
        if "classifier" in name or "score" in name or "pooler" in name:
            parameter.requires_grad_(True)
    scatter(theirs)
    inputs = batch(architecture)
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)


def test_defaults_by_role_where_the_library_has_none() -> None:
    model = PeftTuner(tuner="IA3").apply(tiny("distilbert"))
    assert sum(p.numel() for n, p in model.named_parameters() if "ia3" in n) == 2 * (32 + 32 + 64)


def test_the_rank_budget_moves_with_the_steps() -> None:
    method = PeftTuner(
        tuner="ADALORA", options={"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1, "deltaT": 1}
    )
    model: Any = method.apply(tiny("bert"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(8):
        model(**batch("bert")).loss.backward()
        optimizer.step()
        method.after_step(model, step, 8)
        optimizer.zero_grad()
    kept = sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)
    # Two layers, query, key, value ... as the library chooses; target_r on average.
    targets = sum("lora_E" in n for n, _ in model.named_parameters())
    assert kept == 2 * targets


def test_merging_and_saving(tmp_path: Any) -> None:
    from peprof.training.adapters import load_adapter, save_adapter

    method = known_methods()["peft:VERA"].construct({"r": 4})
    model = scatter(method.apply(tiny("bert"))).eval()
    inputs = batch("bert")
    save_adapter(model, method, tmp_path)
    torch.manual_seed(5)
    again = load_adapter(tiny("bert").eval(), tmp_path).eval()
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(again(**inputs).logits, logits)
        merged: nn.Module = method.merge(model)
        torch.testing.assert_close(merged(**inputs).logits, logits, atol=1e-5, rtol=1e-5)
    assert not any("vera" in name for name, _ in merged.named_modules())


def test_wrong_uses_are_told() -> None:
    with pytest.raises(ValueError, match="not both"):
        PeftTuner(tuner="OFT", targets=("attention.query",), options={"target_modules": ["query"]})
    with pytest.raises(
        UnsupportedModelError, match="POLY can't be used in a suite: it needs a task's number"
    ):
        PeftTuner(tuner="POLY").apply(tiny("bert"))
    with pytest.raises(UnsupportedModelError, match="has no targets to choose"):
        PeftTuner(tuner="PROMPT_TUNING", targets=("attention.query",)).apply(tiny("bert"))
    assert "peft:NOPE" not in known_methods()
