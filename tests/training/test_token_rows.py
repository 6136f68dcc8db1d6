"""Batches from arrays are those that a tokenizer's own ``pad`` makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from peprof.training.embedded.pretraining import make_tokenizer as make_segmented
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.token_rows import Padding, TokenRows

TEXTS = ["film", "a very good film", "the film was not a good one , not at all", "", "bad bad bad"]
OTHERS = ["bad", "a film", "not good", "the very good one", "at all"]
ORDERS = ([0], [2, 0, 1], [1, 1, 4], [0, 1, 2, 3, 4])


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    if name == "embedded":  # gives token_type_ids as BERT's own does
        return make_segmented(64)
    return make_tokenizer(TEXTS, known_config(name))


def packed(encoded: Mapping[str, Any]) -> TokenRows:
    return TokenRows.from_lists(dict(encoded))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["embedded", "bert-base", "roberta-base", "t5-small"])
@pytest.mark.parametrize("columns", [[TEXTS], [TEXTS, OTHERS]], ids=["one text", "two texts"])
def test_the_tensors_are_those_of_the_tokenizers_own_padding(
    name: str, side: str, columns: list[list[str]]
) -> None:
    tokenizer = tokenizer_of(name)
    tokenizer.padding_side = side
    encoded = dict(tokenizer(*columns, truncation=True, max_length=16, return_special_tokens_mask=True))
    rows, padding = packed(encoded), Padding.of(tokenizer)
    assert len(rows) == len(TEXTS)
    for order in ORDERS:
        chosen = {name: [values[row] for row in order] for name, values in encoded.items()}
        for length in (None, 16):
            expected = tokenizer.pad(
                {name: [list(row) for row in values] for name, values in chosen.items()},
                padding="longest" if length is None else "max_length",
                max_length=length,
                return_tensors="pt",
            )
            found = rows.padded(order, padding, length=length)
            assert list(found) == list(expected)
            for column in found:
                assert found[column].dtype == expected[column].dtype
                assert torch.equal(found[column], expected[column]), (column, order, length)
        assert rows.tokens(order) == sum(len(ids) for ids in chosen["input_ids"])


def test_roberta_pads_ids_with_one_and_the_embedded_model_with_zero() -> None:
    for name, pad_id in (("roberta-base", 1), ("embedded", 0)):
        tokenizer = tokenizer_of(name)
        found = packed(tokenizer(["film", "a film"])).padded([0, 1], Padding.of(tokenizer))
        assert found["input_ids"][0, -1] == pad_id and found["attention_mask"][0].tolist() == [1, 1, 1, 0]


def test_columns_are_as_narrow_as_their_values() -> None:
    rows = packed({"input_ids": [[70_000, 1], [2]], "attention_mask": [[1, 1], [1]]})
    assert (rows.columns["input_ids"].dtype, rows.columns["attention_mask"].dtype) == ("uint32", "uint8")
    assert rows.lengths.tolist() == [2, 1] and rows.row("input_ids", 0) == [70_000, 1]


def test_a_row_that_is_longer_than_the_length_asked_for_is_refused() -> None:
    rows = packed({"input_ids": [[1, 2, 3], [4]]})
    with pytest.raises(ValueError, match="a row of 3 tokens doesn't fit into 2"):
        rows.padded([0, 1], Padding(values={}, side="right"), length=2)


def test_without_a_padding_token_only_rows_of_one_length_share_a_batch() -> None:
    rows, padding = (
        packed({"input_ids": [[1, 2], [3, 4], [5]]}),
        Padding(values={"input_ids": None}, side="right"),
    )
    assert rows.padded([0, 1], padding)["input_ids"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="no token to pad 'input_ids' with"):
        rows.padded([0, 2], padding)


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "differ in length"),
        ({"input_ids": [[1, -2]]}, "-2, below 0"),
    ],
)
def test_what_no_tokenizer_gives_is_refused(encoded: dict[str, list[list[int]]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        packed(encoded)
