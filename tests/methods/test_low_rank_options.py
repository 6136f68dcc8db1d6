"""The low-rank methods' options: what they train, at which rates, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.adalora import AdaLoRA
from peprof_methods.dora import DoRA
from peprof_methods.lora import LoRA, LoRALinear
from peprof_methods.lora_fa import LoRAFA
from peprof_methods.pissa import PiSSA, SiVA
from peprof_methods.vera import VeRA
from transformers import T5Config, T5ForConditionalGeneration

from tests.methods.method_geometries import SIX_LINEARS, batch, tiny
from tests.methods.test_method_counts import base_on_meta, counts


def test_rank_stabilized_scale() -> None:
    model = LoRA(rank=4, alpha=12.0, scaling="rank_stabilized").apply(tiny("bert"))
    assert {m.scale for m in model.modules() if isinstance(m, LoRALinear)} == {6.0}


@pytest.mark.parametrize("kind", [LoRA, DoRA])
def test_lora_plus_gives_b_its_own_learning_rate(kind: Any) -> None:
    method = kind(b_learning_rate_ratio=16.0)
    model = method.apply(tiny("bert"))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = method.parameter_groups(model, 1e-3, 0.1)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, rates in found.items():
        vector = name.endswith(("bias", "magnitude"))
        assert rates == (16e-3 if name.endswith("lora_B") else 1e-3, 0.0 if vector else 0.1), name
    assert any(name.endswith("lora_B") for name in found)
    plain_groups = kind().parameter_groups(kind().apply(tiny("bert")), 1e-3, 0.1)
    assert not any("lr" in group for group in plain_groups)


D = 768


@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        (LoRAFA(rank=4, targets=SIX_LINEARS), 6 * 4 * (5 * D + 4 * D)),
        (DoRA(rank=4, targets=SIX_LINEARS), 331_776 + 6 * (5 * D + 4 * D)),
        (PiSSA(rank=4, targets=SIX_LINEARS), 331_776),
        (SiVA(rank=4, targets=SIX_LINEARS), 331_776),
        (VeRA(), 6 * 2 * (256 + D)),
        (AdaLoRA(), 6 * 2 * (12 * 2 * D + 12)),
        (LoRA(rank=4, targets=SIX_LINEARS, biases=True), 331_776 + 6 * (4 * D + 4 * D + D + 2 * D) + D),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_trainable_parameters_of_distilbert(method: Any, backbone: int) -> None:
    assert counts("distilbert", method) == (backbone, 592_130)


@pytest.mark.parametrize(("biases", "trained"), [(False, 3_538_944), (True, 3_538_944 + 282_496)])
def test_trainable_parameters_of_t5_base(biases: bool, trained: int) -> None:
    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    LoRA(rank=32, biases=biases).apply(model)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_the_published_share_of_t5_base() -> None:
    """1.715 % (Sung et al. 2022). Their code divides by 222,882,048, 28 norms less than T5-base has."""
    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    theirs = 222_882_048
    assert sum(p.numel() for p in model.parameters()) == theirs + 28 * 768
    LoRA(rank=32, biases=True).apply(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert round(100 * trained / theirs, 3) == 1.715


def test_lora_with_biases_starts_as_the_backbone_and_trains_them() -> None:
    model, inputs = tiny("t5"), batch("t5")
    before = model(**inputs).logits
    adapted = LoRA(rank=2, biases=True).apply(model)
    output = adapted(**inputs)
    torch.testing.assert_close(output.logits, before, atol=1e-5, rtol=1e-5)
    output.loss.backward()
    query = adapted.encoder.block[1].layer[0].SelfAttention.q
    assert query.bias.requires_grad and query.bias.grad.abs().max() > 0
    assert query.weight.grad is None


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (LoRA, {"scaling": "stable"}, "scaling='stable': expected standard or rank_stabilized"),
        (LoRA, {"b_learning_rate_ratio": 0.0}, "b_learning_rate_ratio=0.0: expected a positive number"),
        (LoRAFA, {"rank": 0}, "rank=0: expected at least 1"),
        (DoRA, {"dropout": 1.0}, "dropout=1.0: expected at least 0 and below 1"),
        (PiSSA, {"alpha": 0.0}, "alpha=0.0: expected a positive number"),
        (SiVA, {"svd_iterations": -1}, "svd_iterations=-1: expected at least 0, or none"),
        (VeRA, {"initial_d": 0.0}, "initial_d=0.0: expected a number other than 0"),
        (
            AdaLoRA,
            {"target_rank": 13},
            "target_rank=13: expected at least 1 and at most initial_rank, 12",
        ),
        (AdaLoRA, {"interval_steps": 0}, "interval_steps=0: expected at least 1"),
        (AdaLoRA, {"beta1": 1.0}, "beta1=1.0: expected above 0 and below 1"),
    ],
)
def test_a_wrong_value_is_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**options)
    assert str(caught.value) == message


def test_meta_needs_no_decomposition_of_values() -> None:
    model = PiSSA(svd_iterations=4, targets=SIX_LINEARS).apply(base_on_meta("distilbert"))
    assert {p.device.type for p in model.parameters()} == {"meta"}
