"""What the attribution pass costs: against the bare step, the torch profiler's memory events and MemTracker.

All in one run and in turn, in one thread: ratios count, seconds depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from peprof.profiler.attribution import Attribution
from peprof.profiler.latency import garbage_collection_off
from peprof.profiler.ledger import Ledger

DISTILBERT_LIMIT = 1.05
"""Of the bare step, on DistilBERT at batch 32 of 64 tokens."""

PROFILER_LIMIT = 1.05
"""Of a pass of the torch profiler: not slower, within what a busy machine disturbs."""

QUICK_LIMIT = 1.25
"""In place of both where only a few rounds are measured: there only a gross fault fails."""

TRACKER_FACTOR = 10
"""How many times cheaper the ledger is than MemTracker, in what they add to the step."""

Watch = Callable[
    [torch.nn.Module, torch.optim.Optimizer, dict[str, torch.Tensor]], AbstractContextManager[Any]
]


def bare(*_: Any) -> AbstractContextManager[Any]:
    return nullcontext()


def ledger(model: torch.nn.Module, optimizer: Any, batch: Any) -> AbstractContextManager[Any]:
    return Ledger(model, optimizers=[optimizer], inputs=batch)


def torch_profiler(*_: Any) -> AbstractContextManager[Any]:
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True)


def mem_tracker(model: torch.nn.Module, optimizer: Any, batch: Any) -> AbstractContextManager[Any]:
    tracker = MemTracker()
    tracker.track_external(model, optimizer, *batch.values())
    return tracker


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of a step, and of a pass: the step with entering and leaving what watches it."""

    step_s: float
    pass_s: float


WATCHES: dict[str, Watch] = {
    "bare": bare,
    "ledger": ledger,
    "torch.profiler": torch_profiler,
    "MemTracker": mem_tracker,
}


def distilbert(**sizes: int) -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(DistilBertConfig(**sizes)).train()


def batch_of(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 1000, (rows, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(rows) % 2}


def measure(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], watches: dict[str, Watch], *, rounds: int
) -> dict[str, Cost]:
    """Median seconds of a pass of one step under each watch, the watches in turn.

    Time is the thread's own, which a busy machine disturbs less: all runs in one thread, and none waits.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)

    def step() -> float:
        begin = time.thread_time()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.thread_time() - begin

    for _ in range(2):
        step()
    step_s: dict[str, list[float]] = {name: [] for name in watches}
    pass_s: dict[str, list[float]] = {name: [] for name in watches}
    for number in range(rounds):
        for name in watches if number % 2 == 0 else reversed(watches):
            with garbage_collection_off():
                begin = time.thread_time()
                with watches[name](model, optimizer, batch):
                    step_s[name].append(step())  # one: a second is more than MemTracker takes
                pass_s[name].append(time.thread_time() - begin)
    return {name: Cost(step_s=median(step_s[name]), pass_s=median(pass_s[name])) for name in watches}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def report(benchmark: Any, costs: dict[str, Cost]) -> None:
    bare_s = costs["bare"].step_s
    print(f"\nbare step {bare_s * 1e3:.1f} ms; as multiples of it:")
    for name, cost in costs.items():
        benchmark.extra_info[f"{name}_step_ratio"] = cost.step_s / bare_s
        benchmark.extra_info[f"{name}_pass_ratio"] = cost.pass_s / bare_s
        print(f"  {name:15} step {cost.step_s / bare_s:7.3f}  whole pass {cost.pass_s / bare_s:7.3f}")
    benchmark.extra_info["bare_step_ms"] = bare_s * 1e3


def test_the_ledger_on_a_small_step(benchmark: Any, quick: bool, note_ratio: Any) -> None:
    model = distilbert(dim=128, hidden_dim=512, n_heads=4, n_layers=4, vocab_size=1000)
    rounds = 8 if quick else 24
    costs = benchmark.pedantic(measure, (model, batch_of(8, 32), WATCHES), {"rounds": rounds}, rounds=1)
    report(benchmark, costs)
    added_s = {name: cost.step_s - costs["bare"].step_s for name, cost in costs.items()}
    note_ratio(
        "ledger's pass by torch.profiler's, small step",
        costs["ledger"].pass_s / costs["torch.profiler"].pass_s,
        "time",
    )
    note_ratio("ledger's cost by MemTracker's, small step", added_s["ledger"] / added_s["MemTracker"], "time")
    assert (
        costs["ledger"].pass_s <= (QUICK_LIMIT if quick else PROFILER_LIMIT) * costs["torch.profiler"].pass_s
    )
    bare_s = costs["bare"].step_s
    factor = TRACKER_FACTOR / 2 if quick else TRACKER_FACTOR
    assert factor * (costs["ledger"].step_s - bare_s) <= costs["MemTracker"].step_s - bare_s


def test_the_ledger_on_distilbert(benchmark: Any, quick: bool, note_ratio: Any) -> None:
    watches = {"bare": bare, "ledger": ledger}
    arguments = (distilbert(), batch_of(32, 64), watches)
    costs = benchmark.pedantic(measure, arguments, {"rounds": 2 if quick else 5}, rounds=1)
    report(benchmark, costs)
    note_ratio(
        "ledger's pass by the bare step, DistilBERT", costs["ledger"].pass_s / costs["bare"].pass_s, "time"
    )
    assert costs["ledger"].pass_s <= (QUICK_LIMIT if quick else DISTILBERT_LIMIT) * costs["bare"].pass_s


def test_reading_a_ledger(benchmark: Any) -> None:
    """Whose each byte was: after the step, and so no part of it."""
    model = distilbert(dim=128, hidden_dim=512, n_heads=4, n_layers=4, vocab_size=1000)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    batch = batch_of(8, 32)
    with Ledger(model, optimizers=[optimizer], inputs=batch) as watched:
        model(**batch).loss.backward()
        optimizer.step()
    found = benchmark(lambda: Attribution(watched).profile())
    assert sum(found.peak.categories.values()) == found.peak_bytes
