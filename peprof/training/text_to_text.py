"""Classification as writing: each class is a word, and an encoder-decoder writes it (Raffel et al. 2020).

T5 (arXiv:1910.10683) reads ``sst2 sentence: <text>`` and writes ``negative`` or ``positive``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from peprof.errors import Fault, SuiteError
from peprof.suite.schema import DataConfig
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split

IGNORED = -100
"""The label of padding: no loss is computed there."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a model is to write for each class, as token ids.

    Args:
        words: of each class the word's one token and the end's; the first ones differ.
        start_id: what a decoder reads before it has written anything.
        pad_id, end_id: of the tokenizer.
        max_length: tokens that a written answer may have, its end included.
    """

    words: tuple[tuple[int, ...], ...]
    start_id: int
    pad_id: int
    end_id: int
    max_length: int

    @property
    def first_ids(self) -> tuple[int, ...]:
        """Of each class the token that its word begins with."""
        return tuple(word[0] for word in self.words)

    def labels(self, classes: Sequence[int], *, length: int | None = None) -> torch.Tensor:
        """What is to be written, padded with ``IGNORED`` to the longest word or to ``length``.

        Returns:
            (batch, length), on the CPU.
        """
        rows = [self.words[label] for label in classes]
        longest = max(map(len, rows)) if length is None else length
        return torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in rows])

    def classes(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels -> classes: (batch, length) -> (batch,)."""
        firsts = torch.tensor(self.first_ids, device=labels.device)
        return (labels[:, :1] == firsts).int().argmax(dim=1)

    def guesses(self, logits: torch.Tensor) -> torch.Tensor:
        """The class whose first token is the likeliest first one: (batch, length, vocabulary) -> (batch,)."""
        return logits[:, 0, list(self.first_ids)].argmax(dim=-1)

    def written_classes(self, written: torch.Tensor) -> torch.Tensor:
        """Written tokens -> classes, -1 for what is no class's word, whole, with its end.

        Args:
            written: (batch, ``max_length``), padded after the end.

        Returns:
            (batch,)
        """
        rows = [[*word, *[self.pad_id] * (self.max_length - len(word))] for word in self.words]
        known = torch.tensor(rows, device=written.device)
        same = (written[:, None, :] == known[None]).all(dim=2)  # (batch, classes)
        return torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)


def make_targets(
    data: DataConfig, tokenizer: PreTrainedTokenizerBase, geometry: PretrainedConfig, *, source: str
) -> Targets:
    """The verbalizers as a tokenizer writes them.

    Args:
        data: of a text-to-text task.
        tokenizer: the model's.
        geometry: the model's configuration; a decoder that doesn't know what to start from starts from
            padding, as T5's does.
        source: the suite's file, for messages.

    Raises:
        SuiteError: a word isn't one known token, two are the same, or a special token is missing.
    """
    pad_id, end_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    if not isinstance(pad_id, int) or not isinstance(end_id, int):
        what = "padding" if not isinstance(pad_id, int) else "the end of a text"
        problem = f"its tokenizer has no token for {what}"
        expected = "a tokenizer with padding and an end, as T5's <pad> and </s>"
        raise SuiteError(source, [Fault(key="model.name", problem=problem, expected=expected)])
    start_id = getattr(geometry, "decoder_start_token_id", None)
    # Without special tokens: some tokenizers put a begin before, with which all words would begin alike.
    ids = [list(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in data.verbalizers]
    faults = _verbalizer_faults(data, ids, tokenizer)
    if faults:
        raise SuiteError(source, faults)
    return Targets(
        words=tuple((*word, end_id) for word in ids),
        start_id=pad_id if start_id is None else start_id,
        pad_id=pad_id,
        end_id=end_id,
        max_length=data.max_target_length,
    )


def _verbalizer_faults(
    data: DataConfig, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> list[Fault]:
    faults: list[Fault] = []
    owners: dict[int, str] = {}
    for word, tokens in zip(data.verbalizers, ids, strict=True):
        problem: str | None = None
        if len(tokens) != 1:
            written = " ".join(tokenizer.convert_ids_to_tokens(list(tokens)))
            problem = f"'{word}' is {len(tokens)} tokens of this model ({written})"
        elif tokens[0] == tokenizer.unk_token_id:
            problem = f"this model has no token for '{word}'"
        elif tokens[0] in owners:
            problem = f"'{owners[tokens[0]]}' and '{word}' are the same token of this model"
        if problem:
            expected = "words of one token each, all different: they are scored by their first token"
            faults.append(Fault(key="data.verbalizers", problem=problem, expected=expected))
        else:
            owners[tokens[0]] = word
    return faults


class TextToTextSplit(EncodedSplit):
    """A split whose examples are read with a prefix, and whose labels are (batch, length) words.

    Args:
        split: the texts, one an example.
        tokenizer: also knows how to pad.
        max_length: tokens that an example is cut to, prefix included.
        prefix: stands before each text, as it is.
        targets: what is to be written.
        judged_by: the task's own metrics unless given.
    """

    task = "text-to-text"

    def __init__(
        self,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        prefix: str,
        targets: Targets,
        judged_by: Sequence[str] = (),
    ) -> None:
        texts = tuple((prefix + row[0],) for row in split.texts)
        super().__init__(Split(texts=texts, labels=split.labels), tokenizer, max_length, judged_by=judged_by)
        self.targets = targets

    def _labels_of(
        self, rows: Sequence[int], inputs: dict[str, torch.Tensor], *, fixed: bool
    ) -> torch.Tensor:
        classes = [int(self._labels[row]) for row in rows]
        return self.targets.labels(classes, length=self.targets.max_length if fixed else None)


def greedy(
    next_logits: Callable[[torch.Tensor], torch.Tensor], first: torch.Tensor, targets: Targets
) -> torch.Tensor:
    """Writes the likeliest token again and again, until all rows have ended or are as long as allowed.

    All of what was written is read again at each step: answers are short, and a method need keep no keys and
    values of earlier steps.

    Args:
        next_logits: what a decoder has read, (batch, length), -> logits of what follows, (batch, vocabulary).
        first: logits of the first token, (batch, vocabulary).
        targets: how long, from what to start, where to end.

    Returns:
        (batch, ``targets.max_length``), padded after the end.
    """
    written = first.new_full((len(first), targets.max_length), targets.pad_id, dtype=torch.long)
    written[:, 0] = first.argmax(dim=-1)
    start = written.new_full((len(first), 1), targets.start_id)
    ended = written[:, 0] == targets.end_id
    for length in range(1, targets.max_length):
        if bool(ended.all()):
            break
        token = next_logits(torch.cat([start, written[:, :length]], dim=1)).argmax(dim=-1)
        written[:, length] = token.masked_fill(ended, targets.pad_id)
        ended = ended | (token == targets.end_id)
    return written


@dataclass(frozen=True, kw_only=True)
class Written:
    """How a batch was answered: classes (batch,); ``written`` is -1 for what is no class's word."""

    guesses: torch.Tensor
    written: torch.Tensor


def answer(
    model: Callable[..., object],
    inputs: Mapping[str, torch.Tensor],
    logits: torch.Tensor,
    targets: Targets,
) -> Written:
    """Reads a model's answers in both ways: by the classes' first tokens, and by what it writes.

    Args:
        model: takes ``decoder_input_ids`` besides the inputs.
        inputs: of the batch, on the device; labels are left out.
        logits: (batch, length, vocabulary) of a pass over the batch; the first position is used.
        targets: what may be written.
    """
    given = {name: tensor for name, tensor in inputs.items() if name != "labels"}

    def next_logits(read: torch.Tensor) -> torch.Tensor:
        output = model(**given, decoder_input_ids=read, use_cache=False)
        found: torch.Tensor = output.logits[:, -1]  # type: ignore[attr-defined]
        return found

    written = greedy(next_logits, logits[:, 0], targets)
    return Written(guesses=targets.guesses(logits), written=targets.written_classes(written))
