"""The fusions of a ladder and which backbone layers feed it, each against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.ladder_fusions import DynamicFusion
from peprof_methods.lst import LadderSideTuning
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from tests.methods.method_geometries import HEADS, LAYERS, WIDTH, batch, scatter, tiny

SIDE = WIDTH // 4


class Watched:
    """What goes through the side network in one pass over a BERT, or over a Llama that classifies.

    Attributes:
        ladder: it.
        hidden: the backbone's embeddings and outputs of its layers.
        x: what each side layer was given.
        s: what came before each side layer.
        real: (batch, length), True where there is a token.
    """

    def __init__(self, architecture: str = "bert", **options: Any) -> None:
        plain, inputs = tiny(architecture, seed=40), batch(architecture, lengths=(9, 4, 6))
        self.hidden = hidden_states(plain, inputs)
        model = scatter(LadderSideTuning(reduction=4, **options).apply(plain), scale=0.3)
        self.ladder: Any = model.get_submodule("bert" if architecture == "bert" else "model")
        self.x: list[Tensor] = []
        outputs: list[Tensor] = []
        for layer in self.ladder.side_layers:
            layer.register_forward_pre_hook(lambda _, args: self.x.append(args[0]))
            layer.register_forward_hook(lambda *call: outputs.append(call[-1]))
        model(**inputs)
        self.s = [self.ladder.down_first(self.hidden[0]), *outputs[:-1]]
        self.real = inputs["attention_mask"].bool()
        assert len(self.x) == len(self.s) == len(self.ladder.side_layers)

    def down(self, rung: int, hidden: Tensor) -> Tensor:
        down = self.ladder.down[rung]
        return F.linear(hidden, down.weight, down.bias)


def hidden_states(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Embeddings and each layer's output, before any norm that follows the last."""
    layers: Any = model.get_submodule("bert.encoder.layer" if hasattr(model, "bert") else "model.layers")
    found: list[Tensor] = []
    handles = [layers[0].register_forward_pre_hook(lambda _, args: found.append(args[0]))]
    handles += [layer.register_forward_hook(lambda *call: found.append(call[-1])) for layer in layers]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    assert len(found) == LAYERS + 1
    return found


def attention_of(projections: Any, heads: int) -> nn.MultiheadAttention:
    """torch's own attention with the same weights."""
    attention = nn.MultiheadAttention(SIDE, heads, batch_first=True)
    parts = (projections.query, projections.key, projections.value)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        attention.out_proj.weight.copy_(projections.output.weight)
        attention.out_proj.bias.copy_(projections.output.bias)
    return attention


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_dynamic_gates_are_one_an_example_from_the_real_positions() -> None:
    seen = Watched(fusion="dynamic")
    for index in range(LAYERS):
        state, gate = seen.down(index, seen.hidden[index + 1]), seen.ladder.fusion.gate[index]
        for row, real in enumerate(seen.real):
            mean = state[row][real].mean(0)
            opening = 1 / (1 + torch.exp(-(mean @ gate.weight[0] + gate.bias[0])))
            assert abs(opening.item() - 0.5) > 1e-3
            close(seen.x[index][row], opening * seen.s[index][row] + (1 - opening) * state[row])


def test_dynamic_gates_of_a_decoder_know_nothing_of_later_positions() -> None:
    seen = Watched("llama", fusion="dynamic")
    for index in range(LAYERS):
        state, gate = seen.down(index, seen.hidden[index + 1]), seen.ladder.fusion.gate[index]
        for row, real in enumerate(seen.real):
            for position in range(int(real.sum())):
                mean = state[row, : position + 1].mean(0)
                opening = torch.sigmoid(mean @ gate.weight[0] + gate.bias[0])
                expected = opening * seen.s[index][row, position] + (1 - opening) * state[row, position]
                close(seen.x[index][row, position], expected)


@pytest.mark.parametrize("causal", [True, False])
def test_dynamic_gates_of_long_inputs_in_float16(causal: bool) -> None:
    """600 states of 300 add up to more than float16 can hold, their mean is 300."""
    fusion = DynamicFusion(1, 2, causal=causal).half()
    with torch.no_grad():
        fusion.gate[0].weight.fill_(2**-8)
        fusion.gate[0].bias.zero_()
    state = torch.full((1, 600, 2), 300.0, dtype=torch.float16)
    (read,) = fusion.prepare([state], torch.ones(1, 600))
    opening = 1 / (1 + math.exp(-2 * 300 / 2**8))
    expected = torch.full_like(state, (1 - opening) * 300)
    torch.testing.assert_close(fusion(0, torch.zeros_like(state), read), expected, atol=0.3, rtol=0.0)


@pytest.mark.parametrize("heads", [1, HEADS])
def test_attention_queries_the_real_positions(heads: int) -> None:
    seen = Watched(fusion="attention", side_heads=heads)
    for index in range(LAYERS):
        state, side = seen.down(index, seen.hidden[index + 1]), seen.s[index]
        attention = attention_of(seen.ladder.fusion.attention[index], heads)
        expected = side + attention(side, state, state, key_padding_mask=~seen.real)[0]
        close(seen.x[index], expected)


@pytest.mark.parametrize("padded", [True, False])
def test_attention_of_a_decoder_sees_no_later_position(padded: bool) -> None:
    seen = Watched("llama", fusion="attention", side_heads=2)
    fusion = seen.ladder.fusion
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    state, side = seen.down(0, seen.hidden[1]), seen.s[0]
    expected = side + attention_of(fusion.attention[0], 2)(side, state, state, attn_mask=later)[0]
    (read,) = fusion.prepare([state], seen.real if padded else None)
    found = fusion(0, side, read)
    close(found[seen.real], expected[seen.real])  # padding follows, so that no real position would see it
    assert found.isfinite().all()


def test_attention_of_a_decoder_takes_padding_before_the_first_token() -> None:
    fusion = Watched("llama", fusion="attention", side_heads=2).ladder.fusion
    generator = torch.Generator().manual_seed(1)
    state, side = (torch.randn(1, 5, SIDE, generator=generator) for _ in range(2))
    padding = torch.tensor([[0, 0, 1, 1, 1]])
    (read,) = fusion.prepare([state], padding)
    (alone,) = fusion.prepare([state[:, 2:]], None)
    found = fusion(0, side, read)
    close(found[:, 2:], fusion(0, side[:, 2:], alone))
    assert found.isfinite().all()


@pytest.mark.parametrize(("window", "heads"), [(1, 4), (3, 2), (5, 1)])
def test_a_window_queries_the_nearest_layers_at_each_position(window: int, heads: int) -> None:
    seen = Watched(fusion="window", window=window, side_heads=heads)
    states = [seen.down(index, seen.hidden[index + 1]) for index in range(LAYERS)]
    for index in range(LAYERS):
        around = [
            states[near] if 0 <= near < LAYERS else torch.zeros_like(states[0])
            for near in range(index - window // 2, index + window // 2 + 1)
        ]
        places = seen.ladder.fusion.position[index]
        assert places.shape == (window, SIDE)
        keys = torch.stack(around, dim=2) + places  # (batch, length, window, side_width)
        query = seen.s[index].flatten(0, 1)[:, None]
        attention = attention_of(seen.ladder.fusion.attention[index], heads)
        found = attention(query, keys.flatten(0, 1), keys.flatten(0, 1))[0]
        close(seen.x[index], seen.s[index] + found.view_as(seen.s[index]))


def test_a_ladders_dropout_reaches_its_fusion_in_training_only() -> None:
    for fusion in ("attention", "window"):
        model = LadderSideTuning(reduction=4, fusion=fusion, dropout=0.5).apply(tiny("bert"))  # type: ignore[arg-type]
        module: Any = model.get_submodule("bert.fusion")
        state, side = torch.randn(2, 3, SIDE), torch.randn(2, 3, SIDE)
        read = module.prepare([state, state], None)[1]
        assert not torch.equal(module(1, side, read), module(1, side, read))
        model.eval()
        assert torch.equal(module(1, side, read), module(1, side, read))


def test_embeddings_reach_every_later_side_layer() -> None:
    seen = Watched(embeddings_to_every_layer=True)
    first = seen.s[0]
    for index, extra in enumerate((torch.zeros_like(first), first)):
        mu = torch.sigmoid(seen.ladder.fusion.alpha[index] / 0.1)
        fused = mu * seen.s[index] + (1 - mu) * seen.down(index, seen.hidden[index + 1])
        close(seen.x[index], fused + extra)


def test_the_last_layers_feed_one_side_layer_with_their_mean() -> None:
    seen = Watched(fused_last_layers=2)
    assert len(seen.ladder.side_layers) == len(seen.ladder.down) == 1
    mu = torch.sigmoid(seen.ladder.fusion.alpha[1] / 0.1)
    mean = (seen.hidden[1] + seen.hidden[2]) / 2
    close(seen.x[0], mu * seen.s[0] + (1 - mu) * seen.down(0, mean))


def test_a_dropped_side_layer_is_stepped_over() -> None:
    seen = Watched(backbone_layers=(1,))
    assert len(seen.ladder.side_layers) == len(seen.ladder.down) == 1
    mu = torch.sigmoid(seen.ladder.fusion.alpha[1] / 0.1)
    close(seen.x[0], mu * seen.s[0] + (1 - mu) * seen.down(0, seen.hidden[2]))


def test_low_rank_downsampling_is_a_product_of_two() -> None:
    seen = Watched(downsample_rank=3)
    first, second = seen.ladder.down[0]
    assert (first.weight.shape, first.bias) == ((3, WIDTH), None)
    mu = torch.sigmoid(seen.ladder.fusion.alpha[0] / 0.1)
    down = F.linear(seen.hidden[1], second.weight @ first.weight, second.bias)
    close(seen.x[0], mu * seen.s[0] + (1 - mu) * down)


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, [0, 1, 2]), ({"backbone_layers": (1,)}, [0, 2]), ({"backbone_layers": (0,)}, [0, 1])],
)
def test_only_what_feeds_a_side_layer_is_kept_for_backward(options: dict[str, Any], kept: list[int]) -> None:
    model, inputs = LadderSideTuning(**options, side_heads=1).apply(tiny("bert")), batch("bert")
    ladder: Any = model.get_submodule("bert")
    made: list[Tensor] = []
    for module in (ladder.backbone.embeddings, *ladder.backbone.encoder.layer):
        module.register_forward_hook(lambda *call: made.append(call[-1]))
    pointers: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: pointers.add(t.data_ptr()) or t, lambda t: t):
        model(**inputs)
    assert [index for index, state in enumerate(made) if state.data_ptr() in pointers] == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone_layers": (0, 2)}, "expected layers from 0 to 1"),
        ({"fused_last_layers": 3}, "expected at most 2"),
        ({"backbone_layers": (1,), "fused_last_layers": 2}, "expected at most 1"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_anything_is_changed(
    options: dict[str, Any], words: str
) -> None:
    for architecture in ("bert", "t5"):
        model = tiny(architecture)
        modules = list(model.modules())
        with pytest.raises(ValueError, match=words):
            LadderSideTuning(reduction=4, **options).apply(model)
        assert list(model.modules()) == modules
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fusion": "sum"}, "expected one of static, dynamic, attention, window"),
        ({"window": 4}, "window=4: expected an odd number"),
        ({"fused_last_layers": 0}, "at least 1"),
        ({"backbone_layers": ()}, "rising order"),
        ({"backbone_layers": (2, 1)}, "rising order"),
        ({"backbone_layers": (-1, 1)}, "rising order"),
        ({"downsample_rank": 0}, "at least 1, or none"),
        ({"init": "zero"}, "random or pruned"),
        ({"importance_examples": 0}, "at least 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LadderSideTuning(**options)


def test_heads_that_do_not_divide_the_side_width_are_refused() -> None:
    """T5 v1.1 small is so: 6 heads of 64, and a width of 512."""
    config = T5Config(vocab_size=9, d_model=64, d_kv=16, d_ff=8, num_layers=1, num_heads=6)
    model = T5ForConditionalGeneration(config)
    with pytest.raises(ValueError) as caught:
        LadderSideTuning(reduction=2, fusion="window").apply(model)
    assert str(caught.value) == (
        "fusion='window' with 6 side heads: expected side_heads that divide the side width, 32"
    )
    LadderSideTuning(reduction=2, fusion="window", side_heads=4).apply(model)
