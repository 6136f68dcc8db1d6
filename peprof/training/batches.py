"""Encoded examples -> batches on a device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.export
from transformers import PreTrainedTokenizerBase

from peprof.training.data import Split
from peprof.training.ordering import grouped_by_length, longest_first, shuffled


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch on a device.

    Args:
        inputs: ``input_ids`` and ``attention_mask`` (batch, length), ``labels``, (batch,) or for text-to-text
            (batch, target length), and what else the tokenizer gives.
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

    Args:
        split: the texts.
        tokenizer: also knows how to pad.
        max_length: tokens that an example is cut to.
    """

    def __init__(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        columns = [list(column) for column in zip(*split.texts, strict=True)]
        encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        self._rows: dict[str, list[list[int]]] = dict(encoded)
        self._labels = split.labels
        self._tokenizer = tokenizer
        self._max_length = max_length

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, rows: Sequence[int], *, pad_to_max_length: bool = False) -> Batch:
        """Rows -> one batch, padded to its longest row, or to ``max_length`` where shapes must be fixed."""
        chosen = {key: [values[row] for row in rows] for key, values in self._rows.items()}
        padded = self._tokenizer.pad(
            chosen,
            padding="max_length" if pad_to_max_length else "longest",
            max_length=self._max_length if pad_to_max_length else None,
            return_tensors="pt",
        )
        inputs = dict(padded)
        inputs["labels"] = self._labels_of([self._labels[row] for row in rows], fixed=pad_to_max_length)
        return Batch(inputs=inputs, real_tokens=sum(len(ids) for ids in chosen["input_ids"]))

    def _labels_of(self, classes: Sequence[int], *, fixed: bool) -> torch.Tensor:
        """What a model is to find: the classes themselves, unless a task makes something else of them.

        Args:
            classes: of the batch's rows.
            fixed: whether the shape must not depend on the rows.
        """
        return torch.tensor(classes)

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
        return [len(ids) for ids in self._rows["input_ids"]]

    def fixed_shape(self, batch_size: int, count: int, *, seed: int) -> list[Batch]:
        """``count`` batches of ``batch_size`` rows padded to ``max_length``; rows repeat if there are few."""
        draw = random.Random(seed)
        order: list[int] = []
        while len(order) < batch_size * count:
            rows = list(range(len(self)))
            draw.shuffle(rows)
            order += rows
        starts = range(0, batch_size * count, batch_size)
        return [self.batch(order[start : start + batch_size], pad_to_max_length=True) for start in starts]
