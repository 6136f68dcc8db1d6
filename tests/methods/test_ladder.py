"""The ladder: its formula written by hand, what it keeps of the backbone, dropout, masks and losses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.lst import LadderSideTuning
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.method_geometries import ARCHITECTURES, HEADS, LAYERS, NAMES, WIDTH, batch, scatter, tiny

BACKBONE = {"distilbert": "distilbert", "bert": "bert", "roberta": "roberta"}
LAYER_LIST = {"distilbert": "transformer.layer", "bert": "encoder.layer", "roberta": "encoder.layer"}


def ladder_of(model: nn.Module, architecture: str) -> Any:
    return model.get_submodule(BACKBONE[architecture])


def post_norm_layer(
    weights: dict[str, Tensor], names: dict[str, str], x: Tensor, mask: Tensor, heads: int
) -> Tensor:
    """A post-norm transformer layer, from its definition (Vaswani et al. 2017, arXiv:1706.03762)."""

    def linear(role: str, value: Tensor) -> Tensor:
        return value @ weights[f"{names[role]}.weight"].T + weights[f"{names[role]}.bias"]

    def norm(role: str, value: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * weights[f"{names[role]}.weight"] + weights[f"{names[role]}.bias"]

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    query, key, value = (split(linear(f"attention.{role}", x)) for role in ("query", "key", "value"))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
    attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
    x = norm("attention.norm", x + linear("attention.output", attended))
    return norm("feedforward.norm", x + linear("feedforward.down", F.gelu(linear("feedforward.up", x))))


def own_head(model: nn.Module, architecture: str) -> Callable[[Tensor], Tensor]:
    """The head of each architecture, written out; it reads the first position."""
    weights = dict(model.named_parameters())
    dense, out, activation = {
        "distilbert": ("pre_classifier", "classifier", torch.relu),
        "bert": ("bert.pooler.dense", "classifier", torch.tanh),
        "roberta": ("classifier.dense", "classifier.out_proj", torch.tanh),
    }[architecture]

    def head(hidden: Tensor) -> Tensor:
        pooled = activation(F.linear(hidden[:, 0], weights[f"{dense}.weight"], weights[f"{dense}.bias"]))
        return F.linear(pooled, weights[f"{out}.weight"], weights[f"{out}.bias"])

    return head


@pytest.mark.parametrize("side_heads", [None, 2])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_static_fusion_by_hand(architecture: str, attention: str, side_heads: int | None) -> None:
    plain, inputs = tiny(architecture, seed=20, attention=attention), batch(architecture)
    with torch.no_grad():
        hidden = plain(**inputs, output_hidden_states=True).hidden_states  # embeddings, h_1 ... h_L
    assert len(hidden) == LAYERS + 1

    method = LadderSideTuning(reduction=4, temperature=0.2, side_heads=side_heads)
    model = scatter(method.apply(plain), scale=0.2)
    ladder = ladder_of(model, architecture)
    side = F.linear(hidden[0], ladder.down_first.weight, ladder.down_first.bias)
    assert side.shape[-1] == WIDTH // 4
    for index in range(LAYERS):
        mu = 1 / (1 + torch.exp(-ladder.fusion.alpha[index] / 0.2))
        assert abs(mu.item() - 0.5) > 0.01
        down = ladder.down[index]
        x = mu * side + (1 - mu) * F.linear(hidden[index + 1], down.weight, down.bias)
        weights = dict(ladder.side_layers[index].named_parameters())
        side = post_norm_layer(weights, NAMES[architecture], x, inputs["attention_mask"], side_heads or HEADS)
    logits = own_head(model, architecture)(F.linear(side, ladder.up.weight, ladder.up.bias))

    found = model(**inputs)
    torch.testing.assert_close(found.logits, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.loss, F.cross_entropy(logits, inputs["labels"]), atol=1e-5, rtol=1e-5)


def test_gates_start_half_open_and_follow_the_temperature() -> None:
    alphas = ladder_of(LadderSideTuning().apply(tiny("bert")), "bert").fusion.alpha
    assert torch.equal(alphas, torch.zeros(LAYERS))


class BornInside(TorchDispatchMode):
    """Every storage made while ``inside`` is set; they are kept alive, so that pointers stay unique."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.alive: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.inside:
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.alive[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage()
        return result


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_of_the_backbone_is_saved_but_its_hidden_states(architecture: str, attention: str) -> None:
    """What may be saved of the backbone is exactly its embeddings' output and the output of each layer.

    These L + 1 tensors are inputs of trainable projections, whose weight gradients need them. Anything else
    that an operation makes inside the embeddings or a layer, and every backbone parameter, must not be saved.
    """
    # One side head, or an unfused attention map of the ladder would be as large as a hidden state.
    method = LadderSideTuning(dropout=0.1, side_heads=1)
    model = method.apply(tiny(architecture, dropout=0.1, attention=attention))
    ladder = ladder_of(model, architecture)
    backbone = ladder.backbone
    born, states = BornInside(), []

    def watch(module: nn.Module) -> None:
        forward = module.forward

        def watched(*args: Any, **kwargs: Any) -> Tensor:  # inside every hook, so the ladder's aren't counted
            born.inside = True
            output: Tensor = forward(*args, **kwargs)
            born.inside = False
            states.append(output)
            return output

        module.forward = watched  # type: ignore[method-assign]

    for module in (backbone.embeddings, *backbone.get_submodule(LAYER_LIST[architecture])):
        watch(module)

    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    inputs = batch(architecture)
    with born, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = model(**inputs).loss
    pointers = {t.untyped_storage().data_ptr() for t in saved}
    allowed = {t.untyped_storage().data_ptr() for t in states}
    parameters = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    assert len(allowed) == LAYERS + 1
    assert len(born.alive.keys() - allowed) > 10 * LAYERS  # the watch saw the backbone's inside
    assert pointers & born.alive.keys() == allowed
    assert not pointers & parameters
    whole = inputs["input_ids"].numel() * WIDTH
    wide = {t.untyped_storage().data_ptr() for t in saved if t.untyped_storage().nbytes() >= 4 * whole}
    assert wide == allowed  # nor does anything else as large as a hidden state survive

    loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if ".backbone." not in n)


def test_the_watch_sees_what_full_fine_tuning_saves() -> None:
    """The test above could fail: the same criterion finds much in a backbone that does run with gradient."""
    model = tiny("bert")
    born, saved = BornInside(), []
    born.inside = True

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with born, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(**batch("bert"))
    assert len({t.untyped_storage().data_ptr() for t in saved} & born.alive.keys()) > 10 * LAYERS


def test_backward_never_enters_the_backbone_even_if_somebody_thaws_it() -> None:
    model = LadderSideTuning().apply(tiny("roberta"))
    model.requires_grad_(True)
    model(**batch("roberta")).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".backbone." not in name}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backbone_dropout_stays_as_in_training(architecture: str) -> None:
    model = LadderSideTuning(dropout=0.0).apply(tiny(architecture, dropout=0.5))
    inputs = batch(architecture)
    ladder = ladder_of(model, architecture)
    rates = {m.p for m in ladder.side_layers.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.0}
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.eval()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_side_dropout_is_the_backbones_unless_given(architecture: str) -> None:
    ladder = ladder_of(LadderSideTuning().apply(tiny(architecture, dropout=0.3)), architecture)
    assert {m.p for m in ladder.side_layers.modules() if isinstance(m, nn.Dropout)} == {0.3}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_regression_and_several_labels_use_the_models_own_loss(architecture: str) -> None:
    inputs = batch(architecture)
    inputs["labels"] = torch.tensor([0.5, -1.0, 2.0, 0.0])
    output = LadderSideTuning().apply(tiny(architecture, labels=1))(**inputs)
    torch.testing.assert_close(output.loss, (output.logits[:, 0] - inputs["labels"]).pow(2).mean())
    inputs["labels"] = torch.tensor([2, 0, 1, 2])
    output = LadderSideTuning().apply(tiny(architecture, labels=3))(**inputs)
    expected = -output.logits.log_softmax(-1)[torch.arange(4), inputs["labels"]].mean()
    torch.testing.assert_close(output.loss, expected)
    del inputs["labels"]
    assert LadderSideTuning().apply(tiny(architecture))(**inputs).loss is None


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_token_types_reach_the_backbone(architecture: str) -> None:
    model, inputs = LadderSideTuning().apply(tiny(architecture)), batch(architecture)
    types = torch.zeros_like(inputs["input_ids"])
    same = model(**inputs, token_type_ids=types).logits
    torch.testing.assert_close(same, model(**inputs).logits)
    types[:, 2:] = 1
    assert not torch.allclose(model(**inputs, token_type_ids=types).logits, same)


def test_evaluation_keeps_nothing_and_gives_the_same_logits() -> None:
    model, inputs = LadderSideTuning().apply(tiny("distilbert")).eval(), batch("distilbert")
    with torch.no_grad():
        without = model(**inputs).logits
    assert without.grad_fn is None
    assert torch.equal(without, model(**inputs).logits)


def test_a_failed_pass_leaves_no_hook_behind() -> None:
    model, inputs = LadderSideTuning().apply(tiny("bert")), batch("bert")
    expected = model(**inputs).logits
    too_long = torch.full((1, 100), 5)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=too_long)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "t5-classifier", "llama-lm"])
def test_the_model_still_knows_its_embeddings(architecture: str) -> None:
    model: Any = tiny(architecture)
    embeddings = model.get_input_embeddings()
    LadderSideTuning(reduction=4).apply(model)
    assert model.get_input_embeddings() is embeddings


def test_a_copy_is_a_ladder_of_its_own() -> None:
    model, inputs = LadderSideTuning().apply(tiny("bert")), batch("bert")
    twin = copy.deepcopy(model)
    expected = model(**inputs).logits
    scatter(model)
    with torch.no_grad():
        model.bert.backbone.encoder.layer[0].output.dense.weight.zero_()
    assert torch.equal(twin(**inputs).logits, expected)
    assert not torch.equal(model(**inputs).logits, expected)
