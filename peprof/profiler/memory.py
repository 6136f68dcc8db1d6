"""The memory pass: the peak of one training step and of each of its phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peprof.devices import Device, StepBytes, no_mark
from peprof.profiler.latency import garbage_collection_off
from peprof.profiler.step import TrainingStep, tensors_in


def measure_memory(
    step: TrainingStep, batches: Sequence[Any], device: Device, *, warmup_steps: int = 1
) -> StepBytes:
    """Counts live bytes over one training step.

    Args:
        step: the step; it changes the model's weights as in training.
        batches: on the device; the last one is measured, the others warm up.
        device: where it runs.
        warmup_steps: steps before, so that lazily made optimizer state exists; 0 if steps were run already.

    Returns:
        Bytes before the step, at its peak, and by phase.

    Raises:
        ValueError: there is no batch.
    """
    if not batches:
        raise ValueError("batches is empty; at least one batch is needed")
    for index in range(warmup_steps):
        step(batches[index % len(batches)], no_mark)
    batch = batches[-1]
    with garbage_collection_off():
        resident = [*step.resident_tensors(), *tensors_in(batch)]
        meter_context = device.memory_meter(resident)
        del resident
        with meter_context as meter:
            step(batch, meter.mark)
    return meter.result()
