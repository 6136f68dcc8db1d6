"""Encoded examples -> batches on a device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.export
from transformers import PreTrainedTokenizerBase

from peprof.suite.metrics import DEFAULT_METRICS, Task
from peprof.training.data import Split
from peprof.training.encoded_cache import tokenize, tokenized
from peprof.training.ordering import grouped_by_length, longest_first, shuffled
from peprof.training.token_rows import Padding, TokenRows


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch on a device.

    Args:
        inputs: ``input_ids`` and ``attention_mask`` (batch, length), what else the tokenizer gives, and
            ``labels``: (batch,), for text-to-text (batch, target length), for language modelling
            (batch, length).
        real_tokens: tokens of ``input_ids`` that are not padding.
    """

    inputs: dict[str, torch.Tensor]
    real_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = {key: value.to(device, non_blocking=True) for key, value in self.inputs.items()}
        return Batch(inputs=moved, real_tokens=self.real_tokens)


# A tree for torch: whoever asks for all tensors in a value, as the memory pass does, finds a batch's.
torch.export.register_dataclass(Batch)


class EncodedSplit:
    """A split as token ids, from which batches are made.

    Attributes:
        task: what is done with it.
        judged_by: metrics that answers are judged by, the deciding one first.

    Args:
        split: the texts.
        tokenizer: also knows how to pad.
        max_length: tokens that an example is cut to.
        judged_by: the task's own unless given.
    """

    task: ClassVar[Task] = "classification"

    def __init__(
        self,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        judged_by: Sequence[str] = (),
    ) -> None:
        self.judged_by = tuple(judged_by) or DEFAULT_METRICS[self.task]
        self._texts = split.texts
        self._labels = split.labels
        self._tokenizer = tokenizer
        self._padding = Padding.of(tokenizer)
        self._max_length = max_length

    @cached_property
    def _rows(self) -> TokenRows:
        """All rows, made or read from the cache when they are first needed; few batches don't need them."""
        return self._encoded(self._texts, keep=True)

    def _encoded(self, texts: Sequence[tuple[str, ...]], *, keep: bool) -> TokenRows:
        """Some rows' texts as token ids; ``keep`` for the cache."""
        encode = tokenized if keep else tokenize
        return encode(list(zip(*texts, strict=True)), self._tokenizer, max_length=self._max_length)

    def make_ready(self) -> None:
        """Has all rows as token ids from here on, so that no batch waits for them."""
        _ = self._rows

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def labels(self) -> Sequence[float]:
        """Classes or numbers, in the split's order; empty where the texts are what is to be found."""
        return self._labels

    def batch(self, rows: Sequence[int], *, pad_to_max_length: bool = False) -> Batch:
        """Rows -> one batch, padded to its longest row, or to ``max_length`` where shapes must be fixed."""
        return self._batch(self._rows, rows, rows, pad_to_max_length=pad_to_max_length)

    def _batch(
        self, encoded: TokenRows, places: Sequence[int], rows: Sequence[int], *, pad_to_max_length: bool
    ) -> Batch:
        """A batch of rows that lie at some places of what is encoded."""
        length = self._max_length if pad_to_max_length else None
        inputs = encoded.padded(places, self._padding, length=length)
        inputs["labels"] = self._labels_of(rows, inputs, fixed=pad_to_max_length)
        return Batch(inputs=inputs, real_tokens=encoded.tokens(places))

    def _labels_of(
        self, rows: Sequence[int], inputs: dict[str, torch.Tensor], *, fixed: bool
    ) -> torch.Tensor:
        """What a model is to find: the classes themselves, unless a task makes something else of them.

        Args:
            rows: of the batch.
            inputs: the rows, padded; what only labels are made of is taken out.
            fixed: whether the shape must not depend on the rows.
        """
        return torch.tensor([self._labels[row] for row in rows])

    def epoch(
        self, batch_size: int, *, seed: int, group_by_length: bool = False, skip: int = 0
    ) -> Iterator[Batch]:
        """All rows once, in an order that the seed decides; a batch may be smaller.

        Args:
            batch_size: rows a batch.
            seed: decides the order.
            group_by_length: whether rows of like length share a batch.
            skip: so many batches are left out at the beginning, without being made.
        """
        if group_by_length:
            batches = grouped_by_length(self._lengths(), batch_size, seed=seed)
        else:
            batches = shuffled(len(self), batch_size, seed=seed)
        return map(self.batch, batches[skip:])

    def by_length(self, batch_size: int) -> Iterator[tuple[Sequence[int], Batch]]:
        """All rows once, the longest first: row numbers and their batch."""
        return ((rows, self.batch(rows)) for rows in longest_first(self._lengths(), batch_size))

    def _lengths(self) -> list[int]:
        lengths: list[int] = self._rows.lengths.tolist()
        return lengths

    def fixed_shape(self, batch_size: int, count: int, *, seed: int) -> list[Batch]:
        """``count`` batches of ``batch_size`` rows padded to ``max_length``; rows repeat if there are few."""
        draw = random.Random(seed)
        order: list[int] = []
        while len(order) < batch_size * count:
            rows = list(range(len(self)))
            draw.shuffle(rows)
            order += rows
        starts = range(0, batch_size * count, batch_size)
        batches = [order[start : start + batch_size] for start in starts]
        encoded, places = self._some(order[: batch_size * count])
        return [
            self._batch(encoded, [places[row] for row in rows], rows, pad_to_max_length=True)
            for rows in batches
        ]

    def _some(self, rows: Sequence[int]) -> tuple[TokenRows, Mapping[int, int]]:
        """Where some rows lie, in what is encoded: in all rows if these are ready, else in these alone."""
        if "_rows" in self.__dict__:
            return self._rows, {row: row for row in rows}
        wanted = sorted(set(rows))
        encoded = self._encoded([self._texts[row] for row in wanted], keep=False)
        return encoded, {row: place for place, row in enumerate(wanted)}


class RegressionSplit(EncodedSplit):
    """A split whose labels are numbers.

    Args:
        split: the texts.
        tokenizer: also knows how to pad.
        max_length: tokens that an example is cut to.
        judged_by: the task's own unless given.
        dtype: of the labels in a batch: a squared error takes them in the type of the answers.
    """

    task = "regression"

    def __init__(
        self,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        *,
        judged_by: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(split, tokenizer, max_length, judged_by=judged_by)
        self._dtype = dtype

    def _labels_of(
        self, rows: Sequence[int], inputs: dict[str, torch.Tensor], *, fixed: bool
    ) -> torch.Tensor:
        return super()._labels_of(rows, inputs, fixed=fixed).to(self._dtype)
