"""Prompt tuning, prefix tuning and P-tuning v2: against peft, transformers' own cache, and formulas."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.prefix_tuning import PrefixTuning, PTuningV2
from peprof_methods.prompt_tuning import PromptTuning
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel, T5ForConditionalGeneration

from peprof.running.methods import enable_checkpointing
from peprof.training.geometries import known_config
from tests.methods.method_geometries import (
    EVERY_ARCHITECTURE,
    HEADS,
    POSITIONS,
    WIDTH,
    batch,
    gradients,
    scatter,
    tiny,
)
from tests.profiler.test_shares import F32, LAYERS, B, D, L, N, saved, share
from tests.profiler.test_shares import HEADS as BASE_HEADS

peft = pytest.importorskip("peft")

METHODS = {
    "prompt": PromptTuning(tokens=3),
    "prefix": PrefixTuning(tokens=3, hidden=8),
    "v2": PTuningV2(tokens=3),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
every_architecture = pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)


def assert_close(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-5)


def ours_of(method: Any, plain: PreTrainedModel) -> Any:
    return scatter(method.apply(copy.deepcopy(plain)), scale=0.3)


def with_head_of(ours: nn.Module, plain: PreTrainedModel) -> Any:
    """The plain model with the head that our method's model has."""
    values = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(values[name])
    return plain


# Prompt tuning


@pytest.mark.parametrize("architecture", ["t5", "t5-gated", "llama-lm"])
def test_a_prompt_equals_pefts(architecture: str) -> None:
    """Theirs keeps a decoder's results at the prompt's positions; the last of them predicts the input's first
    token. So their loss is counted over what ours, and any other method's, has: the rest.
    """
    plain, inputs = tiny(architecture, seed=1), batch(architecture)
    ours = ours_of(PromptTuning(tokens=3), plain)
    task = "CAUSAL_LM" if architecture == "llama-lm" else "SEQ_2_SEQ_LM"
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=3, num_transformer_submodules=1)
    theirs = peft.get_peft_model(plain, config)
    their_prompt = theirs.prompt_encoder["default"].embedding.weight
    (name,) = [name for name, p in ours.named_parameters() if p.requires_grad]
    with torch.no_grad():
        their_prompt.copy_(ours.get_parameter(name))
    found, expected = ours(**inputs), theirs(**inputs)
    wanted = expected.logits[:, 3:] if architecture == "llama-lm" else expected.logits
    assert found.logits.shape == wanted.shape
    assert_close(found.logits, wanted)
    labels = inputs["labels"]
    if architecture == "llama-lm":
        expected_loss = F.cross_entropy(wanted[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    else:
        expected_loss = expected.loss
    assert_close(found.loss, expected_loss)
    found.loss.backward()
    expected_loss.backward()
    assert_close(gradients(ours)[name], their_prompt.grad)
    assert their_prompt.grad.abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["distilbert", "bert", "roberta"])
def test_an_encoders_prompt_stands_behind_its_first_token(architecture: str) -> None:
    """As if there were words that are embedded as the prompt is: [CLS] prompt text."""
    plain, inputs = tiny(architecture, seed=2), batch(architecture)
    ours = ours_of(PromptTuning(tokens=3), plain)
    (prompt,) = [p for name, p in ours.named_parameters() if "prompt" in name]
    oracle = with_head_of(ours, plain)
    table = oracle.get_input_embeddings()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    words = torch.tensor([57, 58, 59]).expand(len(ids), -1)  # a vocabulary with the prompt in it
    ids = ids.where(ids < 57, 5)
    expected_ids = torch.cat([ids[:, :1], words, ids[:, 1:]], dim=1)
    with torch.no_grad():
        table.weight[57:60] = prompt
        expected = oracle(
            input_ids=expected_ids, attention_mask=torch.cat([torch.ones(len(ids), 3).long(), mask], dim=1)
        )
    assert_close(ours(input_ids=ids, attention_mask=mask).logits, expected.logits)


def test_token_types_and_positions_are_lengthened() -> None:
    model = ours_of(PromptTuning(tokens=3), tiny("bert", seed=3))
    inputs = batch("bert")
    expected = model(**inputs).logits
    zeros = torch.zeros_like(inputs["input_ids"])
    positions = torch.arange(9)[None].expand(4, -1)
    torch.testing.assert_close(model(**inputs, token_type_ids=zeros, position_ids=positions).logits, expected)
    found = model(**inputs, token_type_ids=zeros + 1).logits
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("architecture", "positions"), [("bert", POSITIONS), ("roberta", POSITIONS - 2)])
def test_more_than_the_positions_is_said_clearly(architecture: str, positions: int) -> None:
    model = PromptTuning(tokens=positions - 9).apply(tiny(architecture))
    assert model(**batch(architecture)).loss.isfinite()
    model = PromptTuning(tokens=positions - 8).apply(tiny(architecture))
    with pytest.raises(ValueError) as caught:
        model(**batch(architecture))
    assert str(caught.value) == (
        f"9 tokens and a prompt of {positions - 8} need {positions + 1} positions; the model has "
        f"{positions}: lower max_length or the prompt's tokens"
    )
    with pytest.raises(ValueError, match=f"tokens={positions}: expected less than the {positions} positions"):
        PromptTuning(tokens=positions).apply(tiny(architecture))


def test_a_prompt_starts_from_the_vocabulary_or_as_wide() -> None:
    plain = tiny("t5")
    table = plain.shared.weight.detach().clone()
    prompt = PromptTuning(tokens=40, init="vocabulary").apply(plain).encoder.prompt.embedding
    assert all((table == row).all(dim=1).any() for row in prompt)
    with torch.no_grad():
        plain = tiny("t5")
        plain.shared.weight.mul_(7)
    prompt = PromptTuning(tokens=40, init="random").apply(plain).encoder.prompt.embedding
    assert prompt.std().item() == pytest.approx(7 * table.std().item(), rel=0.1)


def test_hundred_tokens_of_t5_base_are_the_papers_share() -> None:
    with torch.device("meta"):
        model = PromptTuning(tokens=100).apply(T5ForConditionalGeneration(known_config("t5-base")))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 76_800
    assert round(100 * trained / sum(p.numel() for p in model.parameters()), 3) == 0.034


def test_what_a_prompt_saves_is_the_known_share() -> None:
    """All 84 positions in all layers, and where the prompt is. Known are 92 %."""
    t = L + 20
    m = B * t
    layer = 3 * m * D + 3 * BASE_HEADS * B * t * t + 2 * (m * D + 2 * m) + 4 * m * D + m * D
    rest = (m * D + 2 * m) + m * D + m * D + 3 * B * D + 2 * B + 1  # embeddings' norm and dropout, the head
    places = 8 * (B * 20 + B)
    assert saved(PromptTuning().apply).total_bytes == F32 * (LAYERS * layer + rest) + places
    assert share(PromptTuning().apply) == pytest.approx(92, abs=0.6)


def test_a_prompt_refuses_what_it_can_not_lengthen() -> None:
    model = PromptTuning(tokens=2).apply(tiny("bert"))
    with pytest.raises(ValueError, match="without input_ids; expected token ids"):
        model(inputs_embeds=torch.zeros(1, 4, WIDTH))
    with pytest.raises(ValueError, match=r"of 4 dimensions; expected \(batch, length\)"):
        model(input_ids=torch.ones(1, 4).long(), attention_mask=torch.ones(1, 1, 4, 4))


# Prefixes


def cache_of(ours: nn.Module, kind: str, layers: int, rows: int, heads: int) -> DynamicCache:
    cache = DynamicCache()
    modules = [m for name, m in ours.named_modules() if name.endswith(f"{kind}.prefix")]
    assert len(modules) == layers
    for index, module in enumerate(modules):
        key, value = (part.view(1, 3, heads, -1).transpose(1, 2) for part in module())
        cache.update(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1), index)
    return cache


@pytest.mark.parametrize("method", ["prefix", "v2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama", "llama-lm"])
def test_a_prefix_equals_a_cache_of_transformers(architecture: str, attention: str, method: str) -> None:
    plain, inputs = tiny(architecture, seed=6, attention=attention), batch(architecture)
    ours = ours_of(METHODS[method], plain)
    oracle = with_head_of(ours, plain)
    llama = architecture.startswith("llama")
    kind, heads = ("self_attn", HEADS // 2) if llama else ("attention.self", HEADS)
    cache = cache_of(ours, kind, 2, 4, heads)
    mask = torch.cat([torch.ones(4, 3).long(), inputs["attention_mask"]], dim=1)
    if llama:
        expected = oracle(**{**inputs, "attention_mask": mask}, past_key_values=cache)
    else:  # a classifier doesn't pass a cache on; positions are the text's own
        start = 2 if architecture == "roberta" else 0
        positions = torch.arange(start, start + 9)[None]
        base = getattr(oracle, architecture)
        output = base(inputs["input_ids"], mask, position_ids=positions, past_key_values=cache)
        state = output.pooler_output if architecture == "bert" else output.last_hidden_state
        logits = oracle.classifier(state)
        expected = type("", (), {"logits": logits, "loss": F.cross_entropy(logits, inputs["labels"])})
    found = ours(**inputs)
    if architecture == "llama-lm":  # padding's own results are of no interest
        real = inputs["attention_mask"].bool()
        assert_close(found.logits[real], expected.logits[real])
    else:
        assert_close(found.logits, expected.logits)
    found.loss.backward()
    ours_grown = {n: g.clone() for n, g in gradients(ours).items() if "prefix" in n}
    ours.zero_grad()
    expected.loss.backward()
    assert len(ours_grown) >= 4
    for name, gradient in ours_grown.items():
        assert_close(gradient, gradients(ours)[name])
        assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("architecture", ["t5", "t5-gated"])
def test_a_t5_decoders_prefixes_equal_a_cache_of_transformers(architecture: str) -> None:
    """Where relative positions cost nothing: a cache's own are counted, ours have none."""
    plain, inputs = tiny(architecture, seed=7), batch(architecture)
    with torch.no_grad():
        plain.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
    ours = ours_of(PTuningV2(tokens=3, encoder=False), plain)
    cache = EncoderDecoderCache(
        cache_of(ours, "SelfAttention", 2, 4, HEADS), cache_of(ours, "EncDecAttention", 2, 4, HEADS)
    )
    cache.is_updated = dict.fromkeys(cache.is_updated, False)
    encoded = plain.encoder(inputs["input_ids"], inputs["attention_mask"])
    mask = torch.cat([torch.ones(4, 3).long(), inputs["attention_mask"]], dim=1)
    expected = plain(
        encoder_outputs=encoded, attention_mask=mask, labels=inputs["labels"], past_key_values=cache
    )
    found = ours(**inputs)
    assert_close(found.logits, expected.logits)
    found.loss.backward()
    grown = {name: g.clone() for name, g in gradients(ours).items()}
    ours.zero_grad()
    expected.loss.backward()
    assert len(grown) == 8
    for name, gradient in grown.items():
        assert_close(gradient, gradients(ours)[name])


def test_a_llamas_prefixes_equal_pefts() -> None:
    plain, inputs = tiny("llama-lm", seed=8), batch("llama-lm")
    plain.config.num_key_value_heads = HEADS // 2
    ours = ours_of(PTuningV2(tokens=3), plain)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_attention_heads=HEADS // 2, token_dim=WIDTH // 2
    )
    theirs = peft.get_peft_model(plain, config)
    table = theirs.prompt_encoder["default"].embedding.weight  # a row: key, value of each layer
    prefixes = [layer.self_attn.prefix for layer in ours.model.layers]
    with torch.no_grad():
        table.copy_(torch.cat([part for p in prefixes for part in (p.key, p.value)], dim=1))
    found, expected = ours(**inputs), theirs(**inputs)
    real = inputs["attention_mask"].bool()
    assert_close(found.logits[real], expected.logits[real])
    found.loss.backward()
    expected.loss.backward()
    assert_close(torch.cat([part.grad for p in prefixes for part in (p.key, p.value)], dim=1), table.grad)


def test_the_projection_equals_pefts() -> None:
    plain, inputs = tiny("llama-lm", seed=9), batch("llama-lm")
    ours = ours_of(PrefixTuning(tokens=3, hidden=8), plain)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        num_attention_heads=HEADS // 2,
        token_dim=WIDTH // 2,
        encoder_hidden_size=8,
        prefix_projection=True,
    )
    theirs = peft.get_peft_model(plain, config)
    encoder = theirs.prompt_encoder["default"]
    # Their table is as wide as the keys, the paper's and ours as wide as the model.
    encoder.embedding = nn.Embedding(3, WIDTH)
    encoder.transform[0] = nn.Linear(WIDTH, 8)
    table, first, _ = ours.prefix["decoder"]
    projections = [layer.self_attn.prefix.projection for layer in ours.model.layers]
    pairs = [
        (encoder.embedding.weight, table.weight),
        *zip(encoder.transform[0].parameters(), first.parameters(), strict=True),
    ]
    with torch.no_grad():
        for their, our in pairs:
            their.copy_(our)
        encoder.transform[2].weight.copy_(torch.cat([p.weight for p in projections]))
        encoder.transform[2].bias.copy_(torch.cat([p.bias for p in projections]))
    found, expected = ours(**inputs), theirs(**inputs)
    assert_close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    for their, our in pairs:
        assert_close(our.grad, their.grad)
    assert_close(torch.cat([p.weight.grad for p in projections]), encoder.transform[2].weight.grad)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_distilberts_attention_by_formula(attention: str) -> None:
    model = ours_of(PTuningV2(tokens=3), tiny("distilbert", seed=10, attention=attention))
    layer = model.distilbert.transformer.layer[0].attention
    seen: dict[str, Any] = {}

    def listen(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.update(x=args[0], output=output[0])

    layer.register_forward_hook(listen, with_kwargs=True)
    inputs = batch("distilbert")
    model(**inputs)
    q, k, v = (linear(seen["x"]) for linear in (layer.q_lin, layer.k_lin, layer.v_lin))
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        results = []
        for head in range(HEADS):
            columns = slice(head * 8, head * 8 + 8)
            keys = torch.cat([layer.prefix.key[:, columns], k[row, :length, columns]])
            values = torch.cat([layer.prefix.value[:, columns], v[row, :length, columns]])
            weights = (q[row, :, columns] @ keys.mT / math.sqrt(8)).softmax(-1)
            results.append(weights @ values)
        assert_close(seen["output"][row], layer.out_lin(torch.cat(results, dim=1)))


def test_a_t5_encoders_prefix_has_no_position() -> None:
    model = ours_of(PTuningV2(tokens=3), tiny("t5", seed=11))
    layer = model.encoder.block[0].layer[0].SelfAttention
    seen: dict[str, Any] = {}
    layer.register_forward_hook(lambda m, args, output: seen.update(x=args[0], output=output[0]))
    inputs = batch("t5", lengths=(6, 6))
    model(**inputs)
    bias = layer.compute_bias(6, 6)[0]
    x = seen["x"][1]
    results = []
    for head in range(HEADS):
        columns = slice(head * 8, head * 8 + 8)
        keys = torch.cat([layer.prefix.key, layer.k(x)])[:, columns]
        values = torch.cat([layer.prefix.value, layer.v(x)])[:, columns]
        scores = layer.q(x)[:, columns] @ keys.mT
        scores = scores + torch.cat([torch.zeros(6, 3), bias[head]], dim=1)
        results.append(scores.softmax(-1) @ values)
    assert_close(seen["output"][1], layer.o(torch.cat(results, dim=1)))


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_eager_and_sdpa_agree_and_the_models_own_settings_stay(architecture: str) -> None:
    for method in METHODS.values():
        inputs = batch(architecture)
        logits = []
        for attention in ("eager", "sdpa"):
            plain = tiny(architecture, seed=12, attention=attention)
            config = plain.config.to_dict()
            torch.manual_seed(0)
            model = scatter(method.apply(plain), scale=0.3)
            assert model.config.to_dict() == config
            assert model.config._attn_implementation == attention
            real = inputs["attention_mask"].bool() if architecture == "llama-lm" else slice(None)
            logits.append(model(**inputs).logits[real])
        assert_close(*logits)


def test_attention_that_takes_no_prefix_is_refused() -> None:
    model = tiny("bert")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedModelError, match="flex_attention attention can't take a prefix"):
        PTuningV2().apply(model)
    assert all(p.requires_grad for p in model.parameters())
    model = PTuningV2().apply(tiny("llama-lm"))
    with pytest.raises(UnsupportedModelError, match="has a prefix already"):
        PrefixTuning().apply(model)


def trained(method: Any, architecture: str) -> int:
    plain = tiny(architecture)
    heads = {"bert": 32 * 32 + 32 + 32 * 2 + 2, "t5": 0, "llama-lm": 0}
    parameters = method.apply(plain).parameters()
    return sum(p.numel() for p in parameters if p.requires_grad) - heads[architecture]


@pytest.mark.parametrize(
    ("architecture", "attentions", "kinds", "keys"),
    [("bert", 2, 1, 32), ("t5", 6, 3, 32), ("llama-lm", 2, 1, 16)],
)
def test_counts_follow_the_formula(architecture: str, attentions: int, kinds: int, keys: int) -> None:
    assert trained(PTuningV2(tokens=5), architecture) == attentions * 5 * 2 * keys
    shared = 5 * 32 + 32 * 7 + 7
    projection = 7 * 2 * keys + 2 * keys
    assert trained(PrefixTuning(tokens=5, hidden=7), architecture) == kinds * shared + attentions * projection
    tokens = trained(PromptTuning(tokens=5), architecture)
    assert tokens == 5 * 32


def test_what_prefixes_save() -> None:
    """20 more keys and values in each layer; in the first, the queries need no gradient."""
    t = L + 20
    maps = 3 * BASE_HEADS * B * L * t
    feedforward = N * D + 2 * N + 4 * N * D + N * D + N * D + 2 * N
    head = N * D + 3 * B * D + 2 * B + 1
    attention = N * D + 2 * B * t * D + maps
    first = attention - B * t * D  # a query without gradient leaves the keys out
    expected = first + (LAYERS - 1) * attention + LAYERS * feedforward + head
    assert saved(PTuningV2().apply).total_bytes == F32 * expected


# Both


@every_method
@pytest.mark.parametrize("architecture", ["t5", "t5-gated", "llama", "llama-lm"])
def test_padding_on_the_left_changes_nothing(architecture: str, method: Any) -> None:
    """Where the plain model can take it: positions are relative, and no decoder reads the input again."""
    model = ours_of(method, tiny(architecture, seed=13)).eval()
    inputs = batch(architecture, lengths=(6, 6))
    left = dict(inputs)
    left["input_ids"] = F.pad(inputs["input_ids"], (4, 0), value=0)
    left["attention_mask"] = F.pad(inputs["attention_mask"], (4, 0), value=0)
    if architecture == "llama-lm":  # its loss would let padding predict the first token
        del inputs["labels"], left["labels"]
    expected, found = model(**inputs), model(**left)
    logits = found.logits[:, 4:] if architecture == "llama-lm" else found.logits
    assert_close(logits, expected.logits)


@every_method
@pytest.mark.parametrize("architecture", ["t5", "t5-gated", "llama-lm"])
def test_generation_with_a_cache_equals_generation_without(architecture: str, method: Any) -> None:
    """Step by step from the logits of the whole, which know nothing of a cache."""
    model = ours_of(method, tiny(architecture, seed=14)).eval()
    lengths = (5, 3)
    inputs = batch(architecture, lengths=lengths)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if architecture == "llama-lm":  # generation wants padding on the left
        ids = torch.stack([row.roll(5 - n) for row, n in zip(ids, lengths, strict=True)])
        mask = mask.flip(1)
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.no_grad():
        if architecture == "llama-lm":
            expected = ids
            for _ in range(4):
                whole = torch.cat([mask, torch.ones(2, expected.shape[1] - 5).long()], dim=1)
                last = model(input_ids=expected, attention_mask=whole).logits[:, -1]
                expected = torch.cat([expected, last.argmax(-1, keepdim=True)], dim=1)
        else:
            expected = torch.zeros(2, 1).long()
            for _ in range(4):
                last = model(input_ids=ids, attention_mask=mask, decoder_input_ids=expected).logits[:, -1]
                expected = torch.cat([expected, last.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found, expected)


@every_method
@every_architecture
def test_a_copy_has_hooks_and_values_of_its_own(architecture: str, method: Any) -> None:
    model, inputs = ours_of(method, tiny(architecture, seed=15)), batch(architecture)
    expected = model(**inputs).logits.detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "prefix" in name or "prompt" in name:
                parameter.mul_(3)
    torch.testing.assert_close(other(**inputs).logits, expected)
    assert (model(**inputs).logits - expected).abs().max() > 1e-4


@every_method
def test_two_passes_before_backward_add_up(method: Any) -> None:
    model = ours_of(method, tiny("llama-lm", seed=16))
    enable_checkpointing(model)
    one, two = batch("llama-lm", seed=1), batch("llama-lm", seed=2, lengths=(4, 6))

    def grown(*batches: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = [model(**inputs).loss for inputs in batches]
        torch.stack(losses).sum().backward()
        found = {name: gradient.clone() for name, gradient in gradients(model).items()}
        model.zero_grad()
        return found

    both, first, second = grown(one, two), grown(one), grown(two)
    for name, gradient in both.items():
        assert_close(gradient, first[name] + second[name])


@every_method
@every_architecture
def test_without_a_mask_all_is_real(architecture: str, method: Any) -> None:
    model = ours_of(method, tiny(architecture, seed=17))
    inputs = batch(architecture, lengths=(7, 7))
    expected = model(**inputs).logits
    del inputs["attention_mask"]
    assert_close(model(**inputs).logits, expected)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (PromptTuning, {"tokens": 0}, "tokens=0: expected at least 1"),
        (PromptTuning, {"init": "zeros"}, "init='zeros': expected random or vocabulary"),
        (PrefixTuning, {"tokens": 0}, "tokens=0: expected at least 1"),
        (PrefixTuning, {"hidden": 0}, "hidden=0: expected at least 1"),
        (PTuningV2, {"tokens": -1}, "tokens=-1: expected at least 1"),
    ],
)
def test_a_wrong_value_is_named(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        method(**options)
    assert str(caught.value) == message
