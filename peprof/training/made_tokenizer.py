"""A tokenizer made from the data, for random weights of a known geometry: word-level, for T5 unigram.

Random weights know no language, so which id a word gets doesn't matter; how many tokens there are does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import Unigram, WordLevel
from tokenizers.normalizers import NFKC, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Metaspace
from tokenizers.processors import TemplateProcessing
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SPACE = "▁"  # how SentencePiece writes the space before a word
_CHARACTER_SCORE = -100.0  # a log-probability below that of any word: whole words win over their characters


def make_tokenizer(
    texts: Iterable[str], config: PretrainedConfig, *, words: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """A tokenizer whose ids fit a model's vocabulary and whose special tokens lie where its config has them.

    Args:
        texts: what the vocabulary is counted from; the most frequent words are kept.
        config: gives the architecture, the size of the vocabulary and the ids of padding, begin and end.
        words: that are one token each whatever the texts are, if the vocabulary has room.
    """
    if config.model_type in ("t5", "mt5", "umt5") and (config.pad_token_id, config.eos_token_id) == (0, 1):
        return _make_unigram(texts, config, words)
    return _make_word_level(texts, config, words)


def _make_unigram(
    texts: Iterable[str], config: PretrainedConfig, words: Sequence[str]
) -> PreTrainedTokenizerBase:
    """As T5's own (Kudo 2018, arXiv:1804.10959): words carry their space, the end is appended.

    ``<pad>`` is 0, ``</s>`` 1, ``<unk>`` 2. A word's probability is its frequency; a word that isn't in the
    vocabulary is its characters. The library's trainer isn't used: it takes seconds in each run, and what it
    finds may depend on the number of its threads.
    """
    size = int(config.vocab_size)
    counts: Counter[str] = Counter()
    splitter = Metaspace(replacement=_SPACE, prepend_scheme="always")
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(NFKC().normalize_str(text)))
    total = sum(counts.values()) or 1
    pieces: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0}
    wanted = [_SPACE + NFKC().normalize_str(word.strip()) for word in words]
    pieces |= {piece: math.log(max(counts[piece], 1) / total) for piece in wanted}
    characters = sorted({character for piece in counts for character in piece})
    # A vocabulary that is too small for words has no room for rare characters either.
    pieces |= dict.fromkeys(characters[: size // 2], _CHARACTER_SCORE)
    for piece in sorted(counts, key=lambda piece: (-counts[piece], piece)):
        pieces.setdefault(piece, math.log(counts[piece] / total))
    raw = Tokenizer(Unigram(list(pieces.items())[:size], unk_id=2, byte_fallback=False))
    raw.normalizer = NFKC()
    raw.pre_tokenizer = splitter
    raw.decoder = MetaspaceDecoder(replacement=_SPACE, prepend_scheme="always")
    raw.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _make_word_level(
    texts: Iterable[str], config: PretrainedConfig, first_words: Sequence[str]
) -> PreTrainedTokenizerBase:
    size = int(config.vocab_size)
    specials = _special_ids(config)
    taken = set(specials.values())
    free = (index for index in range(size) if index not in taken)
    vocabulary = dict(specials)
    words = dict.fromkeys([*_frequent_words(first_words), *_frequent_words(texts)])
    for word, index in zip(words, free, strict=False):
        vocabulary[word] = index
    raw = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer = BertNormalizer()
    raw.pre_tokenizer = BertPreTokenizer()
    raw.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> $B <eos>",
        special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        cls_token="<bos>",
        sep_token="<eos>",
        model_input_names=["input_ids", "attention_mask"],
    )


def _special_ids(config: PretrainedConfig) -> dict[str, int]:
    """``<pad>``, ``<bos>``, ``<eos>``, ``<unk>`` -> the config's ids, or free ones near the start."""
    ids: dict[str, int] = {}
    for token, name in (("<pad>", "pad_token_id"), ("<bos>", "bos_token_id"), ("<eos>", "eos_token_id")):
        value = getattr(config, name, None)
        if isinstance(value, int) and 0 <= value < config.vocab_size and value not in ids.values():
            ids[token] = value
    for token in ("<pad>", "<bos>", "<eos>", "<unk>"):
        if token not in ids:
            ids[token] = next(index for index in range(config.vocab_size) if index not in ids.values())
    return ids


def _frequent_words(texts: Iterable[str]) -> list[str]:
    normalize, split = BertNormalizer(), BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(normalize.normalize_str(text)))
    # Ties are broken by the word, not by the order of the data: ids stay the same when rows are shuffled.
    return sorted(counts, key=lambda word: (-counts[word], word))
