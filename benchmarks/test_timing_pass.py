"""A step in the timing pass must cost what it costs in a bare loop, with a sampler beside it too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from peprof.devices import CpuDevice, Mark, no_mark
from peprof.meters.sampler import nvml_sampler
from peprof.profiler.latency import measure_latency
from tests.meters.fake_nvml import UUID

LIMIT = 1.005

Beside = Callable[[], AbstractContextManager[object]]
"""What goes on beside the timing pass, and not beside the bare loop."""


class Spied:
    """A step that notes when it is called: from call to call is all that a step costs.

    Args:
        model: gives its loss.
        batch: what it is called with.
    """

    def __init__(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.AdamW(model.parameters())
        self.calls_s: list[float] = []

    def __call__(self, batch: dict[str, torch.Tensor], mark: Mark = no_mark) -> None:
        self.calls_s.append(time.perf_counter())
        mark("forward")
        loss = self.model(**batch)
        mark("backward")
        loss.backward()
        mark("clip")
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        mark(None)

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        return iter(self.model.parameters())

    def drain(self) -> list[float]:
        """Seconds from call to call; the first two belong to the warm-up and to the switch from it."""
        calls, self.calls_s = self.calls_s, []
        return [after - before for before, after in pairwise(calls[2:])]


class MeanSquare(nn.Module):
    """A small stack of layers whose step takes about 25 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512), nn.LayerNorm(512), nn.Linear(512, 2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.layers(x).square().mean()
        return loss


class DistilBert(nn.Module):
    """DistilBERT's geometry with random weights: a hundred tensors, some hundreds of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.model = DistilBertForSequenceClassification(DistilBertConfig())

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(**inputs).loss
        return loss


def small_step() -> Spied:
    torch.manual_seed(0)
    return Spied(MeanSquare(), {"x": torch.randn(192, 512)})


def distilbert_step() -> Spied:
    torch.manual_seed(0)
    inputs = {"input_ids": torch.randint(1, 30000, (2, 32)), "labels": torch.tensor([0, 1])}
    return Spied(DistilBert(), {**inputs, "attention_mask": torch.ones(2, 32, dtype=torch.long)})


def sampler() -> AbstractContextManager[object]:
    """NVML's sampler in a process of its own, over a stand-in for the library; it looks as often."""
    return nvml_sampler(UUID, os.getpid(), library="tests.meters.fake_nvml")


def bare_loop(step: Spied, steps: int) -> list[float]:
    for _ in range(steps):
        step(step.batch)
    return step.drain()


def timing_pass(step: Spied, steps: int) -> list[float]:
    measure_latency(
        step,
        [step.batch],
        CpuDevice(),
        warmup_steps=2,
        extra_warmup_steps=0,
        steps=steps - 2,
        max_seconds=None,
    )
    return step.drain()


def paired_ratio(step: Spied, rounds: int, steps: int, beside: Beside) -> tuple[float, float]:
    """A step in the timing pass by one in the bare loop, median over rounds; and the latter's seconds.

    Each round has both, in turns first, so that what changes from round to round is in both alike.
    """
    bare_loop(step, 4)
    ratios: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        seconds: dict[str, float] = {}
        for name in ("bare", "measured") if number % 2 == 0 else ("measured", "bare"):
            with beside() if name == "measured" else nullcontext():
                samples = (bare_loop if name == "bare" else timing_pass)(step, steps)
            seconds[name] = median(samples)
        ratios.append(seconds["measured"] / seconds["bare"])
        bare.append(seconds["bare"])
    return median(ratios), median(bare)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a shared machine would drown what is measured here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("make_step", "beside", "quick_size", "size"),
    [
        pytest.param(small_step, nullcontext, (16, 12), (40, 16), id="small"),
        pytest.param(distilbert_step, nullcontext, (6, 6), (20, 12), id="distilbert"),
        pytest.param(distilbert_step, sampler, (6, 6), (20, 12), id="distilbert-sampler"),
    ],
)
def test_the_timing_pass_costs_what_the_bare_loop_costs(
    make_step: Callable[[], Spied],
    beside: Beside,
    quick_size: tuple[int, int],
    size: tuple[int, int],
    benchmark: Any,
    quick: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # where the sampler finds the stand-in
    rounds, steps = quick_size if quick else size
    step = make_step()

    def best_of_five() -> tuple[float, float]:
        # The machine's own noise is near the limit: a cost that is really there shows in every attempt.
        attempts = []
        for _ in range(5):
            attempts.append(paired_ratio(step, rounds, steps, beside))
            if attempts[-1][0] <= LIMIT:
                break
        return min(attempts)

    ratio, bare_s = benchmark.pedantic(best_of_five, rounds=1)
    benchmark.extra_info.update(ratio=ratio, bare_step_ms=bare_s * 1e3)
    print(f"\ntiming pass / bare loop = {ratio:.4f} on a step of {bare_s * 1e3:.1f} ms")
    assert ratio <= LIMIT
