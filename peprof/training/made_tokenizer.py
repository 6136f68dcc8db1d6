"""A word-level tokenizer made from the data, for random weights of a known geometry.

Random weights know no language, so which id a word gets doesn't matter; how many tokens there are does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def make_tokenizer(texts: Iterable[str], config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """A tokenizer whose ids fit a model's vocabulary and whose special tokens lie where its config has them.

    Args:
        texts: what the vocabulary is counted from; the most frequent words are kept.
        config: gives the size of the vocabulary and the ids of padding, begin and end.
    """
    size = int(config.vocab_size)
    specials = _special_ids(config)
    taken = set(specials.values())
    free = (index for index in range(size) if index not in taken)
    vocabulary = dict(specials)
    words = _frequent_words(texts)
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
