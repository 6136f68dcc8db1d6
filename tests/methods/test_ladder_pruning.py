"""Side layers that descend from the backbone's, against a pruning written out for each architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.lst import LadderSideTuning
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from peprof.running.methods import apply_method
from peprof.training.protocols import LearnsFromData
from tests.methods.method_geometries import HEADS, LAYERS, WIDTH, batch, tiny

REDUCTION = 4
PRUNED = LadderSideTuning(reduction=REDUCTION, init="pruned", importance_examples=6)


def batches(architecture: str) -> list[dict[str, Tensor]]:
    return [batch(architecture, seed=seed) for seed in (1, 2)]  # of four examples, of which six are used


def importance(model: PreTrainedModel, architecture: str, examples: int = 6) -> dict[str, Tensor]:
    """Summed squares of each example's own gradient, by the parameters' names."""
    model.eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    rows = [
        {k: v[i : i + 1] for k, v in inputs.items()} for inputs in batches(architecture) for i in range(4)
    ]
    for example in rows[:examples]:
        gradients = torch.autograd.grad(
            model(**example).loss, list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(sums, gradients, strict=True):
            sums[name] += gradient**2
    model.train()
    return sums


def top(scores: Tensor, count: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda row: -float(scores[row]))[:count])


def rows(scores: dict[str, Tensor], name: str, columns: list[int]) -> Tensor:
    return scores[f"{name}.weight"][:, columns].double().sum(1)


class Expected:
    """Kept rows and columns, found matrix by matrix."""

    def __init__(self, model: PreTrainedModel, scores: dict[str, Tensor]) -> None:
        self.weights = dict(model.named_parameters())
        self.scores = scores
        self.found: dict[str, Tensor] = {}

    def take(self, name: str, kept: list[int], columns: list[int] | None = None) -> None:
        weight = self.weights[f"{name}.weight"].detach()[kept]
        self.found[f"{name}.weight"] = weight if columns is None else weight[:, columns]
        if f"{name}.bias" in self.weights:
            self.found[f"{name}.bias"] = self.weights[f"{name}.bias"].detach()[kept]

    def attention(self, q: str, k: str, v: str, o: str, columns: list[int], read: list[int]) -> list[int]:
        """As many heads as in the backbone, each keeping a quarter of its rows."""
        product = (
            rows(self.scores, q, columns) * rows(self.scores, k, read) * rows(self.scores, v, read) * 1e9
        )
        per_head = WIDTH // HEADS
        kept = [
            head * per_head + row
            for head in range(HEADS)
            for row in top(product[head * per_head : (head + 1) * per_head], per_head // REDUCTION)
        ]
        self.take(q, kept, columns)
        self.take(k, kept, read)
        self.take(v, kept, read)
        return self.ranked(o, kept)

    def feedforward(self, ups: list[str], down: str, columns: list[int]) -> list[int]:
        product = torch.stack([rows(self.scores, up, columns) for up in ups]).prod(0)
        kept = top(product, len(product) // REDUCTION)
        for up in ups:
            self.take(up, kept, columns)
        return self.ranked(down, kept)

    def ranked(self, name: str, columns: list[int]) -> list[int]:
        kept = top(rows(self.scores, name, columns), WIDTH // REDUCTION)
        self.take(name, kept, columns)
        return kept


def assert_descends(side: Any, found: dict[str, Tensor], prefix: str) -> None:
    expected = {n.removeprefix(f"{prefix}."): w for n, w in found.items() if n.startswith(f"{prefix}.")}
    assert set(expected) == set(dict(side.named_parameters()))
    for name, parameter in side.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_an_encoder_by_hand(architecture: str) -> None:
    model = tiny(architecture, seed=3, dropout=0.3)  # dropout must not blur the importance
    expected = Expected(model, importance(model, architecture))
    bert = architecture == "bert"
    prefix = "bert.encoder.layer" if bert else "distilbert.transformer.layer"
    kept = top(
        expected.scores[f"{architecture}.embeddings.word_embeddings.weight"].sum(0), WIDTH // REDUCTION
    )
    for index in range(LAYERS):
        at = f"{prefix}.{index}"
        if bert:
            query, key, value = (f"{at}.attention.self.{name}" for name in ("query", "key", "value"))
            kept = expected.attention(query, key, value, f"{at}.attention.output.dense", kept, kept)
            expected.take(f"{at}.attention.output.LayerNorm", kept)
            kept = expected.feedforward([f"{at}.intermediate.dense"], f"{at}.output.dense", kept)
            expected.take(f"{at}.output.LayerNorm", kept)
        else:
            query, key, value, out = (f"{at}.attention.{name}_lin" for name in ("q", "k", "v", "out"))
            kept = expected.attention(query, key, value, out, kept, kept)
            expected.take(f"{at}.sa_layer_norm", kept)
            kept = expected.feedforward([f"{at}.ffn.lin1"], f"{at}.ffn.lin2", kept)
            expected.take(f"{at}.output_layer_norm", kept)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ladder: Any = PRUNED.apply_with_data(model, iter(batches(architecture))).get_submodule(architecture)
    assert model.training
    for index, side in enumerate(ladder.side_layers):
        assert_descends(side, expected.found, f"{prefix}.{index}")
    for name, parameter in ladder.backbone.named_parameters():
        assert torch.equal(parameter, before[f"{architecture}.{name}"])
        assert not parameter.requires_grad and parameter.grad is None


@pytest.mark.parametrize("architecture", ["t5", "t5-gated"])
def test_t5_by_hand(architecture: str) -> None:
    model = tiny(architecture, seed=4)
    expected = Expected(model, importance(model, architecture))
    first = top(expected.scores["shared.weight"].sum(0), WIDTH // REDUCTION)
    wi = ["wi_1", "wi_0"] if architecture == "t5-gated" else ["wi"]
    encoder: list[int] = []
    for stack, attentions in (
        ("encoder", ["SelfAttention"]),
        ("decoder", ["SelfAttention", "EncDecAttention"]),
    ):
        kept = first
        for index in range(LAYERS):
            for place, attention in enumerate(attentions):
                at = f"{stack}.block.{index}.layer.{place}"
                expected.take(f"{at}.layer_norm", kept)
                names = [f"{at}.{attention}.{letter}" for letter in "qkvo"]
                kept = expected.attention(*names, kept, kept if place == 0 else encoder)  # type: ignore[call-arg]
            at = f"{stack}.block.{index}.layer.{len(attentions)}"
            expected.take(f"{at}.layer_norm", kept)
            ups = [f"{at}.DenseReluDense.{name}" for name in wi]
            kept = expected.feedforward(ups, f"{at}.DenseReluDense.wo", kept)
        expected.take(f"{stack}.final_layer_norm", kept)
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        expected.found[table] = expected.weights[table].detach().clone()
        encoder = kept
    ladders: Any = PRUNED.apply_with_data(model, batches(architecture))
    for stack in ("encoder", "decoder"):
        ladder = ladders.get_submodule(stack)
        for index, side in enumerate(ladder.side_layers):
            assert_descends(side, expected.found, f"{stack}.block.{index}")
        assert_descends(ladder.final_norm, expected.found, f"{stack}.final_layer_norm")


def test_llama_keeps_pairs_and_shares_them_among_the_queries_of_a_key() -> None:
    model = tiny("llama-lm", seed=5)
    scores = importance(model, "llama-lm")
    columns = top(scores["model.embed_tokens.weight"].sum(0), WIDTH // REDUCTION)
    at = "model.layers.0.self_attn"
    query, key, value = (rows(scores, f"{at}.{name}_proj", columns) for name in "qkv")
    kept: list[list[int]] = []  # the pair that each of two keys keeps of its four
    for head in range(2):
        matters = []
        for low in range(4):
            pair = [8 * head + low, 8 * head + low + 4]
            both_queries = [8 * (2 * head + q) + low + half for q in range(2) for half in (0, 4)]
            matters.append(float(query[both_queries].sum() * 1e9 * key[pair].sum() * value[pair].sum()))
        best = matters.index(max(matters))
        kept.append([best, best + 4])
    queries = [8 * head + row for head in range(4) for row in kept[head // 2]]
    keys = [8 * head + row for head in range(2) for row in kept[head]]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    side: Any = PRUNED.apply_with_data(model, batches("llama-lm")).get_submodule("model.side_layers.0")
    attention = side.self_attn
    assert torch.equal(attention.q_proj.weight, weights[f"{at}.q_proj.weight"][queries][:, columns])
    assert torch.equal(attention.k_proj.weight, weights[f"{at}.k_proj.weight"][keys][:, columns])
    assert torch.equal(attention.v_proj.weight, weights[f"{at}.v_proj.weight"][keys][:, columns])
    assert torch.equal(side.input_layernorm.weight, weights["model.layers.0.input_layernorm.weight"][columns])


def test_a_side_head_descends_from_whole_heads_and_a_dropped_layer_leaves_no_trace() -> None:
    """Two side heads of four rows, each from two heads; the second layer's columns follow the embedding."""
    model = tiny("bert", seed=6)
    expected = Expected(model, importance(model, "bert"))
    columns = top(expected.scores["bert.embeddings.word_embeddings.weight"].sum(0), 8)
    at = "bert.encoder.layer.1.attention.self"
    names = [f"{at}.{name}" for name in ("query", "key", "value")]
    product = torch.stack([rows(expected.scores, name, columns) * 1e3 for name in names]).prod(0)
    kept = [*top(product[:16], 4), *(16 + row for row in top(product[16:], 4))]
    expected.take(names[0], kept, columns)
    method = LadderSideTuning(
        reduction=4, side_heads=2, backbone_layers=(1,), init="pruned", importance_examples=6
    )
    (side,) = method.apply_with_data(model, batches("bert")).bert.side_layers  # type: ignore[union-attr]
    query: Any = side.attention.self.query  # type: ignore[union-attr]
    assert torch.equal(query.weight, expected.found[f"{names[0]}.weight"])
    assert torch.equal(query.bias, expected.found[f"{names[0]}.bias"])


def test_it_asks_for_data_only_where_it_looks_at_some() -> None:
    assert isinstance(PRUNED, LearnsFromData)
    assert PRUNED.examples_needed() == 6
    assert LadderSideTuning(init="pruned").examples_needed() == 1024
    assert LadderSideTuning().examples_needed() == 0
    with pytest.raises(ValueError, match="at least one"):
        PRUNED.apply_with_data(tiny("bert"), [])


def test_applying_a_method_hands_the_batches_on() -> None:
    """The weights are the backbone's; without data they are new."""
    pruned = apply_method(PRUNED, tiny("bert"), batches("bert"))
    plain = PRUNED.apply(tiny("bert"))
    backbone = set(tiny("bert").state_dict()["bert.encoder.layer.0.output.dense.weight"].flatten().tolist())
    path = "bert.side_layers.0.output.dense.weight"
    assert set(pruned.model.get_parameter(path).flatten().tolist()) <= backbone
    assert not set(plain.get_parameter(path).flatten().tolist()) & backbone
    assert pruned.counts.trainable_backbone == sum(
        p.numel() for n, p in plain.named_parameters() if p.requires_grad and ".pooler" not in n
    ) - sum(p.numel() for p in plain.get_submodule("classifier").parameters())


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        (LlamaForCausalLM(LlamaConfig(
            vocab_size=8, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        )), 2),
        (T5ForConditionalGeneration(T5Config(
            vocab_size=8, d_model=48, d_ff=48, d_kv=12, num_layers=1, num_heads=4,
        )), 3),
    ],
    ids=["llama", "t5"],
)  # fmt: skip
def test_heads_that_cannot_descend_are_refused_before_anything_is_changed(
    model: PreTrainedModel, heads: int
) -> None:
    modules = list(model.modules())
    with pytest.raises(ValueError, match=f"side_heads={heads} with init='pruned': expected .* 4"):
        LadderSideTuning(reduction=4, side_heads=heads, init="pruned").apply_with_data(model, [])
    assert list(model.modules()) == modules
    assert all(p.requires_grad for p in model.parameters())
