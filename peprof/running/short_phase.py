"""The short phase of a run: a timing pass and a memory pass over batches of one shape."""

from __future__ import annotations

import time

from peprof.devices import Device, StepBytes, StepTime
from peprof.events import Progress
from peprof.profiler.latency import Latency, measure_latency
from peprof.profiler.memory import measure_memory
from peprof.results.record import MemoryResult, PhaseMemory, ShortResult, StepTimes
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import Batch, EncodedSplit
from peprof.training.step import ClassifierStep

DISTINCT_BATCHES = 16
"""Batches made beforehand and used in turn: enough that no step sees the same rows as its neighbours."""


def run_short_phase(
    spec: RunSpec, step: ClassifierStep, train: EncodedSplit, device: Device, say: Say
) -> ShortResult:
    """Measures single steps; the batches lie on the device before the first of them.

    The memory pass comes after the timing pass and apart from it, since counting allocations costs time.
    """
    asked = spec.short
    count = min(asked.warmup_steps + asked.steps, DISTINCT_BATCHES)
    batches = [
        batch.to(device.torch_device)
        for batch in train.fixed_shape(spec.train.batch_size, count, seed=spec.seed)
    ]
    begin = time.perf_counter()

    def on_step(part: str, done: int, total: int) -> None:
        elapsed = time.perf_counter() - begin
        left = elapsed / done * (total - done) if part == "timing" else None
        if left is not None and asked.max_seconds is not None:
            left = max(0.0, min(left, asked.max_seconds - elapsed))
        say(Progress(phase=f"short: {part}", step=done, total=total, seconds_left=left))

    latency = measure_latency(
        step,
        batches,
        device,
        warmup_steps=asked.warmup_steps,
        steps=asked.steps,
        max_seconds=asked.max_seconds,
        on_step=on_step,
    )
    say(Progress(phase="short: memory", step=0, total=1))
    memory = measure_memory(step, batches[:1], device, warmup_steps=0)
    return _result(spec, batches, latency, memory)


def _result(spec: RunSpec, batches: list[Batch], latency: Latency, memory: StepBytes) -> ShortResult:
    first = latency.warmup_steps
    used = [batches[(first + index) % len(batches)] for index in range(len(latency.steps))]
    return ShortResult(
        warmup_steps=latency.warmup_steps,
        stopped_by=latency.stopped_by,
        batch_size=spec.train.batch_size,
        padded_tokens=spec.train.batch_size * spec.data.max_length,
        real_tokens=tuple(batch.real_tokens for batch in used),
        times=_times(latency),
        memory=MemoryResult(
            source=memory.source,
            start_bytes=memory.start_bytes,
            peak_allocated_bytes=memory.peak_bytes,
            peak_reserved_bytes=memory.peak_reserved_bytes,
            phases=tuple(
                PhaseMemory(phase=p.phase, peak_bytes=p.peak_bytes, end_bytes=p.end_bytes)
                for p in memory.phases
            ),
        ),
    )


def _times(latency: Latency) -> StepTimes:
    def of(phase: str) -> tuple[float, ...]:
        return tuple(step.phases_s[phase] for step in latency.steps)

    steps: tuple[StepTime, ...] = latency.steps
    return StepTimes(
        clock=latency.clock,
        step_s=tuple(step.total_s for step in steps),
        forward_s=of("forward"),
        backward_s=of("backward"),
        clip_s=of("clip") if "clip" in steps[0].phases_s else None,
        optimizer_s=of("optimizer"),
    )
