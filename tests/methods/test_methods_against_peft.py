"""LoRA and (IA)3 against the peft library on the same weights; BitFit against plain torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peprof_methods.bitfit import BitFit
from peprof_methods.ia3 import IA3
from peprof_methods.lora import LoRA
from torch import Tensor, nn

from tests.methods.method_geometries import (
    ARCHITECTURES,
    SIX_LINEARS,
    batch,
    gradients,
    names_of,
    scatter,
    tiny,
)

peft = pytest.importorskip("peft")

HEAD_NAMES = ("classifier", "pooler")  # also part of "pre_classifier"


def is_head(name: str) -> bool:
    return any(part in name for part in HEAD_NAMES)


def with_peft(model: nn.Module, config: Any) -> nn.Module:
    wrapped: nn.Module = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if is_head(name):
            parameter.requires_grad_(True)
    return wrapped


def our_name(peft_name: str) -> str:
    name = peft_name.removeprefix("base_model.model.").replace("base_layer.", "")
    return (
        name.replace(".lora_A.default.weight", ".lora_A")
        .replace(".lora_B.default.weight", ".lora_B")
        .replace(".ia3_l.default", ".ia3")
    )


def assert_same_behaviour(ours: nn.Module, theirs: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Copy our trainable values into theirs, then compare logits and every gradient."""
    values = dict(ours.named_parameters())
    trainable = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert {our_name(n) for n, p in theirs.named_parameters() if p.requires_grad} == trainable
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[our_name(name)].reshape(parameter.shape))

    our_output, their_output = ours(**inputs), theirs(**inputs)
    torch.testing.assert_close(our_output.logits, their_output.logits, atol=1e-5, rtol=1e-5)
    our_output.loss.backward()
    their_output.loss.backward()
    our_gradients = gradients(ours)
    their_gradients = {our_name(name): gradient for name, gradient in gradients(theirs).items()}
    assert our_gradients.keys() == their_gradients.keys() == trainable
    for name, gradient in our_gradients.items():
        expected = their_gradients[name].reshape(gradient.shape)
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)
    assert sum(float(g.abs().sum()) for n, g in our_gradients.items() if not is_head(n)) > 1e-3


@pytest.mark.parametrize("targets", [("attention.query", "attention.value"), SIX_LINEARS], ids=["qv", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_equals_peft(architecture: str, targets: tuple[str, ...]) -> None:
    plain = tiny(architecture, seed=10)
    config = peft.LoraConfig(r=3, lora_alpha=12.0, target_modules=names_of(architecture, *targets))
    theirs = with_peft(copy.deepcopy(plain), config)
    ours = scatter(LoRA(rank=3, alpha=12.0, targets=targets).apply(plain))
    assert_same_behaviour(ours, theirs, batch(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ia3_equals_peft(architecture: str) -> None:
    plain = tiny(architecture, seed=11)
    feedforward = names_of(architecture, "feedforward.down")
    config = peft.IA3Config(
        target_modules=names_of(architecture, "attention.key", "attention.value") + feedforward,
        feedforward_modules=feedforward,
    )
    theirs = with_peft(copy.deepcopy(plain), config)
    assert_same_behaviour(scatter(IA3().apply(plain)), theirs, batch(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bitfit_equals_plain_torch(architecture: str) -> None:
    plain = tiny(architecture, seed=12)
    oracle = copy.deepcopy(plain)
    for name, parameter in oracle.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or is_head(name))
    inputs = batch(architecture)
    ours = BitFit().apply(plain)
    for model in (ours, oracle):
        model(**inputs).loss.backward()
    expected = gradients(oracle)
    assert gradients(ours).keys() == expected.keys()
    for name, gradient in gradients(ours).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-6)
