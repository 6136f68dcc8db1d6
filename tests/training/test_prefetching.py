"""Batches come in the loader's order, ahead of time; the thread that makes them ends with the training."""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from peprof.training.batches import Batch, EncodedSplit
from peprof.training.data import Split
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.prefetching import prefetch

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    return Batch(inputs={"labels": torch.tensor([number])}, real_tokens=number)


class Counted:
    """Batches 0, 1, 2 ...; how many were asked for, and by which thread."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.made = 0
        self.threads: set[str] = set()
        self._count, self._fails_at = count, fails_at

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self._count):
            if number == self._fails_at:
                raise RuntimeError(f"row {number} is broken")
            self.made += 1
            self.threads.add(threading.current_thread().name)
            yield batch(number)


def makers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("peprof-batches")]


def numbers(batches: Iterator[Batch]) -> list[int]:
    return [int(one.inputs["labels"]) for one in batches]


@pytest.mark.parametrize("ahead", [1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_order_is_the_loaders(count: int, ahead: int) -> None:
    with closing(prefetch(Counted(count), CPU, ahead=ahead)) as batches:
        assert numbers(batches) == list(range(count))
    assert not makers()


def test_an_epoch_is_the_same_with_and_without_and_draws_nothing_global() -> None:
    texts = tuple((f"a film of {number} words" + " more" * (number % 7),) for number in range(30))
    tokenizer = make_tokenizer((text for (text,) in texts), known_config("roberta-base", vocab_size=64))
    split = EncodedSplit(Split(texts=texts, labels=tuple(n % 2 for n in range(30))), tokenizer, 16)
    plain = list(split.epoch(4, seed=5, group_by_length=True))
    before = torch.random.get_rng_state()
    for _ in range(3):
        with closing(prefetch(split.epoch(4, seed=5, group_by_length=True), CPU)) as batches:
            found = list(batches)
        assert [one.real_tokens for one in found] == [one.real_tokens for one in plain]
        for one, other in zip(found, plain, strict=True):
            assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in other.inputs)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_so_many_are_made_ahead_and_no_more() -> None:
    source = Counted(100)
    with closing(prefetch(source, CPU, ahead=4)) as batches:
        for taken in range(1, 12):
            next(batches)
            ordered = 4 + taken // 2 * 2  # two more whenever two were taken
            deadline = time.monotonic() + 5
            while source.made < ordered and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            assert source.made == ordered
        assert source.threads == {"peprof-batches"}


def test_an_error_comes_where_its_batch_would_have_come_with_its_traceback() -> None:
    seen: list[int] = []
    with (
        pytest.raises(RuntimeError, match="row 4 is broken") as error,
        closing(prefetch(Counted(9, fails_at=4), CPU, ahead=8)) as batches,
    ):
        for one in batches:
            seen.append(one.real_tokens)
    assert seen == [0, 1, 2, 3]
    where = [frame.name for frame in traceback.extract_tb(error.value.__traceback__)]
    assert where[-1] == "__iter__", "the place where it happened, in the thread"
    assert not makers()


def test_the_thread_ends_with_a_training_that_fails() -> None:
    source = Counted(1000)
    with pytest.raises(ValueError, match="diverged"), closing(prefetch(source, CPU)) as batches:
        for _ in batches:
            raise ValueError("diverged")
    assert not makers() and source.made <= 12


def test_the_thread_ends_with_a_training_that_stops_early() -> None:
    source = Counted(1000)
    with closing(prefetch(source, CPU)) as batches:
        next(batches)
    made = source.made
    assert not makers() and made <= 12
    time.sleep(0.02)
    assert source.made == made


def test_the_thread_ends_when_the_batches_are_forgotten() -> None:
    batches = prefetch(Counted(1000), CPU)
    next(batches)
    assert makers()
    del batches
    gc.collect()
    assert not makers()


def test_at_least_one_is_made_ahead() -> None:
    with pytest.raises(ValueError, match="ahead=0: at least one"):
        next(prefetch(Counted(1), CPU, ahead=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_batches_lie_there_and_are_the_same() -> None:
    device = torch.device("cuda:0")
    with closing(prefetch(Counted(50), device)) as batches:
        found = list(batches)
    assert all(one.inputs["labels"].device == device for one in found)
    assert numbers(iter(found)) == list(range(50))
