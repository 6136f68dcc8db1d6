"""One step's time by three clocks, and its energy by two: peprof's figures beside those of others.

On a GPU the clocks are CUDA events (peprof), ``torch.utils.benchmark`` and ``triton.testing.do_bench``, which
ours must meet within 1 %; joules are the device's counter and power over time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.benchmark import Timer
from transformers import AutoModelForSequenceClassification

from peprof.devices import Device, no_mark
from peprof.meters.sampler import Sampler
from peprof.profiler.energy import measure_energy
from peprof.profiler.latency import measure_latency
from peprof.suite.catalogue import known_methods
from peprof.training.batches import Batch
from peprof.training.geometries import known_config
from peprof.training.optimizers import default_groups
from peprof.training.step import ClassifierStep

TIME_TOLERANCE = 0.01
ENERGY_SECONDS = 10.0
ROWS, LENGTH = 16, 128

Clock = Callable[[Callable[[], None]], float]
"""Median seconds of what it is given to call."""


def torchs_clock(call: Callable[[], None]) -> float:
    """Of the host, which waits for the device before and after several calls."""
    return float(Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=3.0).median)


def tritons_clock(call: Callable[[], None]) -> float:
    """Of the device, by events around each call, which begins with an empty cache."""
    from triton.testing import do_bench  # comes with CUDA builds of torch alone

    return float(do_bench(call, warmup=500, rep=3000, return_mode="median")) / 1e3


OTHERS: dict[str, Clock] = {"torch.utils.benchmark": torchs_clock, "triton.testing.do_bench": tritons_clock}


def roberta_step(device: torch.device) -> tuple[ClassifierStep, Batch]:
    """LoRA on a RoBERTa-large with random weights: long enough for the device to be what counts."""
    torch.manual_seed(0)
    backbone = AutoModelForSequenceClassification.from_config(known_config("FacebookAI/roberta-large"))
    method: Any = known_methods()["lora"].construct({})
    model = method.apply(backbone).to(device)
    optimizer = torch.optim.AdamW(default_groups(model, 0.01), lr=1e-3)
    ids = torch.randint(5, 1000, (ROWS, LENGTH))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(ROWS) % 2}
    return ClassifierStep(model, optimizer), Batch(inputs=inputs, real_tokens=ROWS * LENGTH).to(device)


def compare_clocks(
    step: Any, batch: Any, device: Device, others: Mapping[str, Clock] = OTHERS, *, rounds: int = 3
) -> dict[str, Any]:
    """The same step by all clocks, in turn: what the JSON says.

    Args:
        step: marks its phases; changes the model's weights as in training.
        batch: on the device.
        device: where it runs.
        others: name -> clock.
        rounds: of which each clock's figure is the median.
    """

    def ours() -> float:
        found = measure_latency(step, [batch], device, warmup_steps=5, steps=30)
        return median(one.total_s for one in found.steps)

    seconds: dict[str, list[float]] = {name: [] for name in ("peprof", *others)}
    for _ in range(rounds):
        seconds["peprof"].append(ours())
        for name, clock in others.items():
            seconds[name].append(clock(lambda: step(batch, no_mark)))
    medians = {name: median(values) for name, values in seconds.items()}
    beside = {name: medians["peprof"] / medians[name] - 1 for name in others}
    return {
        "seconds": medians,
        "all_seconds": seconds,
        "peprof_differs_by": beside,
        "tolerance": TIME_TOLERANCE,
        "equal": all(abs(difference) <= TIME_TOLERANCE for difference in beside.values()),
    }


def compare_energy(
    step: Any, batch: Any, device: Device, *, session: Path | None = None, seconds: float = ENERGY_SECONDS
) -> dict[str, Any]:
    """Joules of the same steps by the counter and by power over time: what the JSON says.

    Args:
        step, batch, device: as above.
        session: where to keep what the sampler has seen, a reading a line; tests can look at it again.
        seconds: how long.
    """
    why, sampler = device.why_no_energy(), device.sampler()
    if why is not None or sampler is None:
        return {"why_unavailable": why or "there is nothing that follows this device's energy"}

    def this_one() -> Sampler:
        return sampler

    device.sampler = this_one  # type: ignore[method-assign]  # so that its readings can be kept
    try:
        found = measure_energy(step, [batch], device, min_seconds=seconds)
    finally:
        del device.sampler
    readings = sampler.trace().readings
    if session is not None:
        session.write_text("".join(reading.as_line() + "\n" for reading in readings), encoding="utf-8")
    assert found.window is not None  # steps were run
    return {
        "steps": found.steps,
        "step_energy_j": found.step_energy_j,
        "integrated_to_counted": found.window.integrated_to_counted,
        "why_unavailable": found.why_unavailable,
        "warnings": list(found.warnings),
        "window": asdict(found.window),
    }
