"""Texts as what is read and learned at once: ids, labels, losses by hand, padding; and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    BartConfig,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
)

from peprof.devices import open_device
from peprof.errors import SuiteError
from peprof.suite.schema import ModelConfig
from peprof.training.backbone import check_model, load_backbone
from peprof.training.data import Split
from peprof.training.evaluation import evaluate
from peprof.training.language_modelling import LanguageModellingSplit

WORDS = ["<pad>", "<bos>", "<eos>", "a", "b", "c", "d", "e"]  # the ids are those places


def tokenizer(*, bos: bool = True, pad: bool = True, eos: bool = True) -> PreTrainedTokenizerBase:
    raw = Tokenizer(WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    raw.pre_tokenizer = WhitespaceSplit()
    if bos:
        raw.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    specials = {"pad_token": "<pad>"} if pad else {}
    specials |= {"eos_token": "<eos>"} if eos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", padding_side="left", **specials,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def encoded(*texts: tuple[str, ...], max_length: int = 8, **kind: bool) -> LanguageModellingSplit:
    return LanguageModellingSplit(Split(texts=texts, labels=()), tokenizer(**kind), max_length)


def test_a_text_is_read_and_learned_up_to_its_end() -> None:
    batch = encoded(("a b c",), ("d",)).batch([0, 1])
    assert batch.inputs["input_ids"].tolist() == [[1, 3, 4, 5, 2], [1, 6, 2, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.inputs["labels"].tolist() == [[-100, 3, 4, 5, 2], [-100, 6, 2, -100, -100]]
    assert set(batch.inputs) == {"input_ids", "attention_mask", "labels"}
    assert batch.real_tokens == 8


def test_of_a_pair_only_the_completion_is_learned() -> None:
    batch = encoded(("a b", "c d"), ("", "e")).batch([0, 1])
    assert batch.inputs["input_ids"].tolist() == [[1, 3, 4, 5, 6, 2], [1, 7, 2, 0, 0, 0]]
    assert batch.inputs["labels"].tolist() == [
        [-100, -100, -100, 5, 6, 2], [-100, 7, 2, -100, -100, -100],
    ]  # fmt: skip


def test_fixed_shapes_pad_texts_and_labels_alike() -> None:
    (batch,) = encoded(("a b", "c")).fixed_shape(1, 1, seed=0)
    assert batch.inputs["input_ids"].tolist() == [[1, 3, 4, 5, 2, 0, 0, 0]]
    assert batch.inputs["labels"].tolist() == [[-100, -100, -100, 5, 2, -100, -100, -100]]


@pytest.mark.parametrize(
    ("texts", "ids", "first"),
    [
        (("a b c d e",), [1, 3, 4, 5], 1),  # the end of a text goes
        (("a b c d", "e"), [1, 6, 7, 2], 2),  # the beginning of a prompt goes first
        (("a", "b c d e"), [1, 4, 5, 6], 1),  # then all of it, then the end of the completion
    ],
)
def test_what_is_too_long_keeps_something_to_be_learned(
    texts: tuple[str, ...], ids: list[int], first: int
) -> None:
    batch = encoded(texts, max_length=4).batch([0])
    assert batch.inputs["input_ids"].tolist() == [ids]
    assert batch.inputs["labels"].tolist() == [[-100] * first + ids[first:]]


def test_a_tokenizer_may_lack_a_begin_and_padding() -> None:
    batch = encoded(("a b", "c"), ("a", "b c d e"), max_length=4, bos=False, pad=False).batch([0, 1])
    # Something of the prompt stays: the first token of all can't be predicted.
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5, 2], [3, 4, 5, 6]]
    assert batch.inputs["labels"].tolist() == [[-100, -100, 5, 2], [-100, 4, 5, 6]]
    padded = encoded(("a b",), ("a",), bos=False, pad=False).batch([0, 1])
    assert padded.inputs["input_ids"].tolist() == [[3, 4, 2], [3, 2, 2]]
    assert padded.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded.inputs["labels"].tolist() == [[-100, 4, 2], [-100, 2, -100]]


def test_what_cannot_be_learned_is_named() -> None:
    with pytest.raises(SuiteError, match=r"model\.name: its tokenizer has no token for the end"):
        encoded(("a",), eos=False)
    with pytest.raises(SuiteError, match=r"data\.text: the example \(' ',\) has no token to be predicted"):
        encoded(("a",), (" ",), bos=False).batch([0])


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    geometry = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=False,
        initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(geometry)


EXAMPLES = (("a b", "c d"), ("e", "a"), ("", "b b b b b"), ("d c b a", "e"))


def by_hand(model: LlamaForCausalLM) -> tuple[list[float], list[int]]:
    """Each example alone, without padding: the sum of -log p of each completion's tokens and its end."""
    place = {word: index for index, word in enumerate(WORDS)}
    losses, counts = [], []
    for prompt, completion in EXAMPLES:
        before = [1, *(place[word] for word in prompt.split())]
        after = [*(place[word] for word in completion.split()), 2]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([before + after])).logits[0].double().log_softmax(-1)
        losses.append(sum(-float(log_p[len(before) - 1 + i, token]) for i, token in enumerate(after)))
        counts.append(len(after))
    return losses, counts


def test_the_training_loss_is_the_mean_over_what_is_learned() -> None:
    model = tiny_llama()
    losses, counts = by_hand(model)
    batch = encoded(*EXAMPLES).batch(range(4))
    assert float(model(**batch.inputs).loss.detach()) == pytest.approx(sum(losses) / sum(counts), rel=1e-5)
    assert int((batch.inputs["labels"] != -100).sum()) == sum(counts)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_an_evaluation_finds_each_examples_own_loss_whatever_it_is_padded_with(batch_size: int) -> None:
    model = tiny_llama()
    losses, counts = by_hand(model)
    score = evaluate(model, encoded(*EXAMPLES), open_device("cpu"), batch_size=batch_size)
    assert score.predictions.predictions == pytest.approx(tuple(losses), rel=1e-5)
    assert score.predictions.tokens == tuple(counts) and score.predictions.labels == ()
    assert score.loss == pytest.approx(sum(losses) / sum(counts), rel=1e-6)
    assert score.metrics == {"perplexity": pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-6)}
    assert (score.correct, score.total, score.exact_matches) == (None, 4, None)


def test_padding_gives_no_gradient() -> None:
    split = encoded(("a b", "c d"))
    gradients = []
    for fixed in (False, True):
        model = tiny_llama()
        model(**split.batch([0], pad_to_max_length=fixed).inputs).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for alone, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-6)


def test_a_known_geometry_is_a_decoder_that_collects_nothing() -> None:
    model = check_model(
        ModelConfig(name="meta-llama/Llama-3.2-1B", weights="random"),
        num_labels=0, max_length=8, source="s.toml", task="language-modelling",
    )  # fmt: skip
    assert type(model).__name__ == "LlamaForCausalLM" and model is not None
    # As published, the output layer tied to the embedding.
    assert sum(p.numel() for p in model.parameters()) == 1_235_814_400
    assert model.config.use_cache is False


def test_a_decoder_comes_from_a_directory_with_its_weights(tmp_path: Path) -> None:
    saved = tiny_llama()
    saved.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = load_backbone(
        ModelConfig(name=str(tmp_path)), num_labels=0, texts=lambda: (), source="s.toml",
        task="language-modelling",
    )  # fmt: skip
    assert isinstance(found.model, LlamaForCausalLM) and found.model.config.use_cache is False
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (BertConfig(), r"\(bert\) is no decoder that predicts each next token.* or data.task = 'classif"),
        (T5Config(), r"\(t5\) is no decoder .* or data.task = 'text-to-text'"),
        (BartConfig(), r"\(bart\) is no decoder .* or data.task = 'text-to-text'"),
    ],
)
def test_a_model_that_sees_what_follows_is_refused(tmp_path: Path, geometry: object, words: str) -> None:
    geometry.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(SuiteError, match=words):
        check_model(
            ModelConfig(name=str(tmp_path), weights="random"),
            num_labels=0, max_length=8, source="s.toml", task="language-modelling",
        )  # fmt: skip


def test_other_decoders_work_too(tmp_path: Path) -> None:
    GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16).save_pretrained(tmp_path)
    model = check_model(
        ModelConfig(name=str(tmp_path), weights="random"),
        num_labels=0, max_length=8, source="s.toml", task="language-modelling",
    )  # fmt: skip
    assert type(model).__name__ == "GPT2LMHeadModel"
