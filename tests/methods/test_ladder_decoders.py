"""The ladders of T5 and of Llama-like decoders, against transformers' own narrow models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.lst import LadderSideTuning
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen2Model,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
)

from tests.methods.method_geometries import FEEDFORWARD_WIDTH, HEADS, LAYERS, WIDTH, batch, scatter, tiny
from tests.methods.test_ladder import BornInside

T5S = ("t5", "t5-gated", "t5-classifier")
DECODERS = ("llama", "llama-lm", "mistral-lm", "qwen2")
SIDE = WIDTH // 4


def build(architecture: str, **options: Any) -> PreTrainedModel:
    if architecture in ("mistral-lm", "qwen2"):
        torch.manual_seed(options.get("seed", 0))
        common = {
            "vocab_size": 61, "hidden_size": WIDTH, "intermediate_size": FEEDFORWARD_WIDTH,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
            "max_position_embeddings": 24, "initializer_range": 0.2, "pad_token_id": 0,
            "attn_implementation": options.get("attention", "sdpa"),
        }  # fmt: skip
        if architecture == "mistral-lm":
            return MistralForCausalLM(MistralConfig(**common, sliding_window=4)).train()
        qwen = Qwen2Config(**common, use_sliding_window=True, sliding_window=3, max_window_layers=1)
        assert qwen.layer_types == ["full_attention", "sliding_attention"]
        return Qwen2ForSequenceClassification(qwen).train()
    return tiny(architecture, **options)


def inputs_of(architecture: str) -> dict[str, Tensor]:
    return batch({"mistral-lm": "llama-lm", "qwen2": "llama"}.get(architecture, architecture))


def stack_of(model: nn.Module, name: str) -> Any:
    path = name if hasattr(model, name) else f"transformer.{name}"
    return model.get_submodule(path)


def all_from_the_side(ladder: Any) -> None:
    """Close every gate to the backbone: the side network then is a narrow model of its own."""
    with torch.no_grad():
        ladder.fusion.alpha.fill_(10.0)
    assert bool((torch.sigmoid(ladder.fusion.alpha / 0.1) == 1).all())


def embedded(layers: Any, run: Any) -> Tensor:
    """What goes into the first of the layers."""
    found: list[Tensor] = []
    handle = layers[0].register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return found[0]


def close(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side_heads", [None, 2])
@pytest.mark.parametrize("architecture", T5S)
def test_the_side_network_of_t5_is_a_narrow_t5(
    architecture: str, side_heads: int | None, attention: str
) -> None:
    """Position biases, masks, attention to the side encoder, norms, head: all as in a T5 of d / 4."""
    plain, inputs = tiny(architecture, seed=50, attention=attention), inputs_of(architecture)
    head = copy.deepcopy(plain)  # its head is called by itself below
    method = LadderSideTuning(reduction=4, side_heads=side_heads)
    model = scatter(method.apply(plain), scale=0.3)
    heads = side_heads or HEADS
    gated = architecture == "t5-gated"
    narrow = T5Model(
        T5Config(
            vocab_size=7, d_model=SIDE, d_kv=SIDE // heads, d_ff=FEEDFORWARD_WIDTH // 4, num_layers=LAYERS,
            num_heads=heads, relative_attention_num_buckets=8, relative_attention_max_distance=16,
            dropout_rate=0.0, feed_forward_proj="gated-gelu" if gated else "relu", use_cache=False,
            decoder_start_token_id=0,
        )
    )  # fmt: skip
    embeddings = {}
    for name in ("encoder", "decoder"):
        ladder, own = stack_of(model, name), getattr(narrow, name)
        all_from_the_side(ladder)
        own.block.load_state_dict(ladder.side_layers.state_dict())
        own.final_layer_norm.load_state_dict(ladder.final_norm.state_dict())
        wide = embedded(ladder.backbone.block, lambda: model(**inputs))
        embeddings[name] = F.linear(wide, ladder.down_first.weight, ladder.down_first.bias)
    side = narrow(
        inputs_embeds=embeddings["encoder"],
        decoder_inputs_embeds=embeddings["decoder"],
        attention_mask=inputs["attention_mask"],
    ).last_hidden_state
    up = stack_of(model, "decoder").up
    hidden = F.linear(side, up.weight, up.bias)
    if architecture == "t5-classifier":
        at_end = hidden[inputs["input_ids"] == 1]
        weights = dict(model.named_parameters())
        for part in ("dense", "out_proj"):
            at_end = F.linear(
                at_end,
                weights[f"classification_head.{part}.weight"],
                weights[f"classification_head.{part}.bias"],
            )
            at_end = torch.tanh(at_end) if part == "dense" else at_end
        expected = at_end
    else:
        scale = 1.0 if gated else WIDTH**-0.5  # v1.1 doesn't tie its head
        expected = scale * hidden @ head.lm_head.weight.detach().T
    close(model(**inputs).logits, expected)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_side_block_of_t5_gets_both_streams(stack: str) -> None:
    plain, inputs = tiny("t5", seed=51), batch("t5")
    made: list[Tensor] = []
    for block in getattr(plain, stack).block:
        block.register_forward_hook(lambda *call: made.append(call[-1][0]))
    model = scatter(LadderSideTuning(reduction=4).apply(plain), scale=0.3)
    ladder = stack_of(model, stack)
    x: list[Tensor] = []
    s: list[Tensor] = [embedded(ladder.backbone.block, lambda: model(**inputs)) @ ladder.down_first.weight.T]
    s[0] = s[0] + ladder.down_first.bias
    for layer in ladder.side_layers:
        layer.register_forward_pre_hook(lambda _, args: x.append(args[0]))
        layer.register_forward_hook(lambda *call: s.append(call[-1][0]))
    made.clear()
    model(**inputs)
    for index in range(LAYERS):
        mu = torch.sigmoid(ladder.fusion.alpha[index] / 0.1)
        down = F.linear(made[index], ladder.down[index].weight, ladder.down[index].bias)
        close(x[index], mu * s[index] + (1 - mu) * down)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side_heads", [None, 2, 1])
@pytest.mark.parametrize("architecture", DECODERS)
def test_the_side_network_of_a_decoder_is_a_narrow_one(
    architecture: str, side_heads: int | None, attention: str
) -> None:
    """Rotary embeddings of the narrow heads, shared keys, causal and sliding masks, the final norm."""
    plain, inputs = build(architecture, seed=52, attention=attention), inputs_of(architecture)
    model: Any = scatter(LadderSideTuning(reduction=4, side_heads=side_heads).apply(plain), scale=0.3)
    ladder = model.model
    all_from_the_side(ladder)
    heads = side_heads or HEADS
    common: dict[str, Any] = {
        "vocab_size": 7, "hidden_size": SIDE, "intermediate_size": FEEDFORWARD_WIDTH // 4,
        "num_hidden_layers": LAYERS, "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 24, "use_cache": False, "attn_implementation": attention,
        "pad_token_id": 0,
    }  # fmt: skip
    narrow: Any
    if architecture == "mistral-lm":
        narrow = MistralModel(MistralConfig(**common, sliding_window=4))
    elif architecture == "qwen2":
        narrow = Qwen2Model(
            Qwen2Config(**common, use_sliding_window=True, sliding_window=3, max_window_layers=1)
        )
    else:
        narrow = LlamaModel(LlamaConfig(**common))
    narrow.layers.load_state_dict(ladder.side_layers.state_dict())
    narrow.norm.load_state_dict(ladder.final_norm.state_dict())
    wide = embedded(ladder.backbone.layers, lambda: model(**inputs))
    first = F.linear(wide, ladder.down_first.weight, ladder.down_first.bias)
    side = narrow(inputs_embeds=first, attention_mask=inputs["attention_mask"]).last_hidden_state
    hidden = F.linear(side, ladder.up.weight, ladder.up.bias)
    found = model(**inputs).logits
    if architecture.endswith("lm"):
        close(found, hidden @ model.lm_head.weight.T)
    else:
        last = inputs["attention_mask"].sum(1) - 1
        close(found, hidden[torch.arange(4), last] @ model.score.weight.T)


def test_t5_base_has_the_published_number_of_parameters() -> None:
    """3,878,712 is 1.740 % of 222,903,552: Table 1's 1.74 %, with nine side blocks in encoder and decoder."""
    config = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128)
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    whole = sum(p.numel() for p in model.parameters())
    LadderSideTuning(backbone_layers=(1, 2, 3, 5, 6, 7, 9, 10, 11)).apply(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    d, f, wide = 96, 384, 768
    encoder_block, decoder_block = 4 * d * d + 2 * d * f + 2 * d, 8 * d * d + 2 * d * f + 3 * d
    downs, up = 20 * (wide * d + d), d * wide + wide
    gates, norms, position_biases = 2 * 12, 2 * d, 2 * 32 * 12
    by_hand = 9 * (encoder_block + decoder_block) + downs + up + gates + norms + position_biases
    assert trained == by_hand == 3_878_712
    assert (whole, round(100 * trained / whole, 3)) == (222_903_552, 1.740)


@pytest.mark.parametrize("architecture", ["t5", "t5-gated", "llama-lm"])
def test_greedy_generation_is_the_argmax_of_one_pass_over_what_it_generated(architecture: str) -> None:
    model: Any = scatter(LadderSideTuning(reduction=4).apply(tiny(architecture, seed=53)), scale=0.3).eval()
    inputs = batch(architecture, lengths=(6, 6, 6))
    asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    made = model.generate(**asked, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    with torch.no_grad():
        if architecture == "llama-lm":
            logits = model(made[:, :-1]).logits[:, 5:]
        else:
            logits = model(**asked, decoder_input_ids=made[:, :-1]).logits
    logits[..., 1] = float("-inf")  # as at least four tokens were asked for, none may end it
    assert torch.equal(made[:, -4:], logits.argmax(-1))
    assert len(made.unique(dim=0)) > 1


def test_a_cache_and_beams_are_refused_with_what_to_do() -> None:
    model: Any = LadderSideTuning(reduction=4).apply(tiny("t5")).eval()
    asked = {name: batch("t5")[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(**asked, max_new_tokens=2, use_cache=True)
    with pytest.raises(ValueError, match="num_beams=1"):
        model.generate(**asked, max_new_tokens=2, num_beams=2)
    hidden = model(**batch("t5")).encoder_last_hidden_state
    assert model(encoder_outputs=(hidden,), labels=batch("t5")["labels"]).loss.isfinite()
    with pytest.raises(ValueError, match="side encoder"):
        model(encoder_outputs=(hidden.clone(),), labels=batch("t5")["labels"])


@pytest.mark.parametrize("reduction", [4, 2])
def test_a_side_head_of_odd_width_cannot_be_turned(reduction: int) -> None:
    with pytest.raises(ValueError, match=r"a side head is 1 wide.*expected an even width"):
        LadderSideTuning(reduction=8).apply(tiny("llama"))
    LadderSideTuning(reduction=8, side_heads=2).apply(tiny("llama"))
    with pytest.raises(ValueError, match="expected a divisor of the side width"):
        LadderSideTuning(reduction=reduction, side_heads=3).apply(tiny("llama"))


def test_rotary_frequencies_stay_exact_in_bfloat16() -> None:
    model: Any = LadderSideTuning(reduction=4).apply(tiny("llama").to(torch.bfloat16))
    exact: Any = LadderSideTuning(reduction=4).apply(tiny("llama"))
    assert torch.equal(model.model.rotary.inv_freq, exact.model.rotary.inv_freq)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["t5", "t5-gated", "t5-classifier", "llama", "llama-lm"])
def test_nothing_of_the_backbone_is_saved_but_what_feeds_the_ladder(
    architecture: str, attention: str
) -> None:
    """Each stack's embeddings and the output of each layer that has a side layer: here of the second only."""
    method = LadderSideTuning(reduction=4, side_heads=1, dropout=0.1, backbone_layers=(1,))
    model = method.apply(tiny(architecture, dropout=0.1, attention=attention))
    t5 = architecture.startswith("t5")
    ladders = [stack_of(model, name) for name in ("encoder", "decoder")] if t5 else [model.model]
    born, states = BornInside(), []

    def watch(backbone: nn.Module) -> None:
        layers: Any = backbone.get_submodule("block" if t5 else "layers")
        forward = backbone.forward

        def watched(*args: Any, **kwargs: Any) -> Any:
            born.inside = True
            output = forward(*args, **kwargs)
            born.inside = False
            return output

        def outside(module: nn.Module) -> None:
            inner = module.forward

            def own(*args: Any, **kwargs: Any) -> Any:
                born.inside = False
                output = inner(*args, **kwargs)
                born.inside = True
                return output

            module.forward = own  # type: ignore[method-assign]

        backbone.forward = watched  # type: ignore[method-assign]
        layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))
        layers[1].register_forward_hook(
            lambda *call: states.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])
        )
        for down in (ladder.down_first, *ladder.down):
            outside(down)  # is called by hooks, while the backbone runs

    for ladder in ladders:
        watch(ladder.backbone)
    saved: list[Tensor] = []
    with born, torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = model(**batch(architecture)).loss
    pointers = {t.untyped_storage().data_ptr() for t in saved}
    allowed = {t.untyped_storage().data_ptr() for t in states}
    assert len(allowed) == 2 * len(ladders)
    assert len(born.alive) > 20 * len(ladders)  # the watch saw the backbone's inside
    masks = {t.untyped_storage().data_ptr() for t in saved if t.dim() == 4 and t.shape[1] == 1}  # are shared
    assert (pointers & born.alive.keys()) - masks == allowed
    frozen = {p.untyped_storage().data_ptr() for ladder in ladders for p in ladder.backbone.parameters()}
    tied = {p.data_ptr() for n, p in model.named_parameters() if "shared" in n or "embed_tokens" in n}
    assert not (pointers & frozen) - tied
    loss.backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in model.parameters())
