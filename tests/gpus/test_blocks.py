"""Sizes of blocks and segments against the constants in torch's headers, and sizes worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from peprof.gpus import blocks

KIB, MIB = 2**10, 2**20


def test_the_constants_are_those_of_torchs_header() -> None:
    header = Path(torch.__file__).parent / "include/c10/core/AllocatorConfig.h"
    found = dict(re.findall(r"constexpr size_t (k\w+) = (\d+);", header.read_text()))
    if not found:
        pytest.skip("this torch keeps them in the source, not in a header")
    ours = {
        "kMinBlockSize": blocks.MINIMUM_BLOCK_BYTES,
        "kSmallSize": blocks.SMALL_BYTES,
        "kSmallBuffer": blocks.SMALL_SEGMENT_BYTES,
        "kMinLargeAlloc": blocks.BIG_BYTES,
        "kRoundLarge": blocks.BIG_SEGMENT_STEP_BYTES,
    }
    assert {name: int(found[name]) for name in ours} == ours


@pytest.mark.parametrize(
    ("requested", "block"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512), (3_000_000, 3_000_320)],
)
def test_blocks_are_multiples_of_512_bytes(requested: int, block: int) -> None:
    assert blocks.rounded_bytes(requested) == block


@pytest.mark.parametrize(
    ("requested", "divisions", "block"),
    [
        (1200, 4, 1536),  # not more than 4 x 512, so by 512 bytes
        (1200 * KIB, 4, 1280 * KIB),  # torch's own example: 1024, 1280, 1536, 1792
        (1280 * KIB, 4, 1280 * KIB),
        (1793 * KIB, 4, 2048 * KIB),
        (1024 * KIB, 4, 1024 * KIB),
        (1200 * KIB, 2, 1536 * KIB),
        (4097, 8, 4608),
        (1200 * KIB, 1, 1200 * KIB),
        (1200 * KIB + 1, 0, 1200 * KIB + 512),
    ],
)
def test_divisions_between_powers_of_two(requested: int, divisions: int, block: int) -> None:
    assert blocks.rounded_to_divisions(requested, divisions) == block


@pytest.mark.parametrize(
    ("block", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_segments(block: int, segment: int) -> None:
    assert blocks.segment_bytes(block) == segment


def test_what_is_left_over_is_split_off_or_kept() -> None:
    assert blocks.is_split_off(512, small=True)
    assert not blocks.is_split_off(0, small=True)
    assert not blocks.is_split_off(MIB, small=False)
    assert blocks.is_split_off(MIB + 512, small=False)
