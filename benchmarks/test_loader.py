"""The loader must be far faster than the fastest step, and a training must not wait for it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch
from transformers import BatchEncoding

from peprof.training.batches import Batch, EncodedSplit
from peprof.training.data import Split
from peprof.training.embedded.pretraining import make_tokenizer
from peprof.training.embedded.reviews import VOCABULARY
from peprof.training.prefetching import prefetch

BATCH_SIZE = 32
MAX_LENGTH = 64
STEP_S = 0.005
"""A training step of a small encoder on a fast GPU; nothing that peprof trains is faster by much."""

WAITING_LIMIT = 0.01
"""Share of a training's time that may be waiting for batches, with steps as short as that."""

NEEDED_FACTOR = 10
"""The loader alone must make so many times the batches that such steps use."""


@pytest.fixture
def rows(quick: bool) -> int:
    return 20_000 if quick else 67_349  # as SST-2


def sentences(rows: int) -> Split:
    """Of 3 to 60 words, 19 in the mean: longer than SST-2's."""
    draw = random.Random(0)
    words = list(VOCABULARY)
    texts = [(" ".join(draw.choices(words, k=3 + int(57 * draw.random() ** 2.5))),) for _ in range(rows)]
    return Split(texts=tuple(texts), labels=tuple(row % 2 for row in range(rows)))


@pytest.fixture
def split(rows: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> EncodedSplit:
    monkeypatch.setenv("PEPROF_CACHE", str(tmp_path))
    encoded = EncodedSplit(sentences(rows), make_tokenizer(MAX_LENGTH), MAX_LENGTH)
    encoded.make_ready()
    return encoded


@pytest.mark.parametrize("group_by_length", [False, True])
def test_the_loader_makes_many_times_the_batches_that_the_fastest_steps_use(
    benchmark: Any, split: EncodedSplit, quick: bool, group_by_length: bool
) -> None:
    batches = 200 if quick else 1000

    def make() -> float:
        """Seconds of the first batches of an epoch, its order included."""
        begin = time.perf_counter()
        for _, _ in zip(
            range(batches), split.epoch(BATCH_SIZE, seed=0, group_by_length=group_by_length), strict=False
        ):
            pass
        return time.perf_counter() - begin

    took = min(benchmark.pedantic(lambda: [make() for _ in range(3)], rounds=1))
    per_second = batches / took
    benchmark.extra_info.update(batches_per_s=per_second, needed_per_s=1 / STEP_S)
    print(f"\n{per_second:,.0f} batches of {BATCH_SIZE} a second; steps of 5 ms use {1 / STEP_S:,.0f}")
    assert per_second >= NEEDED_FACTOR / STEP_S


def test_padding_is_much_faster_than_the_tokenizers_own(
    benchmark: Any, split: EncodedSplit, quick: bool, note_ratio: Any
) -> None:
    texts, tokenizer = [row[0] for row in sentences(2000).texts], make_tokenizer(MAX_LENGTH)
    lists: BatchEncoding = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)
    orders = [list(range(start, start + BATCH_SIZE)) for start in range(0, 1900, BATCH_SIZE)]

    def seconds_of_each() -> tuple[float, float]:
        begin = time.perf_counter()
        for order in orders:
            split.batch(order)
        middle = time.perf_counter()
        for order in orders:
            chosen = {name: [values[row] for row in order] for name, values in lists.items()}
            tokenizer.pad(chosen, padding="longest", return_tensors="pt")
        return (middle - begin) / len(orders), (time.perf_counter() - middle) / len(orders)

    pairs = benchmark.pedantic(lambda: [seconds_of_each() for _ in range(3 if quick else 10)], rounds=1)
    ours_s, theirs_s = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    benchmark.extra_info.update(batch_us=ours_s * 1e6, tokenizers_pad_us=theirs_s * 1e6)
    print(f"\na batch of {BATCH_SIZE}: {ours_s * 1e6:.0f} us, with tokenizer.pad {theirs_s * 1e6:.0f} us")
    note_ratio("padding a batch by the tokenizer's way", ours_s / theirs_s, "time")
    assert ours_s * 3 < theirs_s


def waiting_share(batches: Iterator[Batch], steps: int) -> float:
    """Share of the time of a training with steps of ``STEP_S`` that is waiting for batches.

    A step sleeps, as the host does while a GPU is at work: the thread has a processor then.
    """
    waited = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(STEP_S)
    return waited / (time.perf_counter() - begin)


def test_a_training_with_steps_of_five_milliseconds_does_not_wait(
    benchmark: Any, split: EncodedSplit, quick: bool
) -> None:
    steps = 200 if quick else 1000

    def best_of_five() -> tuple[float, float]:
        # Waiting that is really there shows in every attempt; the machine's other work does not.
        attempts = []
        for number in range(5):
            order = split.epoch(BATCH_SIZE, seed=number, group_by_length=True)
            with closing(prefetch(order, torch.device("cpu"))) as batches:
                next(batches)  # the first one of all can't have been made ahead
                ahead = waiting_share(batches, steps)
            alone = waiting_share(split.epoch(BATCH_SIZE, seed=number, group_by_length=True), steps)
            attempts.append((ahead, alone))
            if ahead < WAITING_LIMIT:
                break
        return min(attempts)

    ahead, alone = benchmark.pedantic(best_of_five, rounds=1)
    benchmark.extra_info.update(waiting_share=ahead, waiting_share_without=alone)
    print(f"\nwaiting for batches: {ahead:.2%} of the time, without a thread {alone:.2%}")
    assert ahead < WAITING_LIMIT
