"""Side layers that start from the backbone's weights, by structural pruning.

Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522).

Of each matrix the rows that matter most are kept, as many as the side layer's matrix has; its columns are
those that the matrix before it, in the order of the data, kept as rows. The first ones' columns are the kept
dimensions of the word embedding. How much a row matters is the sum of its importance over the kept columns.

Query, key and value are ranked together, and so are the two matrices of a gated feed-forward: a row matters
as much as the product of what it matters in each, so that none of them outweighs the others by its scale. As
many rows are kept in each head, so that a side head descends from one backbone head, or from some whole ones.
With rotary position embeddings whole pairs are kept, in order, so that fast and slow ones stay apart.

Where this departs from the authors' code: they multiply importances number by number before they add up rows,
rank without regard to heads, walk through the layers that have no side layer, too, and let the columns of key
and value of a decoder's attention to the encoder follow the decoder's rows rather than the encoder's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peprof_methods.architectures import Stack, has_module

EMBEDDING = "embedding"
_ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.output")
_FEEDFORWARD = ("feedforward.up", "feedforward.gate", "feedforward.down")


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """The heads of a layer.

    Args:
        queries: how many heads.
        keys: how many heads of keys and values.
        width: of each.
    """

    queries: int
    keys: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How the layers of one stack are pruned.

    Args:
        stack: the names in its layers.
        norm_first: a sublayer's norm stands before it, as in T5, and not after it, as in BERT.
        rotary: query and key are turned by pairs.
        full: the backbone's heads.
        small: a side layer's heads.
    """

    stack: Stack
    norm_first: bool
    rotary: bool
    full: HeadShape
    small: HeadShape

    def __post_init__(self) -> None:
        plain = self.full.queries == self.full.keys and not self.rotary
        same = (self.full.queries, self.full.keys) == (self.small.queries, self.small.keys)
        if not (same or (plain and self.full.queries % self.small.queries == 0)):
            expected = "a divisor of" if plain else "none, or as many as"
            raise ValueError(
                f"side_heads={self.small.queries} with init='pruned': expected {expected} the backbone's "
                f"{self.full.queries}"
            )

    def weights(self, index: int, layer: nn.Module) -> dict[str, Tensor]:
        """The matrices of a backbone layer whose importance is needed, by name."""
        return {
            _key(index, path): _weight(layer, path)
            for role in (*_ATTENTION, *_FEEDFORWARD)
            for path in _paths(self.stack, role, layer)
        }

    def into(
        self,
        side_layers: Sequence[nn.Module],
        layers: Mapping[int, nn.Module],
        importance: Mapping[str, Tensor],
        *,
        columns: Tensor,
        encoder_columns: Tensor | None = None,
    ) -> Tensor:
        """Fill the side layers.

        Args:
            side_layers: as many as ``layers``.
            layers: the backbone layers that they descend from, by index, in order.
            importance: of the matrices that ``weights`` names, of their shapes.
            columns: kept dimensions of what goes into the first layer.
            encoder_columns: kept dimensions of the encoder's output, for attention to it.

        Returns:
            Kept dimensions of what comes out of the last layer.
        """
        with torch.no_grad():
            for (index, layer), side in zip(layers.items(), side_layers, strict=True):
                walk = _Walk(pruning=self, index=index, layer=layer, side=side, importance=importance)
                columns = walk.through(columns, encoder_columns)
        return columns


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Through one backbone layer, in the order of the data, filling the side layer that descends from it."""

    pruning: Pruning
    index: int
    layer: nn.Module
    side: nn.Module
    importance: Mapping[str, Tensor]

    def through(self, columns: Tensor, encoder_columns: Tensor | None) -> Tensor:
        stack, norm_first = self.pruning.stack, self.pruning.norm_first
        norms: Iterator[str] = iter(_paths(stack, "layernorm", self.layer))
        attentions = zip(*(_paths(stack, role, self.layer) for role in _ATTENTION), strict=True)
        sublayers = [*attentions, None]
        for number, attention in enumerate(sublayers):
            norm = next(norms)
            if norm_first:
                self._fill(norm, columns)
            if attention is None:
                columns = self._feedforward(columns)
            else:
                read = columns if number == 0 or encoder_columns is None else encoder_columns
                columns = self._attention(attention, columns, read)
            if not norm_first:
                self._fill(norm, columns)
        return columns

    def _attention(self, paths: Sequence[str], columns: Tensor, read: Tensor) -> Tensor:
        query, key, value, output = paths
        scores = [self._rows(path, kept) for path, kept in ((query, columns), (key, read), (value, read))]
        queries, keys = _rows_of_heads(*scores, pruning=self.pruning)
        self._fill(query, queries, columns)
        self._fill(key, keys, read)
        self._fill(value, keys, read)
        return self._ranked(output, queries)

    def _feedforward(self, columns: Tensor) -> Tensor:
        stack = self.pruning.stack
        ups = [path for role in _FEEDFORWARD[:2] for path in _paths(stack, role, self.layer)]
        (down,) = _paths(stack, _FEEDFORWARD[2], self.layer)
        score = _together([self._rows(path, columns) for path in ups])
        rows = _top(score, _weight(self.side, ups[0]).shape[0])
        for path in ups:
            self._fill(path, rows, columns)
        return self._ranked(down, rows)

    def _ranked(self, path: str, columns: Tensor) -> Tensor:
        """Fill a matrix whose rows are ranked alone, and tell which it kept."""
        rows = _top(self._rows(path, columns), _weight(self.side, path).shape[0])
        self._fill(path, rows, columns)
        return rows

    def _rows(self, path: str, columns: Tensor) -> Tensor:
        return self.importance[_key(self.index, path)][:, columns].double().sum(1)

    def _fill(self, path: str, rows: Tensor, columns: Tensor | None = None) -> None:
        module = self.layer.get_submodule(path)
        fill(self.side.get_submodule(path), module, rows, columns)


def fill(side: nn.Module, module: nn.Module, rows: Tensor, columns: Tensor | None = None) -> None:
    """Copy some rows, and of these some columns, of a module's weight, and the same rows of its bias.

    Args:
        side: what is filled.
        module: what it is filled from.
        rows: indices.
        columns: indices; ``None`` for a weight of one dimension.
    """
    weight = _weight(module)[rows]
    _weight(side).copy_(weight if columns is None else weight[:, columns])
    bias = getattr(module, "bias", None)
    if bias is not None:
        side.bias.copy_(bias[rows])  # type: ignore[operator]


def fill_position_bias(side: nn.Embedding, module: nn.Embedding) -> None:
    """Copy T5's table of position biases; the mean of the heads that a side head descends from.

    Args:
        side: (buckets, side heads).
        module: (buckets, heads), a multiple of the side heads.
    """
    heads = side.weight.shape[1]
    side.weight.copy_(module.weight.reshape(-1, heads, module.weight.shape[1] // heads).mean(-1))


def embedding_columns(importance: Tensor, count: int) -> Tensor:
    """The dimensions of the word embedding that matter most.

    Args:
        importance: of its columns, (width,).
        count: how many are kept.
    """
    return _top(importance.double(), count)


def _rows_of_heads(query: Tensor, key: Tensor, value: Tensor, *, pruning: Pruning) -> tuple[Tensor, Tensor]:
    """Kept rows of the query, and of key and value.

    Args:
        query, key, value: what each row matters, (heads * width,).
        pruning: with the heads.
    """
    full, small = pruning.full, pruning.small
    sharing = full.queries // full.keys
    # Queries that share a key keep the same dimensions as it does.
    shared = query.reshape(full.keys, sharing, full.width).sum(1).flatten()
    if pruning.rotary:
        halves = (full.keys, 2, full.width // 2)
        scores = [score.reshape(halves).sum(1) for score in (shared, key, value)]
        pairs = _top(_together(scores), small.width // 2)  # (keys, side width / 2)
        within = torch.cat([pairs, pairs + full.width // 2], dim=1)
    else:
        scores = [score.reshape(small.keys, -1) for score in (shared, key, value)]
        within = _top(_together(scores), small.width)  # (side keys, side width)
    width = full.keys * full.width // small.keys  # of what a side head descends from
    starts = torch.arange(small.keys, device=within.device)[:, None] * width
    if sharing == 1:
        rows = (starts + within).flatten()
        return rows, rows
    first = torch.arange(full.queries, device=within.device)[:, None] * full.width
    return (first + within.repeat_interleave(sharing, 0)).flatten(), (starts + within).flatten()


def _together(scores: Sequence[Tensor]) -> Tensor:
    """The product, each divided by its mean, lest it become too small a number."""
    product = torch.ones_like(scores[0])
    for score in scores:
        product = product * (score / score.mean().clamp(min=torch.finfo(score.dtype).tiny))
    return product


def _top(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest in the last dimension, ascending; of equal ones the first."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values


def _paths(stack: Stack, role: str, layer: nn.Module) -> list[str]:
    return [path for path in stack.in_layer.get(role, ()) if has_module(layer, path)]


def _key(index: int, path: str) -> str:
    return f"{index}.{path}"


def _weight(module: nn.Module, path: str = "") -> Tensor:
    weight: Any = module.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight
