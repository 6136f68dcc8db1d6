"""Trainable parameters of published geometries, against published counts and formulas written out here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.bitfit import BitFit
from peprof_methods.full import Full
from peprof_methods.head import Head
from peprof_methods.ia3 import IA3
from peprof_methods.last_layers import LastLayers
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from peprof_methods.roles import head_parameters
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.methods.method_geometries import SIX_LINEARS

D, F = 768, 3072  # width and feed-forward width of all three
DEPTH = {"distilbert": 6, "bert": 12, "roberta": 12}
LAYER = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D


def base_on_meta(architecture: str) -> Any:
    with torch.device("meta"):
        if architecture == "distilbert":
            return DistilBertForSequenceClassification(DistilBertConfig())
        if architecture == "bert":
            return BertForSequenceClassification(BertConfig())
        config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        return RobertaForSequenceClassification(config)


def counts(architecture: str, method: Any) -> tuple[int, int]:
    """Trainable parameters of backbone and head."""
    model = base_on_meta(architecture)
    head = {id(p) for p in head_parameters(model)}
    trained = method.apply(model)
    sizes = [(p.numel(), id(p) in head) for p in trained.parameters() if p.requires_grad]
    return sum(n for n, is_head in sizes if not is_head), sum(n for n, is_head in sizes if is_head)


def ladder_size(depth: int, reduction: int) -> int:
    d, f = D // reduction, F // reduction
    side_layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 2 * 2 * d
    gates = depth
    return depth * side_layer + (depth + 1) * (D * d + d) + gates + (d * D + D)


@pytest.mark.parametrize(
    ("architecture", "method", "backbone"),
    [
        ("distilbert", IA3(), 27_648),
        ("bert", IA3(), 55_296),
        ("distilbert", LoRA(rank=4, targets=SIX_LINEARS), 331_776),
        ("distilbert", LoRA(), 6 * 2 * 8 * (D + D)),
        ("bert", LoRA(rank=1, targets=("feedforward.up",)), 12 * (D + F)),
        ("distilbert", BitFit(), 6 * (4 * D + F + D + 2 * D) + D),
        ("bert", BitFit(), 12 * (4 * D + F + D + 2 * D) + D),
        ("distilbert", LadderSideTuning(), ladder_size(6, 8)),
        ("bert", LadderSideTuning(reduction=4, side_heads=1), ladder_size(12, 4)),
        ("roberta", LadderSideTuning(side_heads=4), ladder_size(12, 8)),
        ("distilbert", LastLayers(count=3), 3 * LAYER),
        ("roberta", LastLayers(), LAYER),
        ("bert", Head(), 0),
        # The published size of each checkpoint's encoder: 66.4, 108.9 (less its pooler) and 124.1 million.
        ("distilbert", Full(), (30522 + 512) * D + 2 * D + 6 * LAYER),
        ("bert", Full(), (30522 + 512 + 2) * D + 2 * D + 12 * LAYER),
        ("roberta", Full(), (50265 + 514 + 1) * D + 2 * D + 12 * LAYER),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else str(value),
)
def test_trainable_parameters(architecture: str, method: Any, backbone: int) -> None:
    assert counts(architecture, method) == (backbone, 592_130)


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "roberta"])
def test_the_head_is_a_dense_layer_and_a_classifier_in_each_architecture(architecture: str) -> None:
    head = head_parameters(base_on_meta(architecture))
    assert sum(p.numel() for p in head) == (D * D + D) + (D * 2 + 2) == 592_130


def test_methods_stay_on_meta() -> None:
    for method in (LoRA(), IA3(), LadderSideTuning()):
        model = method.apply(base_on_meta("distilbert"))
        assert {p.device.type for p in model.parameters()} == {"meta"}
