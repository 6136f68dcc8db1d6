"""Methods beside weights of 4 and 8 bits do what they do beside the same weights made dense."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.quantised import dense, dense_dtype, elements, is_quantised
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel

from peprof.suite.catalogue import known_methods
from peprof.training.quantising import quantise, quantise_on_meta

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 8.0},
    "lora with dropout": {"rank": 4, "dropout": 0.3},
    "lora_fa": {"rank": 4},
    "dora": {"rank": 4},
    "dora with dropout": {"rank": 4, "dropout": 0.3},
    "vera": {"rank": 8},
    "adalora": {"initial_rank": 4, "target_rank": 2},
    "ia3": {},
    "houlsby": {"bottleneck": 4},
    "pfeiffer": {"bottleneck": 4},
    "parallel_adapter": {"bottleneck": 4},
    "compacter": {"bottleneck": 8},
    "bitfit": {},
    "layernorm": {},
    "prompt_tuning": {"tokens": 4},
    "prefix_tuning": {"tokens": 4, "hidden": 8},
    "p_tuning_v2": {"tokens": 4},
    "lst": {"reduction": 4, "side_heads": 2},
}
REFUSED: dict[str, dict[str, Any]] = {
    "full": {},
    "last_layers": {},
    "parameters": {},
    "sparse": {},
    "pissa": {},
    "siva": {},
    "lst": {"reduction": 4, "side_heads": 2, "init": "pruned"},
}
CONFIG: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def made(kind: Any = LlamaForCausalLM) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = kind(LlamaConfig(**CONFIG))
    model.config.use_cache = False
    return model


def method_of(name: str, options: dict[str, Any]) -> Any:
    return known_methods()[name.partition(" ")[0]].construct(options)


def quantised_pair(quantization: Any) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A quantised model, and one of plain layers with the same weights made dense."""
    packed = made()
    plain = copy.deepcopy(packed)
    quantise(packed, quantization)
    packed.to("cpu")  # type: ignore[arg-type] # quantises
    for name, parameter in packed.named_parameters():
        if is_quantised(parameter):
            plain.get_parameter(name).data = dense(parameter, torch.float32)
    return packed, plain


def step(model: Any, method: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a step, with what was trained moved away from zero."""
    torch.manual_seed(1)
    model = method.apply(model).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    torch.manual_seed(2)
    ids = torch.randint(1, 96, (3, 12))
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(loss), gradients


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        (name, held)
        for turn, name in enumerate(METHODS)
        for place, held in enumerate(("nf4", "int8", "nf4-single"))
        if place == turn % 2 or os.environ.get("PEPROF_EVERY_SETTING")
    ],
)
def test_a_step_is_that_beside_the_dense_weights(name: str, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    packed, plain = quantised_pair(quantization)
    loss, gradients = step(packed, method_of(name, METHODS[name]))
    expected, others = step(plain, method_of(name, METHODS[name]))
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == others.keys() and gradients
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[key], rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_trains_or_changes_the_weights_is_refused(name: str, quantization: Any) -> None:
    with torch.device("meta"):
        model = made()
        quantise_on_meta(model, quantization)
        bits = {"nf4": 4, "int8": 8}[quantization]
        with pytest.raises(
            UnsupportedModelError, match=rf"model\.layers\.\d.*_proj\.weight is held in {bits} bits"
        ):
            method_of(name, REFUSED[name]).apply(model)


def test_roles_that_are_not_quantised_are_still_trained() -> None:
    with torch.device("meta"):
        model = made(LlamaForSequenceClassification)
        quantise_on_meta(model, "nf4")
        method_of("parameters", {"roles": ("layernorm",)}).apply(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "score.weight" in trained and any("layernorm" in name for name in trained)


def test_elements_and_types_are_those_before() -> None:
    with torch.device("meta"):
        plain = made().to(torch.bfloat16)
        model = made().to(torch.bfloat16)
    for quantization in ("nf4", "int8"):
        packed = copy.deepcopy(model)
        quantise_on_meta(packed, quantization)  # type: ignore[arg-type]
        before = {name: (p.numel(), p.dtype) for name, p in plain.named_parameters()}
        after = {name: (elements(p), dense_dtype(p)) for name, p in packed.named_parameters()}
        assert before == after


def test_nothing_is_folded_into_quantised_weights() -> None:
    with torch.device("meta"):
        model = made()
        quantise_on_meta(model, "nf4")
        method = method_of("lora", {"rank": 4})
        applied = method.apply(model)
        with pytest.raises(NotImplementedError, match="q_proj is quantised"):
            method.merge(applied)


def test_a_layer_of_8_bits_that_has_run_still_knows_its_scales() -> None:
    """bitsandbytes' layer takes the scales from its weight in its first forward."""
    pytest.importorskip("bitsandbytes")
    packed, plain = quantised_pair("int8")
    ids = torch.ones(1, 4, dtype=torch.int64)
    packed(input_ids=ids)
    layer: Any = packed.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, nn.Linear) and layer.weight.SCB is None  # type: ignore[attr-defined]
    loss, _ = step(packed, method_of("lora", {"rank": 4}))
    assert loss == pytest.approx(step(plain, method_of("lora", {"rank": 4}))[0], rel=1e-5)
