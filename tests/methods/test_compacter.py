"""Compacter against materialised Kronecker products, and what it saves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.compacter import Compacter, CompacterLinear
from peprof_methods.errors import UnsupportedModelError
from torch import Tensor, nn

from tests.methods.method_geometries import EVERY_ARCHITECTURE, batch, scatter, tiny
from tests.methods.test_adapters import ATTENTION, GELU, HEAD, MASK, NORM
from tests.profiler.test_shares import F32, LAYERS, D, N, saved, share


def products(rule: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_i A_i kron (B_i C_i), all of it made."""
    total = torch.kron(rule[0], left[0] @ right[0])
    for index in range(1, len(rule)):
        total = total + torch.kron(rule[index], left[index] @ right[index])
    return total


def oracle(layer: CompacterLinear, x: Tensor) -> Tensor:
    y = x @ layer.weight.mT + layer.bias
    down = products(layer.rule, layer.down_s, layer.down_t)
    up = products(layer.rule, layer.up_u, layer.up_v)
    return y + getattr(F, layer.activation)(y @ down + layer.down_c) @ up + layer.up_e


@pytest.mark.parametrize(
    ("n", "rank", "activation"), [(4, 1, "gelu"), (2, 3, "relu"), (1, 2, "tanh"), (3, 1, "silu")]
)
def test_equals_materialised_products(n: int, rank: int, activation: Any) -> None:
    torch.manual_seed(0)
    rule = nn.Parameter(torch.randn(n, n, n).double())
    linear = nn.Linear(7, 24).double()
    layer = CompacterLinear(linear, rule, bottleneck=12, rank=rank, activation=activation)
    scatter(layer, scale=0.5)
    x = torch.randn(2, 5, 7, dtype=torch.double, requires_grad=True)
    weights = torch.randn(2, 5, 24, dtype=torch.double)
    found, expected = layer(x), oracle(layer, x)
    torch.testing.assert_close(found, expected)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
        assert other.abs().max() > 1e-3


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_all_layers_share_one_rule_and_equal_the_plain_model_with_hooks(architecture: str) -> None:
    plain, inputs = tiny(architecture, seed=5), batch(architecture)
    start = plain(**inputs).logits
    ours = Compacter(bottleneck=8).apply(copy.deepcopy(plain))
    torch.testing.assert_close(ours(**inputs).logits, start)

    scatter(ours)
    found = {name: module for name, module in ours.named_modules() if isinstance(module, CompacterLinear)}
    assert len(found) == {"t5": 10}.get(architecture.partition("-")[0], 4)
    assert len({id(module.rule) for module in found.values()}) == 1
    assert sum(p.dim() == 3 and p.shape == (4, 4, 4) for p in ours.parameters()) == 1
    with torch.no_grad():
        values = dict(ours.named_parameters())
        for name, parameter in plain.named_parameters():
            parameter.copy_(values[name])
        for name, layer in found.items():
            plain.get_submodule(name).register_forward_hook(
                lambda module, args, y, layer=layer: oracle_behind(layer, y)
            )
        expected = plain(**inputs).logits
    scale = float(expected.abs().max())
    torch.testing.assert_close(ours(**inputs).logits / scale, expected / scale, atol=1e-5, rtol=1e-5)
    assert (expected - start).abs().max() > 1e-2


def oracle_behind(layer: CompacterLinear, y: Tensor) -> Tensor:
    down = products(layer.rule, layer.down_s, layer.down_t)
    up = products(layer.rule, layer.up_u, layer.up_v)
    return y + F.gelu(y @ down + layer.down_c) @ up + layer.up_e


@pytest.mark.parametrize("places", [("attention.output", "feedforward.down"), ("feedforward.down",)])
def test_counts_follow_the_formula(places: Any) -> None:
    """n^3 once; for each adapter 2 rank (d + m) + d + m."""
    model = Compacter(bottleneck=8, n=4, rank=2, places=places).apply(tiny("llama-lm"))
    each = 2 * 2 * (32 + 8) + 32 + 8
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4**3 + 2 * len(places) * each


def test_starts_with_the_spread_it_says() -> None:
    torch.manual_seed(0)
    method = Compacter(bottleneck=96, n=4, rank=3)
    with torch.device("meta"):
        wide = tiny("bert")
    for layer in wide.bert.encoder.layer:
        layer.output.dense = nn.Linear(64, 384)
        layer.attention.output.dense = nn.Linear(32, 384)
    method.apply(wide)
    layer = wide.bert.encoder.layer[0].output.dense
    down = products(layer.rule, layer.down_s, layer.down_t)
    assert down.var().item() == pytest.approx(1 / 384, rel=0.35)
    assert not layer.up_v.any()


def test_saves_a_hidden_state_and_narrow_tensors() -> None:
    """Behind each adapted layer: its result, and of each row 16 numbers, 48 twice and 32 (n = 4, rank 1).

    Beside these, the small matrices that stand for the products: 16 x 48, 32 x 48 and 8 x 192.
    """
    adapter = N * D + N * (16 + 2 * 48 + 32) + 16 * 48 + 32 * 48 + 8 * 192
    layer = adapter + NORM + GELU + adapter + MASK + NORM
    found = saved(Compacter().apply).total_bytes
    assert found == F32 * ((LAYERS - 1) * ATTENTION + LAYERS * layer + HEAD)
    assert share(Compacter().apply) == pytest.approx(71, abs=0.06)


def test_autocast_matches_float32() -> None:
    model = scatter(Compacter(bottleneck=8).apply(tiny("bert")), scale=0.05)
    expected = model(**batch("bert")).logits
    seen = []
    model.bert.encoder.layer[0].output.dense.register_forward_hook(lambda m, a, y: seen.append(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch("bert")).logits
    assert seen == [torch.bfloat16]
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: expected at least 1"),
        ({"bottleneck": 46}, "bottleneck=46: expected a multiple of n=4"),
        ({"rank": 0}, "rank=0: expected at least 1"),
        (
            {"places": ("feedforward.up",)},
            "places: unknown role 'feedforward.up'; expected one of attention.output, feedforward.down. "
            "Did you mean 'feedforward.down'?",
        ),
    ],
)
def test_a_wrong_value_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Compacter(**options)
    assert str(caught.value) == message


def test_a_width_that_does_not_divide_is_refused_before_anything_changes() -> None:
    model = tiny("bert")
    with pytest.raises(UnsupportedModelError, match="has 32 outputs; expected a multiple of n=3"):
        Compacter(n=3).apply(model)
    assert all(p.requires_grad for p in model.parameters())
