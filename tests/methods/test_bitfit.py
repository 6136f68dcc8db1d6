"""BitFit where an architecture has no biases: how many are added, what they compute, what they cost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peprof_methods import UnsupportedModelError
from peprof_methods.bitfit import BitFit
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from tests.methods.method_geometries import batch, gradients, scatter, tiny

WITHOUT_BIASES = ["t5", "t5-gated", "t5-classifier", "llama", "llama-lm"]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_the_published_share_of_t5_base() -> None:
    """0.127 % of T5-base (Sung et al. 2022): linear layers, normalisations and the output layer."""
    with torch.device("meta"):
        model = T5ForConditionalGeneration(
            T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128)
        )
    full = sum(p.numel() for p in model.parameters())
    assert full == 222_903_552
    found = sum(p.numel() for p in trainable(BitFit().apply(model)).values())
    attention = (12 + 2 * 12) * 4 * 768
    feedforward = 24 * (3072 + 768)
    norms = (12 * 2 + 1 + 12 * 3 + 1) * 768
    assert found == attention + feedforward + norms + 32128 == 282_496
    assert round(100 * found / full, 3) == 0.127


def test_llama_is_done_as_t5_is() -> None:
    layers, width, feedforward, vocabulary, key_value = 3, 64, 112, 90, 32
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width,
                intermediate_size=feedforward,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=vocabulary,
            )
        )
    attention = 2 * width + 2 * key_value
    found = sum(p.numel() for p in trainable(BitFit().apply(model)).values())
    assert found == layers * (attention + 2 * feedforward + width + 2 * width) + width + vocabulary


def with_plain_biases(model: nn.Module) -> nn.Module:
    """The oracle: a bias for each linear layer and norm, found by its class, put around it."""

    class Shifted(nn.Module):
        def __init__(self, inner: nn.Module, size: int) -> None:
            super().__init__()
            self.inner = inner
            self.bias = nn.Parameter(torch.zeros(size))

        def __getattr__(self, name: str) -> Any:  # T5 looks at the weight's dtype
            return self.inner.weight if name == "weight" else super().__getattr__(name)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.bias

    heads = ("classification_head", "score")
    for name, module in list(model.named_modules()):
        is_norm = type(module).__name__ in ("T5LayerNorm", "LlamaRMSNorm")
        if (isinstance(module, nn.Linear) or is_norm) and not name.startswith(heads):
            model.set_submodule(name, Shifted(module, module.weight.shape[0]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name.startswith(heads))
    return model


@pytest.mark.parametrize("architecture", WITHOUT_BIASES)
def test_added_biases_equal_plain_torch(architecture: str) -> None:
    oracle = with_plain_biases(tiny(architecture))
    ours = scatter(BitFit().apply(tiny(architecture)))
    theirs = trainable(oracle)
    assert theirs.keys() == trainable(ours).keys()
    with torch.no_grad():
        for name, parameter in trainable(ours).items():
            theirs[name].copy_(parameter)
    found, expected = ours(**batch(architecture)), oracle(**batch(architecture))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    for name, gradient in gradients(oracle).items():
        torch.testing.assert_close(gradients(ours)[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", WITHOUT_BIASES)
def test_it_starts_as_the_backbone(architecture: str) -> None:
    plain, inputs = tiny(architecture), batch(architecture)
    expected = plain(**inputs).logits
    torch.testing.assert_close(BitFit().apply(plain)(**inputs).logits, expected)


@pytest.mark.parametrize("architecture", ["t5", "llama-lm"])
def test_added_biases_save_no_activations(architecture: str) -> None:
    """Against a frozen model with a gradient for its input: backward runs as far, and needs no less."""

    def saved(model: nn.Module) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(**batch(architecture))
        own = {t.untyped_storage().data_ptr() for t in model.parameters()}
        return sum(n for pointer, n in kept.items() if pointer not in own)

    frozen = tiny(architecture).requires_grad_(False)
    for name, module in frozen.named_modules():
        if name.endswith("embed_tokens"):
            module.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    assert 0 < saved(BitFit().apply(tiny(architecture))) <= saved(frozen)


def test_only_what_is_there_is_trained_if_none_is_added() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        BitFit(add_missing=False).apply(tiny("t5"))
    assert str(caught.value) == (
        "T5ForConditionalGeneration has no bias terms; expected some, or add_missing = true"
    )
    names = {
        n for n, p in BitFit(add_missing=False).apply(tiny("bert")).named_parameters() if p.requires_grad
    }
    assert names == set(trainable(BitFit().apply(tiny("bert"))))


def test_it_survives_a_deep_copy_and_a_second_application() -> None:
    model = scatter(BitFit().apply(tiny("llama")))
    expected = model(**batch("llama")).logits
    again = BitFit().apply(copy.deepcopy(model))
    assert torch.equal(again(**batch("llama")).logits, expected)
