"""Language modelling: a decoder predicts each next token of a text, or of a completion after its prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from peprof.errors import Fault, SuiteError
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split
from peprof.training.encoded_cache import TokenCache, entry_key
from peprof.training.token_rows import TokenRows

IGNORED = -100
"""The label of what isn't to be predicted: padding, a prompt, and the first token of all."""

_LEARNED: Final = "learned"  # 1 where a token is to be predicted
_VERSION: Final = 1  # of how an example is put together: another one has other entries in the cache


class LanguageModellingSplit(EncodedSplit):
    """A split whose labels are the very tokens that are read, (batch, length).

    A text is what the tokenizer puts before a text, its tokens, and the end, which is to be predicted too. Of
    a pair the first column is the prompt, of which nothing is learned, and the second its completion; they
    are encoded apart, as when a model writes on. What is longer than ``max_length`` loses the end of its
    text; of a pair first the beginning of its prompt, then the end of its completion.

    Padding stands on the right, where no token that counts can look at it.

    Args:
        split: texts, or pairs of prompt and completion.
        tokenizer: a missing token for padding is replaced by the end's: padding is never looked at.
        max_length: tokens that an example is cut to.
        judged_by: the task's own metrics unless given.
        source: the suite's file, for messages.

    Raises:
        SuiteError: the tokenizer has no end; later, of an example that has no token to be predicted.
    """

    task = "language-modelling"

    def __init__(
        self,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        judged_by: Sequence[str] = (),
        source: str = "",
    ) -> None:
        self._end = tokenizer.eos_token_id
        if not isinstance(self._end, int):
            problem = "its tokenizer has no token for the end of a text"
            raise SuiteError(source, [Fault(key="model.name", problem=problem, expected="one with an end")])
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(split, tokenizer, max_length, judged_by=judged_by)
        self._padding = replace(self._padding, side="right")
        self._source = source

    def _encoded(self, texts: Sequence[tuple[str, ...]], *, keep: bool) -> TokenRows:
        if not keep:
            return self._joined(texts)
        plain = entry_key(list(zip(*texts, strict=True)), self._tokenizer, max_length=self._max_length)
        key = hashlib.sha256(f"{self.task} {_VERSION}: {plain}".encode()).hexdigest()[:32]
        return TokenCache.default().get(key, lambda: self._joined(texts))

    def _joined(self, texts: Sequence[tuple[str, ...]]) -> TokenRows:
        begin = _begin(self._tokenizer)
        columns = [
            self._tokenizer(list(column), add_special_tokens=False)["input_ids"]
            for column in zip(*texts, strict=True)
        ]
        ids: list[list[int]] = []
        learned: list[list[int]] = []
        for text, row in zip(texts, zip(*columns, strict=True), strict=True):
            read, first = _joined(begin, row, self._end, self._max_length)
            if first >= len(read):
                problem = f"the example {text!r} has no token to be predicted"
                fault = Fault(key="data.text", problem=problem, expected="at least one token after another")
                raise SuiteError(self._source, [fault])
            ids.append(read)
            learned.append([0] * first + [1] * (len(read) - first))
        mask = [[1] * len(row) for row in ids]
        return TokenRows.from_lists({"input_ids": ids, "attention_mask": mask, _LEARNED: learned})

    def _labels_of(
        self, rows: Sequence[int], inputs: dict[str, torch.Tensor], *, fixed: bool
    ) -> torch.Tensor:
        return inputs["input_ids"].masked_fill(inputs.pop(_LEARNED) == 0, IGNORED)


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer puts before a text by itself, as Llama's its begin."""
    whole = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    return whole[: next(starts, 0)]


def _joined(
    begin: Sequence[int], columns: Sequence[Sequence[int]], end: int, max_length: int
) -> tuple[list[int], int]:
    """What is read, and the first place in it that is to be predicted.

    Args:
        begin: stands before everything.
        columns: tokens of a text, or of a prompt and its completion.
        end: stands after everything.
        max_length: of what is read.
    """
    *prompts, text = columns
    prompt = list(prompts[0]) if prompts else []
    text = [*text, end]
    room = max(0, max_length - len(begin) - len(text))
    kept = prompt[len(prompt) - min(room, len(prompt)) :]
    if not begin and not kept:
        kept = prompt[-1:]  # something must be read before the completion's first token
    read = [*begin, *kept, *text][:max_length]
    return read, max(1, len(begin) + len(kept))


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The negative log-likelihood of each example's labels, summed, and how many there are.

    One example at a time: in float32 the logits of a whole batch would be the largest memory of an
    evaluation by far.

    Args:
        logits: (batch, length, vocabulary); those at a position are of the next one's token.
        labels: (batch, length), ``IGNORED`` where nothing is to be predicted.

    Returns:
        (batch,) in float64, and (batch,) counts.
    """
    losses = [
        cross_entropy(
            row[:-1].float(), wanted[1:], ignore_index=IGNORED, reduction="none"
        ).double().sum()
        for row, wanted in zip(logits, labels, strict=True)
    ]  # fmt: skip
    return torch.stack(losses), (labels[:, 1:] != IGNORED).sum(dim=1)
