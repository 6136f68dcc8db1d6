"""Parts of the model on every architecture: what is trained, counted, and the same as in the peft library."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peprof_methods import UnknownRoleError, UnsupportedModelError
from peprof_methods.full import Full
from peprof_methods.head import Head
from peprof_methods.ia3 import IA3
from peprof_methods.last_layers import LastLayers
from peprof_methods.layernorm import LayerNormTuning
from peprof_methods.parameters import SomeParameters
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from tests.methods.method_geometries import EVERY_ARCHITECTURE, batch, gradients, scatter, tiny

HEADS = ("classifier", "pooler", "classification_head", "score")


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def of_head(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters() if any(part in name for part in HEADS)}


def t5_on_meta(width: int, feedforward: int, layers: int, heads: int) -> Any:
    with torch.device("meta"):
        return T5ForConditionalGeneration(
            T5Config(
                d_model=width, d_kv=64, d_ff=feedforward, num_layers=layers, num_heads=heads, vocab_size=32128
            )
        )


T5_BASE, T5_SMALL = (768, 3072, 12, 12), (512, 2048, 6, 8)


@pytest.mark.parametrize(
    ("method", "geometry", "expected"),
    [
        (IA3(), T5_BASE, 129_024),
        (IA3(), T5_SMALL, 43_008),
        (LayerNormTuning(), T5_BASE, 62 * 768),
        # A decoder block: two attentions and a feed-forward with their norms.
        (LastLayers(), T5_BASE, 8 * 768 * 768 + 2 * 768 * 3072 + 3 * 768),
        # The whole decoder, with the first block's 32 position biases a head, and the last encoder block.
        (
            LastLayers(count=13),
            T5_BASE,
            12 * (8 * 768**2 + 2 * 768 * 3072 + 3 * 768) + 32 * 12 + 4 * 768**2 + 2 * 768 * 3072 + 2 * 768,
        ),
        (Full(), T5_BASE, 222_903_552),
        (Full(), T5_SMALL, 60_506_624),
        (SomeParameters(), T5_SMALL, 6 * (4 + 8) * 512**2),
        (SomeParameters(roles=("embedding",)), T5_SMALL, 32128 * 512 + 2 * 32 * 8),
        (
            SomeParameters(roles=("layernorm",), patterns=("*.wo.weight",)),
            T5_SMALL,
            32 * 512 + 12 * 512 * 2048,
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple | int) else None,
)
def test_t5_counts(method: Any, geometry: tuple[int, int, int, int], expected: int) -> None:
    model = method.apply(t5_on_meta(*geometry))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_layernorm_tuning_trains_every_norm_by_its_class(architecture: str) -> None:
    model = LayerNormTuning().apply(tiny(architecture))
    norms = [name for name, module in model.named_modules() if "Norm" in type(module).__name__]
    expected = {n for n, _ in model.named_parameters() if n.rpartition(".")[0] in norms}
    assert trainable(model) == expected | of_head(model)


@pytest.mark.parametrize("architecture", ["t5", "llama-lm"])
@pytest.mark.parametrize("kind", ["ia3", "layernorm"])
def test_equals_peft_with_its_own_targets(kind: str, architecture: str) -> None:
    """The library's defaults for these architectures name the same modules; neither model has a head."""
    peft = pytest.importorskip("peft")
    plain = tiny(architecture, seed=11)
    method, config = {
        "ia3": (IA3(), peft.IA3Config),
        "layernorm": (LayerNormTuning(), peft.LNTuningConfig),
    }[kind]
    task = {"t5": "SEQ_2_SEQ_LM", "llama-lm": "CAUSAL_LM"}[architecture]
    theirs = peft.get_peft_model(copy.deepcopy(plain), config(task_type=task))
    ours = scatter(method.apply(plain))
    values = dict(ours.named_parameters())

    def our_name(name: str) -> str:
        name = name.removeprefix("base_model.model.").replace(".ln_tuning_layers.default", "")
        return name.replace(".ia3_l.default", ".ia3")

    assert {our_name(name) for name in trainable(theirs)} == trainable(ours)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[our_name(name)].reshape(parameter.shape))
    found, expected = ours(**batch(architecture)), theirs(**batch(architecture))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    for name, gradient in gradients(theirs).items():
        mine = values[our_name(name)].grad
        assert mine is not None
        torch.testing.assert_close(mine, gradient.reshape(mine.shape), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "roberta"])
def test_layernorm_tuning_equals_peft_where_there_is_a_head(architecture: str) -> None:
    peft = pytest.importorskip("peft")
    plain = tiny(architecture, seed=12)
    norms = [name for name, module in plain.named_modules() if isinstance(module, nn.LayerNorm)]
    theirs = peft.get_peft_model(copy.deepcopy(plain), peft.LNTuningConfig(target_modules=norms))
    found, expected = LayerNormTuning().apply(plain)(**batch(architecture)), theirs(**batch(architecture))
    assert torch.equal(found.logits, expected.logits)
    found.loss.backward()
    expected.loss.backward()
    theirs_by_name = {
        name.removeprefix("base_model.model.").replace(".ln_tuning_layers.default", ""): gradient
        for name, gradient in gradients(theirs).items()
    }
    ours = {name: g for name, g in gradients(plain).items() if not any(part in name for part in HEADS)}
    assert ours.keys() == theirs_by_name.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs_by_name[name], atol=1e-6, rtol=1e-6)


def test_parameters_by_role_and_pattern() -> None:
    model = SomeParameters(roles=("attention.key",), patterns=("*.layer.1.output.dense.bias",)).apply(
        tiny("bert")
    )
    keys = {
        f"bert.encoder.layer.{i}.attention.self.key.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    assert trainable(model) == keys | {"bert.encoder.layer.1.output.dense.bias"} | of_head(model)


def test_a_tied_output_layer_may_be_named_as_such() -> None:
    model = SomeParameters(patterns=("lm_head.weight",)).apply(tiny("t5"))
    assert trainable(model) == {"shared.weight"}


def test_a_pattern_that_matches_nothing_gives_the_nearest_names() -> None:
    model = tiny("distilbert")
    with pytest.raises(ValueError) as caught:
        SomeParameters(patterns=("*.bias", "distilbert.transformer.layer.1.ffn.lin3.weight")).apply(model)
    assert str(caught.value) == (
        "patterns: 'distilbert.transformer.layer.1.ffn.lin3.weight' matches no parameter of "
        "DistilBertForSequenceClassification; the nearest names are "
        "distilbert.transformer.layer.1.ffn.lin2.weight, distilbert.transformer.layer.1.ffn.lin1.weight, "
        "distilbert.transformer.layer.0.ffn.lin2.weight"
    )
    assert all(p.requires_grad for p in model.parameters())  # refused before anything was changed


def test_wrong_roles_and_patterns_are_said() -> None:
    with pytest.raises(UnknownRoleError, match="Did you mean 'layernorm'"):
        SomeParameters(roles=("layernrom",))  # type: ignore[arg-type]
    with pytest.raises(UnknownRoleError, match="unknown role 'head'"):  # which is trained anyway
        SomeParameters(roles=("head",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"patterns='\*\.bias': expected a list of patterns"):
        SomeParameters(patterns="*.bias")  # type: ignore[arg-type]
    with pytest.raises(
        UnsupportedModelError, match=r"has no feedforward\.gate: expected one of attention\.query"
    ):
        SomeParameters(roles=("feedforward.gate",)).apply(tiny("bert"))


def test_a_model_that_generates_has_no_head() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        Head().apply(tiny("llama-lm"))
    assert str(caught.value) == "LlamaForCausalLM: it has no head that is new for the task"
