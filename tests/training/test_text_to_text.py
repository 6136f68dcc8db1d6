"""T5 as a text-to-text task: what it reads and writes, how that is scored, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import (
    AutoTokenizer,
    BartConfig,
    BertConfig,
    LlamaConfig,
    PegasusConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from peprof.devices import open_device
from peprof.errors import SuiteError
from peprof.suite.schema import DataConfig, ModelConfig
from peprof.training.backbone import check_model, load_backbone, load_tokenizer
from peprof.training.data import Split, load_data
from peprof.training.evaluation import evaluate
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.step import ClassifierStep
from peprof.training.tasks import encode, tokenizer_texts
from peprof.training.text_to_text import Targets, TextToTextSplit, greedy, make_targets
from peprof.training.token_rows import TokenRows

WORDS = ("negative", "positive")
# The ids are those places: <pad> 0, </s> 1, <unk> 2, as T5 has them.
PIECES = ["<pad>", "</s>", "<unk>", "▁sst2", "▁sentence:", "▁good", "▁bad", "▁film", "▁negative", "▁positive"]
GEOMETRY = T5Config(decoder_start_token_id=0)


def hand_made_tokenizer() -> PreTrainedTokenizerBase:
    """A vocabulary written down here, so that expected ids can be literals."""
    from tokenizers.pre_tokenizers import Metaspace
    from tokenizers.processors import TemplateProcessing

    raw = Tokenizer(Unigram([(piece, -1.0) for piece in PIECES], unk_id=2, byte_fallback=False))
    raw.pre_tokenizer = Metaspace()
    raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def config(**changes: object) -> DataConfig:
    values = {"name": "peprof/reviews", "task": "text-to-text", "prefix": "sst2 sentence: ", "max_length": 8}
    return DataConfig.model_validate({**values, "verbalizers": WORDS, **changes})


def encoded(*texts: tuple[str, int], **changes: object) -> TextToTextSplit:
    split = Split(texts=tuple((text,) for text, _ in texts), labels=tuple(label for _, label in texts))
    found = encode(split, config(**changes), hand_made_tokenizer(), GEOMETRY, source="s.toml")
    assert isinstance(found, TextToTextSplit)
    return found


def test_the_prefix_is_read_the_word_and_its_end_are_written() -> None:
    batch = encoded(("good film", 1), ("bad", 0)).batch([0, 1])
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5, 7, 1], [3, 4, 6, 1, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.inputs["labels"].tolist() == [[9, 1], [8, 1]]
    assert batch.real_tokens == 9


def test_fixed_shapes_pad_texts_to_their_length_and_words_to_theirs() -> None:
    (batch,) = encoded(("good film", 1), max_target_length=5).fixed_shape(1, 1, seed=0)
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5, 7, 1, 0, 0, 0]]
    assert batch.inputs["labels"].tolist() == [[9, 1, -100, -100, -100]]


def test_a_long_text_is_cut_before_its_end() -> None:
    batch = encoded(("good good good good good good good good", 1)).batch([0])
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5, 5, 5, 5, 5, 1]]


def test_the_decoder_reads_padding_and_then_the_word() -> None:
    model = T5ForConditionalGeneration(tiny_config())
    labels = torch.tensor([[9, 1, -100]])
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == [[0, 9, 1]]


TARGETS = Targets(words=((8, 1), (9, 1)), start_id=0, pad_id=0, end_id=1, max_length=4)


def test_classes_are_told_by_first_tokens_whatever_else_is_likelier() -> None:
    logits = torch.zeros(3, 2, 10)
    logits[0, 0, 8], logits[1, 0, 9], logits[2, 0, 8] = 1.0, 2.0, -1.0
    logits[:, 0, 3] = 9.0  # the likeliest token of all is no class's
    logits[:, 1, 9] = 99.0  # and the second position doesn't count
    assert TARGETS.guesses(logits).tolist() == [0, 1, 1]
    assert TARGETS.classes(torch.tensor([[9, 1], [8, 1], [9, -100]])).tolist() == [1, 0, 1]


def test_only_a_whole_word_with_its_end_is_an_answer() -> None:
    written = [
        [8, 1, 0, 0],
        [9, 1, 0, 0],
        [9, 8, 1, 0],
        [9, 9, 9, 9],
        [1, 0, 0, 0],
        [5, 1, 0, 0],
        [9, 0, 0, 0],
    ]
    assert TARGETS.written_classes(torch.tensor(written)).tolist() == [0, 1, -1, -1, -1, -1, -1]


def test_greedy_writing_follows_the_likeliest_token_and_stops_at_the_end() -> None:
    after = {0: 8, 8: 1, 5: 9, 9: 5, 1: 7}  # what follows what was read last
    read: list[list[list[int]]] = []

    def next_logits(given: Tensor) -> Tensor:
        read.append(given.tolist())
        return one_hot(torch.tensor([after[row[-1]] for row in given.tolist()]), 10).float()

    first = one_hot(torch.tensor([8, 5, 1]), 10).float()
    read_ends = greedy(next_logits, first[[0, 2]], TARGETS)
    assert read_ends.tolist() == [[8, 1, 0, 0], [1, 0, 0, 0]]
    assert read == [[[0, 8], [0, 1]]], "both have ended: nothing more is asked"
    assert greedy(next_logits, first[[1]], TARGETS).tolist() == [[5, 9, 5, 9]], "it never ends"


class Scripted(nn.Module):
    """Answers by the first token of the text: two classes, a word too many, and nonsense."""

    ANSWERS: ClassVar = {3: [8, 1, 0], 4: [9, 1, 0], 5: [9, 8, 1], 6: [5, 1, 0]}

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **given: Tensor) -> SimpleNamespace:
        assert not self.training
        steps = given["decoder_input_ids"].shape[1] if labels is None else labels.shape[1]
        rows = [(self.ANSWERS[int(row[0])] + [0] * steps)[:steps] for row in input_ids]
        logits = one_hot(torch.tensor(rows), 10).float() * 8
        logits[..., 9] += 1  # so that class 1 is the guess where neither is written
        return SimpleNamespace(logits=logits, loss=torch.tensor(0.5))


def test_an_evaluation_counts_right_classes_exact_words_and_invalid_answers() -> None:
    split = encoded(("x", 0), prefix="")
    rows = {"input_ids": [[3], [4], [5], [6], [4]], "attention_mask": [[1]] * 5}
    split._texts, split._labels = (("x",),) * 5, (0, 1, 1, 1, 0)
    split._rows = TokenRows.from_lists(rows)
    score = evaluate(Scripted(), split, open_device("cpu"), batch_size=2)
    assert (score.correct, score.total) == (4, 5), "all but the last"
    assert score.exact_matches == 2, "the first two"
    assert score.invalid == 2, "a word too many, and another word"
    assert score.loss == pytest.approx(0.5)


def tiny_config(**changes: object) -> T5Config:
    values = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5Config(**{**values, "dropout_rate": 0.0, "decoder_start_token_id": 0, **changes})


def test_a_tiny_t5_learns_twenty_examples_by_heart() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"w{index}" for index in range(20)]
    labels = torch.randint(0, 2, (20,), generator=generator).tolist()
    split = Split(texts=tuple((name,) for name in names), labels=tuple(labels))
    data = config()
    tokenizer = make_tokenizer(tokenizer_texts(split, data), tiny_config(), words=WORDS)
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(tiny_config())
    train = encode(split, data, tokenizer, model.config, source="s.toml")
    device = open_device("cpu")
    before = evaluate(model, train, device, batch_size=7)
    assert before.exact_matches is not None and before.exact_matches < 20
    step = ClassifierStep(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    for epoch in range(60):
        for batch in train.epoch(10, seed=epoch):
            step(batch)
    after = evaluate(model, train, device, batch_size=7)
    assert (after.correct, after.exact_matches, after.invalid) == (20, 20, 0)
    assert after.loss < 0.1 < before.loss
    # transformers' own generation agrees with the loop.
    batch = train.batch(range(20))
    model.eval()
    generated = model.generate(
        input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"],
        max_new_tokens=4, do_sample=False, use_cache=False,
    )  # fmt: skip
    assert [tokenizer.decode(row, skip_special_tokens=True) for row in generated] == [
        WORDS[y] for y in labels
    ]


def test_padding_changes_no_score() -> None:
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(tiny_config())
    texts = [("good film", 1), ("bad", 0), ("good good bad film", 1)]
    split = encoded(*texts)
    device = open_device("cpu")
    alone, together = (evaluate(model, split, device, batch_size=size) for size in (1, 3))
    assert (alone.correct, alone.exact_matches, alone.invalid) == (
        together.correct, together.exact_matches, together.invalid,
    )  # fmt: skip
    assert alone.loss == pytest.approx(together.loss, abs=1e-5)


def test_a_made_t5_tokenizer_is_laid_out_as_t5s_own(tmp_path: Path) -> None:
    texts = ["a good film", "a bad film", "sst2 sentence: "]
    made = make_tokenizer(texts, known_config("t5-base"), words=WORDS)
    assert (made.pad_token_id, made.eos_token_id, made.unk_token_id) == (0, 1, 2)
    made.save_pretrained(tmp_path)
    tiny_config().save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer("sst2 sentence: a good film")["input_ids"]
        expected = ["▁sst2", "▁sentence:", "▁a", "▁good", "▁film", "</s>"]
        assert tokenizer.convert_ids_to_tokens(ids) == expected
        assert tokenizer.decode(ids, skip_special_tokens=True) == "sst2 sentence: a good film"
        assert [tokenizer(word)["input_ids"] for word in WORDS] == [[3, 1], [4, 1]]
        strange = tokenizer.convert_ids_to_tokens(tokenizer("mad")["input_ids"])
        assert strange == ["▁", "m", "a", "d", "</s>"], "a new word is its characters"
        assert 2 in tokenizer("Ω")["input_ids"], "a new character is unknown"


def test_a_made_t5_tokenizer_keeps_to_a_small_vocabulary() -> None:
    letters = " ".join(chr(code) * 3 for code in range(0x4E00, 0x4E00 + 200))
    tokenizer = make_tokenizer([letters], tiny_config(vocab_size=16), words=WORDS)
    assert max(tokenizer(f"{letters} negative positive")["input_ids"]) < 16
    assert [tokenizer(word)["input_ids"] for word in WORDS] == [[3, 1], [4, 1]]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "faults"),
    [
        (
            ("negative film", "positive"),
            ["data.verbalizers: 'negative film' is 2 tokens of this model (▁negative ▁film)"],
        ),
        (("negative", "awful"), ["data.verbalizers: this model has no token for 'awful'"]),
        (("bad", "positive", " bad"), None),
        (("negative", "▁negative"), ["data.verbalizers: 'negative' and '▁negative' are the same token"]),
    ],
)
def test_words_that_cannot_be_told_apart_are_named(words: tuple[str, ...], faults: list[str] | None) -> None:
    if faults is None:
        with pytest.raises(ValueError, match="one word for each class, all different"):
            config(verbalizers=words)
        return
    with pytest.raises(SuiteError) as error:
        make_targets(config(verbalizers=words), hand_made_tokenizer(), GEOMETRY, source="mine.toml")
    assert error.value.message.startswith("mine.toml: ")
    for fault in faults:
        assert fault in error.value.message
    assert "expected words of one token each, all different" in error.value.message


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = hand_made_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(SuiteError, match=r"model\.name: its tokenizer has no token for the end of a text"):
        make_targets(config(), tokenizer, GEOMETRY, source="s.toml")


def test_each_class_needs_a_word() -> None:
    with pytest.raises(SuiteError, match=r"data\.verbalizers: 3 words for 2 classes; expected one word for"):
        load_data(config(verbalizers=("a", "b", "c"), train_rows=8, validation_rows=4), source="s.toml")


SMALL = {"vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
LLAMA = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("geometry", "task", "words"),
    [
        (
            BertConfig(vocab_size=64),
            "text-to-text",
            "(bert) is no encoder-decoder that writes text; expected",
        ),
        (LlamaConfig(vocab_size=64, **LLAMA), "text-to-text", "(llama) is no encoder-decoder"),
        (
            PegasusConfig(**SMALL),
            "classification",
            "(pegasus) writes text and has no classifier; expected data",
        ),
    ],
)
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_model_of_another_kind_is_refused(
    tmp_path: Path, geometry: object, task: str, words: str, weights: str
) -> None:
    geometry.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    model = ModelConfig(name=str(tmp_path), weights=weights)  # type: ignore[arg-type]
    with pytest.raises(SuiteError) as load_error:
        load_backbone(model, num_labels=2, texts=lambda: (), source="s.toml", task=task)  # type: ignore[arg-type]
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SuiteError) as check_error:
        # No weights are looked at: a model that can't do the task isn't worth that.
        check_model(model, num_labels=2, max_length=8, source="s.toml", task=task)  # type: ignore[arg-type]
    for error in (load_error, check_error):
        assert "model.name: " in error.value.message and words in error.value.message


def test_the_embedded_model_writes_nothing() -> None:
    with pytest.raises(SuiteError, match=r"'peprof/tiny' \(bert\) is no encoder-decoder.*such as t5-base"):
        check_model(
            ModelConfig(name="peprof/tiny"), num_labels=2, max_length=8, source="s.toml", task="text-to-text"
        )


@pytest.mark.parametrize("name", ["t5-base", "google/t5-v1_1-base"])
def test_t5_can_be_both(name: str) -> None:
    model = ModelConfig(name=name, weights="random")
    kinds = {}
    for task in ("classification", "text-to-text"):
        found = check_model(model, num_labels=2, max_length=8, source="s.toml", task=task)  # type: ignore[arg-type]
        kinds[task] = type(found).__name__
    assert kinds == {
        "classification": "T5ForSequenceClassification", "text-to-text": "T5ForConditionalGeneration",
    }  # fmt: skip


def test_random_t5_starts_from_padding_and_collects_no_keys_and_values() -> None:
    known = known_config("t5-small")
    assert (known.pad_token_id, known.eos_token_id, known.decoder_start_token_id) == (0, 1, 0)
    model = check_model(
        ModelConfig(name="t5-small", weights="random"),
        num_labels=2, max_length=8, source="s.toml", task="text-to-text",
    )  # fmt: skip
    ids = torch.zeros(1, 3, dtype=torch.long, device="meta")
    assert model is not None and model(input_ids=ids, labels=ids).past_key_values is None
    # As the authors' checkpoint has: 60,506,624, the output layer tied to the embedding.
    assert sum(p.numel() for p in model.parameters()) == 60_506_624


def test_another_encoder_decoder_works_too(tmp_path: Path) -> None:
    BartConfig(**SMALL, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
               decoder_ffn_dim=16).save_pretrained(tmp_path)  # fmt: skip
    model = ModelConfig(name=str(tmp_path), weights="random")
    tokenizer, geometry = load_tokenizer(
        model, texts=lambda: ["a film"], words=WORDS, source="s.toml", task="text-to-text"
    )
    targets = make_targets(config(), tokenizer, geometry, source="s.toml")
    assert targets.start_id == targets.end_id == 2 and targets.pad_id == 1, "as BART's decoder starts"
    assert len(set(targets.first_ids)) == 2
