"""Selected entries: which they are, what they compute, and that nothing is kept for the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.roles import LINEAR_ROLES, modules_by_role
from peprof_methods.selected_linear import SelectedLinear
from peprof_methods.sparse import SelectedEntries, shares_by_size
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from peprof.profiler.profile import profile_step
from tests.methods.method_geometries import (
    EVERY_ARCHITECTURE,
    batch,
    gradients,
    names_of,
    scatter,
    tiny,
)


def layers_of(model: nn.Module) -> dict[str, SelectedLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, SelectedLinear)}


def some_layer(*, bias: bool = True, count: int = 7, dtype: torch.dtype = torch.float32) -> SelectedLinear:
    torch.manual_seed(3)
    linear = nn.Linear(6, 5, bias=bias, dtype=dtype).requires_grad_(False)
    layer = SelectedLinear(linear, torch.randperm(30)[:count].sort().values.int())
    nn.init.normal_(layer.selected)
    return layer


def dense_of(layer: SelectedLinear, values: Tensor) -> Tensor:
    """W + S, entry by entry."""
    weight = layer.weight.clone()
    for place, value in zip(layer.selected_indices.tolist(), values, strict=True):
        row, column = divmod(place, layer.in_features)
        weight[row, column] = weight[row, column] + value
    return weight


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_equals_a_dense_weight(bias: bool) -> None:
    layer = some_layer(bias=bias, dtype=torch.double)
    x = torch.randn(2, 3, 6, dtype=torch.double, requires_grad=True)
    before = layer.weight.clone()
    found = layer(x)
    expected = F.linear(x, dense_of(layer, layer.selected), layer.bias)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    wanted = torch.autograd.grad((expected * weights).sum(), (x, layer.selected))
    got = torch.autograd.grad((found * weights).sum(), (x, layer.selected))
    torch.testing.assert_close(got, wanted)
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is None


def test_gradients_by_finite_differences() -> None:
    layer = some_layer(dtype=torch.double)
    x = torch.randn(4, 6, dtype=torch.double, requires_grad=True)
    values = layer.selected.detach().clone().requires_grad_(True)

    def run(x: Tensor, values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"selected": values}, (x,))

    assert torch.autograd.gradcheck(run, (x, values))


def test_a_layer_used_twice_and_checkpointed() -> None:
    layer = some_layer()
    x = torch.randn(3, 6, requires_grad=True)

    def twice(x: Tensor) -> Tensor:
        return layer(F.pad(layer(x), (0, 1)).tanh())

    twice(x).square().sum().backward()
    expected = (x.grad.clone(), layer.selected.grad.clone())  # type: ignore[union-attr]
    weight = dense_of(layer, layer.selected)
    inner = F.pad(F.linear(x, weight, layer.bias), (0, 1)).tanh()
    wanted = torch.autograd.grad(F.linear(inner, weight, layer.bias).square().sum(), (x, layer.selected))
    torch.testing.assert_close(expected, wanted)
    x.grad, layer.selected.grad = None, None
    checkpoint(twice, x, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close((x.grad, layer.selected.grad), expected)


def test_autocast_gives_narrow_activations_and_wide_gradients() -> None:
    layer, x = some_layer(), torch.randn(8, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
        plain = F.linear(x, dense_of(layer, layer.selected.detach()), layer.bias)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, plain)
    found.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert layer.selected.grad is not None and layer.selected.grad.dtype == torch.float32


def test_an_error_in_the_product_leaves_the_weight_as_it_was() -> None:
    layer = some_layer()
    before = layer.weight.clone()
    with pytest.raises(RuntimeError):
        layer(torch.randn(2, 7))
    assert torch.equal(layer.weight, before)


def test_only_the_input_is_saved() -> None:
    layer, saved = some_layer(), []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(4, 3, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    there = {t.data_ptr() for t in (layer.weight, layer.selected, layer.selected_indices)}
    assert [t.data_ptr() for t in saved if t.data_ptr() not in there] == [x.data_ptr()]


def test_equals_peft() -> None:
    """Their number of entries is r * (rows + columns): 64 of 32 x 32, as ours at a density of 1/16."""
    peft = pytest.importorskip("peft")
    plain = tiny("bert", seed=10)
    targets = ("attention.query", "attention.value")
    theirs_plain = copy.deepcopy(plain)
    ours = scatter(SelectedEntries(density=1 / 16, targets=targets).apply(plain), scale=0.3)
    masks = iter(layers_of(ours).values())

    def mask_of(base: nn.Linear, r: int, **_: Any) -> Tensor:
        mask = torch.zeros(base.weight.numel())
        mask[next(masks).selected_indices.long()] = 1
        return mask.view_as(base.weight)

    config = peft.ShiraConfig(r=1, target_modules=names_of("bert", *targets))
    config.mask_fn = mask_of
    theirs = peft.get_peft_model(theirs_plain, config)
    ours_by_name = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            plain_name = name.removeprefix("base_model.model.")
            if "shira_weight" in name:
                parameter.copy_(ours_by_name[plain_name.replace(".shira_weight.default", ".selected")])
            elif "classifier" in name or "pooler" in name:
                parameter.copy_(ours_by_name[plain_name])
    found, expected = ours(**batch("bert")), theirs(**batch("bert"))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    compared = 0
    for name, gradient in gradients(theirs).items():
        mine = name.removeprefix("base_model.model.").replace(".shira_weight.default", ".selected")
        torch.testing.assert_close(gradients(ours)[mine], gradient, atol=1e-5, rtol=1e-5)
        compared += "shira_weight" in name
    assert compared == 4


def test_backward_under_autocast_of_a_forward_without() -> None:
    """In the tensors' own dtype, as the forward was."""
    layer = some_layer()
    x, grown = torch.randn(4, layer.in_features), torch.randn(4, layer.out_features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            output = layer(x)
        output.backward(grown)
    assert layer.selected.grad is not None
    expected = (grown.T @ x).flatten()[layer.selected_indices.long()]
    torch.testing.assert_close(layer.selected.grad, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_the_count_is_met_exactly(architecture: str) -> None:
    model = SelectedEntries(count=1001).apply(tiny(architecture))
    assert sum(len(layer.selected) for layer in layers_of(model).values()) == 1001
    for layer in layers_of(model).values():
        places = layer.selected_indices
        assert places.dtype == torch.int32
        assert len(places.unique()) == len(places) == len(layer.selected)
        assert 0 <= int(places.min()) <= int(places.max()) < layer.weight.numel()


def test_a_count_above_the_number_of_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="count=2049: expected at most the targets' 2048 entries"):
        SelectedEntries(count=2049, targets=("attention.key",)).apply(tiny("bert"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "density=0.0: expected above 0 and at most 1"),
        ({"count": 0}, "count=0: expected at least 1, or none"),
        ({"select": "largest"}, "select='largest': expected one of random, fisher, magnitude, smallest"),
        ({"scope": "layer"}, "scope='layer': expected one of matrix, global, or none"),
        ({"examples": 0}, "examples=0: expected at least 1"),
    ],
)
def test_a_wrong_value_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        SelectedEntries(**options)
    assert str(caught.value) == message


def test_shares_add_up() -> None:
    assert shares_by_size([10, 10, 10], 4) == [2, 1, 1]
    assert shares_by_size([1, 99], 1) == [0, 1]
    assert shares_by_size([4, 8], 12) == [4, 8]


def test_random_places_are_spread_evenly_and_follow_the_seed() -> None:
    def places(seed: int) -> Tensor:
        plain = tiny("bert")
        torch.manual_seed(seed)
        model = SelectedEntries(density=0.25, targets=("feedforward.up",)).apply(plain)
        return next(iter(layers_of(model).values())).selected_indices

    first, second = places(1), places(2)
    assert torch.equal(first, places(1))
    assert not torch.equal(first, second)
    rows = torch.bincount(first // 32, minlength=64).float()  # 512 of 64 x 32: 8 a row on average
    assert rows.sum() == 512
    assert 4 < rows.var() < 9  # hypergeometric: 32 * 1/4 * 3/4, less a little


@pytest.mark.parametrize(("select", "largest"), [("magnitude", True), ("smallest", False)])
def test_by_magnitude(select: Any, largest: bool) -> None:
    model = SelectedEntries(density=0.05, select=select).apply(tiny("distilbert"))
    for layer in layers_of(model).values():
        size = layer.weight.detach().abs().flatten()
        chosen = torch.zeros_like(size, dtype=torch.bool)
        chosen[layer.selected_indices.long()] = True
        assert abs(int(chosen.sum()) - 0.05 * size.numel()) < 1  # its share, rounded up or down
        if largest:
            assert size[chosen].min() >= size[~chosen].max()
        else:
            assert size[chosen].max() <= size[~chosen].min()


@pytest.mark.parametrize(
    ("architecture", "scope"), [("distilbert", None), ("t5", "global"), ("llama", "matrix")]
)
def test_by_fisher_information(architecture: str, scope: Any) -> None:
    """Against gradients of each example's loss by ``torch.autograd.grad``; 6 examples out of two batches."""
    plain = tiny(architecture, seed=4)
    batches = [batch(architecture, seed=1), batch(architecture, seed=2)]
    method = SelectedEntries(density=0.1, select="fisher", examples=6, scope=scope)
    assert method.examples_needed() == 6
    oracle = copy.deepcopy(plain).eval()
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    model: Any = method.apply_with_data(plain, batches)
    assert model.training
    for name, parameter in model.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name])
            assert parameter.grad is None

    names = list(modules_by_role(oracle, LINEAR_ROLES))
    weights = [oracle.get_submodule(name).weight for name in names]
    scores = [torch.zeros_like(weight, dtype=torch.double) for weight in weights]
    examples = [{n: v[row : row + 1] for n, v in inputs.items()} for inputs in batches for row in range(4)]
    for example in examples[:6]:
        for score, gradient in zip(scores, torch.autograd.grad(oracle(**example).loss, weights), strict=True):
            score += gradient.double().square()
    layers = layers_of(model)
    chosen = {name: score.flatten()[layers[name].selected_indices.long()]
              for name, score in zip(names, scores, strict=True) if name in layers}  # fmt: skip
    total = sum(weight.numel() for weight in weights)
    assert sum(len(part) for part in chosen.values()) == round(0.1 * total)
    if scope == "matrix":  # the best of each, by its size
        for name, score in zip(names, scores, strict=True):
            assert abs(len(chosen[name]) - 0.1 * score.numel()) < 1
            best = score.flatten().topk(len(chosen[name])).values
            torch.testing.assert_close(chosen[name].sort(descending=True).values, best, rtol=1e-4, atol=0.0)
    else:  # the best of all
        best = torch.cat([score.flatten() for score in scores]).topk(round(0.1 * total)).values
        found = torch.cat(list(chosen.values())).sort(descending=True).values
        torch.testing.assert_close(found, best, rtol=1e-4, atol=0.0)
        assert len({len(part) / layers[name].weight.numel() for name, part in chosen.items()}) > 2


@pytest.mark.parametrize(("select", "factor"), [("magnitude", 10.0), ("smallest", 1e-9)])
def test_all_entries_may_be_in_one_matrix(select: Any, factor: float) -> None:
    plain: Any = tiny("bert")
    outstanding = plain.bert.encoder.layer[1].attention.self.key
    with torch.no_grad():
        outstanding.weight.copy_(factor * (1 + torch.rand(32, 32)) * outstanding.weight.sign())
    method = SelectedEntries(count=1000, select=select, scope="global", targets=("attention.key",))
    model = method.apply(plain)
    (name,) = layers_of(model)  # the others are as they were
    assert name == "bert.encoder.layer.1.attention.self.key"
    size = layers_of(model)[name].weight.abs().flatten()
    kept = torch.zeros(1024, dtype=torch.bool)
    kept[layers_of(model)[name].selected_indices.long()] = True
    assert (size[kept].min() > size[~kept].max()) == (select == "magnitude")

    scatter(model)
    state = method.adapter_state(model)
    again = method.apply_saved(tiny("bert"), state)
    assert list(layers_of(again)) == [name]
    assert torch.equal(layers_of(again)[name].selected_indices, state[f"{name}.selected_indices"])
    with pytest.raises(ValueError, match=r"entries of 'bert\..*key': expected those of feedforward\.up only"):
        SelectedEntries(targets=("feedforward.up",)).apply_saved(tiny("bert"), state)


def test_fisher_without_an_example_is_refused() -> None:
    model = tiny("bert")
    with pytest.raises(ValueError, match="no training example to look at: expected at least one"):
        SelectedEntries(select="fisher").apply_with_data(model, [])
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


def test_gradient_and_optimizer_state_are_as_long_as_there_are_entries() -> None:
    """By the memory profiler: AdamW keeps two numbers an entry, and a count of steps for each parameter."""
    count = 777
    model = SelectedEntries(count=count).apply(tiny("llama-lm"))  # it has no head
    trained = [p for p in model.parameters() if p.requires_grad]
    profile = profile_step(model, batch("llama-lm"), optimizers=torch.optim.AdamW(trained))
    (moment,) = [phase.peak for phase in profile.phases if phase.phase == "optimizer"]
    assert moment.categories["parameters.trainable"] == count * 4
    assert moment.categories["gradients"] == count * 4
    assert moment.categories["optimizer_state"] == 2 * count * 4 + 4 * len(trained)
