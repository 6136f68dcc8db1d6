"""Texts as token ids, row after row in one array a column, and batches of them, padded.

A tokenizer's own ``pad`` works on lists of Python numbers; arrays give the same tensors in a fraction of the
time and of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a tokenizer fills up what is shorter than its batch.

    Args:
        values: column -> what fills it; a column that isn't named is filled with 0.
        side: where the filling lies.
    """

    values: Mapping[str, int | None]
    side: Literal["left", "right"]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Padding:
        """As a tokenizer pads: ids, segments and the mask of special tokens each with their own value."""
        values = {
            tokenizer.model_input_names[0]: tokenizer.pad_token_id,
            "token_type_ids": tokenizer.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        return cls(values=values, side="left" if tokenizer.padding_side == "left" else "right")


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """Rows of unequal length, not padded.

    Args:
        offsets: (rows + 1,); row i is ``offsets[i] : offsets[i + 1]`` of each column.
        columns: ``input_ids`` and what else the tokenizer gives -> (tokens of all rows,), none negative.
    """

    offsets: npt.NDArray[np.int64]
    columns: Mapping[str, Integers]

    @classmethod
    def from_lists(cls, encoded: Mapping[str, Sequence[Sequence[int]]]) -> TokenRows:
        """What a tokenizer answers to several texts, packed into the narrowest type that holds it.

        Args:
            encoded: column -> row -> value of each token; a row is as long in all columns.

        Raises:
            ValueError: it isn't.
        """
        lengths = {name: [len(row) for row in rows] for name, rows in encoded.items()}
        first = next(iter(lengths.values()))
        if any(other != first for other in lengths.values()):
            raise ValueError(f"the rows of {', '.join(lengths)} differ in length")
        offsets = np.zeros(len(first) + 1, dtype=np.int64)
        np.cumsum(first, out=offsets[1:])
        return cls(offsets=offsets, columns={name: _packed(rows) for name, rows in encoded.items()})

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row: (rows,)."""
        return np.diff(self.offsets)

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of some rows together."""
        chosen = np.asarray(rows, dtype=np.int64)
        return int((self.offsets[chosen + 1] - self.offsets[chosen]).sum())

    def row(self, column: str, number: int) -> list[int]:
        """One row of one column."""
        found: list[int] = self.columns[column][self.offsets[number] : self.offsets[number + 1]].tolist()
        return found

    def padded(
        self, rows: Sequence[int], padding: Padding, *, length: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Some rows as tensors, padded to the longest of them or to ``length``.

        Args:
            rows: their numbers; one may occur several times.
            padding: with what, and where.
            length: of the result, no less than the longest row; ``None`` for the longest row.

        Returns:
            column -> (batch, length), int64, on the CPU.

        Raises:
            ValueError: a row is longer than ``length``, or there is nothing to fill a column with.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        starts = self.offsets[chosen]
        lengths = self.offsets[chosen + 1] - starts
        longest = int(lengths.max(initial=0))
        if length is None:
            length = longest
        elif longest > length:
            raise ValueError(f"a row of {longest} tokens doesn't fit into {length}")
        places = np.arange(length)
        if padding.side == "left":
            places = places - (length - lengths)[:, None]
            real = places >= 0  # (batch, length)
        else:
            real = places < lengths[:, None]
        index = (starts[:, None] + places)[real]
        padded: dict[str, torch.Tensor] = {}
        for name, values in self.columns.items():
            filling = padding.values.get(name, 0)
            if filling is None:
                if not real.all():
                    raise ValueError(f"the tokenizer has no token to pad '{name}' with")
                filling = 0
            table = np.full((len(chosen), length), filling, dtype=np.int64)
            table[real] = values[index]
            padded[name] = torch.from_numpy(table)
        return padded


def _packed(rows: Sequence[Sequence[int]]) -> Integers:
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    if flat.size and flat.min() < 0:
        raise ValueError(f"a token's value is {flat.min()}, below 0")
    return flat.astype(np.min_scalar_type(int(flat.max(initial=0))))
