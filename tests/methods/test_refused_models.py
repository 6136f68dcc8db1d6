"""Models on which a method would do something else than it says: refused, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.architectures import architecture_of
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.full import Full
from peprof_methods.head import Head
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from peprof_methods.pissa import PiSSA
from peprof_methods.prompt_tuning import PromptTuning
from peprof_methods.roles import stack_layers
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from peprof.suite.catalogue import known_methods
from tests.methods.method_geometries import batch, scatter, tiny

OPTIONS: dict[str, dict[str, Any]] = {"lst": {"reduction": 4}, "prompt_tuning": {"tokens": 3}}
METHODS: dict[str, Any] = {
    name: entry.construct(OPTIONS.get(name, {}))
    for name, entry in known_methods().items()
    if entry.distribution == "peprof"
}


def state(model: nn.Module) -> dict[str, Any]:
    return {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    now = state(model)
    assert {name: entry[:2] for name, entry in now.items()} == {n: entry[:2] for n, entry in before.items()}
    assert all(torch.equal(now[name][2], before[name][2]) for name in now)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
@pytest.mark.parametrize("name", METHODS)
def test_a_second_time_is_refused_or_changes_nothing(name: str, architecture: str) -> None:
    method = METHODS[name]
    model = scatter(method.apply(tiny(architecture))).eval()
    before, logits = state(model), model(**batch(architecture)).logits
    try:
        again = method.apply(model)
    except UnsupportedModelError as refusal:
        assert "expected" in str(refusal)
        again = model
    assert_untouched(again, before)
    torch.testing.assert_close(again(**batch(architecture)).logits, logits)


@pytest.mark.parametrize("architecture", ["distilbert", "t5", "llama-lm"])
def test_no_method_follows_a_ladder(architecture: str) -> None:
    model = LadderSideTuning(reduction=4).apply(tiny(architecture))
    before = state(model)
    with pytest.raises(
        UnsupportedModelError, match="expected a model to which no other method has been applied"
    ):
        LoRA().apply(model)
    assert_untouched(model, before)


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_in_two_places(name: str) -> None:
    """PiSSA would take the triplets out twice, a ladder would hear every layer twice."""
    model: Any = tiny("t5-classifier")
    for stack in architecture_of(model).stacks:
        found = stack_layers(model, stack)
        found[1] = found[0]
    before = state(model)
    if isinstance(METHODS[name], Full | Head | PromptTuning):  # they look at no layer
        METHODS[name].apply(model)
        return
    with pytest.raises(UnsupportedModelError, match="uses one layer in several places: expected layers of"):
        METHODS[name].apply(model)
    assert_untouched(model, before)


def test_a_weight_in_two_places() -> None:
    model: Any = tiny("bert")
    first, second = (layer.attention.self for layer in model.bert.encoder.layer)
    second.query.weight = first.query.weight
    before = state(model)
    expected = "bert.encoder.layer.0.attention.self.query and bert.encoder.layer.1.attention.self.query share"
    with pytest.raises(UnsupportedModelError, match=expected):
        PiSSA().apply(model)
    assert_untouched(model, before)


def test_an_unknown_architecture() -> None:
    with torch.device("meta"):
        model = GPT2ForSequenceClassification(GPT2Config(n_layer=1))
    with pytest.raises(UnsupportedModelError) as caught:
        LoRA().apply(model)
    assert str(caught.value) == (
        "GPT2ForSequenceClassification is not supported: expected "
        "DistilBert, Bert, Roberta, T5, Llama, Mistral, Qwen2 ForSequenceClassification; "
        "or T5 ForConditionalGeneration; or Llama, Mistral, Qwen2 ForCausalLM"
    )
