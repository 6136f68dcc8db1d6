"""RoBERTa-large against a published table of peaks on SST-2: by rank, share and size.

Published for batches of 16, float32 ("Selective Parameter Updating", TU Munich, 2023), in MB and percent of
full fine-tuning: full 8188, LoRA r4 at all linears 4526 (55 %), SiVA there 4529 (55 %) and at key and value
2920 (36 %), LST r8 1779 (22 %), 5-LST 2209 (27 %), 9-LST 2381 (29 %), the last three layers 2117 (26 %).
Conditions and lengths: ``benchmarks/published_shares.py``.

All eight come out within one point under what we take for the conditions of 2023: CUDA's kernels, attention
that isn't fused, and an AdamW that makes two temporary copies of what it trains, as PyTorch 2.0's does. These
are inferred from the sizes, as are that LoRA and SiVA made W + BA in each step, and how many side heads there
were: few for LST, as many as the backbone has for k-LST.
"""

from __future__ import annotations

import functools

import pytest

from benchmarks.published_shares import (
    CONDITIONS,
    IN_2023,
    LONGEST,
    ROWS,
    SST2,
    Condition,
    batch_lengths,
    has_data,
    profile,
)
from peprof.breakdown.values import StepProfile

F32, MIB = 4, 2**20
LAYERS, D, N = 24, 1024, 16 * LONGEST
PARAMETERS = 355_361_794  # of the published model with a head for two classes

FUSED_TODAY = CONDITIONS[2]


@functools.cache
def profile_of(name: str, condition: Condition = IN_2023) -> StepProfile:
    (row,) = [row for row in ROWS if row.name == name]
    return profile(row.method, condition)


def share(name: str, condition: Condition = IN_2023) -> float:
    return 100 * profile_of(name, condition).peak_bytes / profile_of("full", condition).peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "percent", "megabytes"),
    [
        ("full", 100, 8188),
        ("LoRA r4 as W + BA", 55, 4526),
        ("LoRA r4 as W + BA", 55, 4529),  # SiVA at all linears makes the same
        ("key and value as W + BA", 36, 2920),
        ("LST r8, 1 side head", 22, 1779),
        ("5-LST, 16 side heads", 27, 2209),
        ("9-LST, 16 side heads", 29, 2381),
        ("last 3 layers", 26, 2117),
    ],
)
def test_shares_and_sizes_are_the_published_ones(name: str, percent: int, megabytes: int) -> None:
    """Within one point, and 3 % of the size: a workspace and rounding are not in ours."""
    assert share(name) == pytest.approx(percent, abs=1)
    assert profile_of(name).peak_bytes / MIB == pytest.approx(megabytes, rel=0.03)


@pytest.mark.slow
def test_the_ranking_is_the_published_one_then_and_now() -> None:
    for condition in (IN_2023, FUSED_TODAY):
        ladder, last = share("LST r8, 1 side head", condition), share("last 3 layers", condition)
        assert ladder < last < share("LoRA r4, all linears", condition) < 100
    assert share("LoRA r4, all linears") < share("LoRA r4 as W + BA") < 100


def test_full_fine_tuning_is_highest_in_the_optimizer_with_six_copies_of_the_weights() -> None:
    """Weights, gradients, two moments, and two temporaries. Today's AdamW makes one: five copies."""
    for condition, copies in ((IN_2023, 6), (FUSED_TODAY, 5)):
        peak = profile_of("full", condition).peak
        assert peak.phase == "optimizer"
        assert peak.total_bytes == pytest.approx(copies * F32 * PARAMETERS, rel=0.001)


@pytest.mark.slow
def test_lora_as_it_is_written_here_saves_all_that_w_and_ba_take() -> None:
    """15 points: in each layer the six sums, 12 d^2 numbers; ours keeps six times r = 4 numbers a position.

    The first layer's query, key and value keep no sum, as nothing before them is trained.
    """
    materialised, ours = profile_of("LoRA r4 as W + BA"), profile_of("LoRA r4, all linears")
    difference = materialised.activations.total_bytes - ours.activations.total_bytes
    assert difference == F32 * (LAYERS * (12 * D**2 - 6 * 4 * N) - 3 * D**2)
    assert share("LoRA r4, all linears") == pytest.approx(40, abs=1)


@pytest.mark.slow
def test_siva_as_it_is_written_here_costs_what_lora_does() -> None:
    """Beside the same weights it has a few values, and their vectors where LoRA has A and B."""
    siva, lora = profile_of("SiVA r4, all linears"), profile_of("LoRA r4, all linears")
    assert 0 <= siva.peak_bytes - lora.peak_bytes <= 0.001 * profile_of("full").peak_bytes
    assert share("SiVA r4, key and value") == pytest.approx(33, abs=1)


def test_a_wider_window_costs_its_keys_and_values() -> None:
    """From 5 to 9, of each position and in each layer: four keys and four values of side width; for each of
    16 heads four weights, before dropout and after it, and a mask of one byte. Once: four states at the ends.
    """
    side, heads = D // 8, 16
    wider, narrow = profile_of("9-LST, 16 side heads"), profile_of("5-LST, 16 side heads")
    difference = wider.activations.total_bytes - narrow.activations.total_bytes
    layer = F32 * 2 * 4 * N * side + (F32 + F32 + 1) * 4 * N * heads
    assert difference == LAYERS * layer + F32 * 4 * N * side


@pytest.mark.slow
def test_side_heads_cost_where_attention_is_not_fused() -> None:
    """With 16, as many as the backbone, a ladder is 3 points above the published 22 %; fused, as with one."""
    assert share("LST r8, 16 side heads") == pytest.approx(25, abs=0.5)
    fused = [share(f"LST r8, {heads}", FUSED_TODAY) for heads in ("16 side heads", "1 side head")]
    assert 0 <= fused[0] - fused[1] < 0.2


@pytest.mark.slow
@pytest.mark.skipif(not has_data(), reason=f"SST-2 is not in {SST2}, or there is no WordPiece tokenizer")
def test_the_longest_batch_is_in_every_epoch() -> None:
    lengths = batch_lengths(epochs=3, seed=1)
    batches = -(-67_349 // 16)
    assert len(lengths) == 3 * batches
    assert [max(lengths[epoch * batches : (epoch + 1) * batches]) for epoch in range(3)] == 3 * [LONGEST]
