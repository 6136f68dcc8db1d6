"""The short phase of a run: time, energy, memory, work, use, each in a pass of its own over one shape."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import torch

from peprof.breakdown.values import StepProfile
from peprof.devices import Device, Mark, StepBytes, StepTime
from peprof.events import Progress
from peprof.profiler.errors import ProfileError
from peprof.profiler.latency import Latency, measure_latency
from peprof.profiler.memory import measure_memory
from peprof.profiler.profile import profile_step
from peprof.profiler.warming import SHARE, warm_up
from peprof.results.record import (
    MemoryResult,
    PeakBreakdown,
    PhaseMemory,
    PhaseTimes,
    PoolPeaks,
    ShortResult,
    StepTimes,
)
from peprof.running.energy_pass import run_energy_pass
from peprof.running.inference_pass import InUse, run_inference_pass
from peprof.running.rounds import KeptRound, joined
from peprof.running.tasks import Say
from peprof.running.work_pass import run_work_pass
from peprof.suite.planning import RunSpec
from peprof.training.batches import Batch, EncodedSplit
from peprof.training.step import ClassifierStep
from peprof.training.trainer import check_finite

DISTINCT_BATCHES = 16
"""Batches made beforehand and used in turn: enough that no step sees the same rows as its neighbours."""

RETRIES_WARNING = (
    "memory was so short that in one step the pool had to be emptied {} time(s) to find room: with more of "
    "it steps would be faster, and the peak of reserved bytes is what there was, not what was wanted"
)


class _WatchedStep:
    """A step whose losses are kept where they are, on the device, to be looked at when nothing is timed."""

    def __init__(self, step: ClassifierStep) -> None:
        self._step = step
        self._losses: list[torch.Tensor] = []

    def __call__(self, batch: Batch, mark: Mark) -> torch.Tensor:
        loss = self._step(batch, mark)
        self._losses.append(loss)
        return loss

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        return self._step.resident_tensors()

    def check(self, part: str) -> None:
        """Looks at the losses since the last look and lets them go. Waits for the device.

        Args:
            part: of the short phase, for the message.

        Raises:
            DivergedError: one isn't finite. NaNs are not slower, but nobody wants to know how fast they are.
        """
        losses = torch.stack(self._losses).double().tolist()
        self._losses.clear()
        for number, loss in enumerate(losses, start=1):
            check_finite(loss, "training loss", f"at step {number} of {len(losses)} (short: {part})")


class Findings(Protocol):
    """Takes what is found as soon as it is, so that a later pass that fails costs no earlier one."""

    def keep_short(self, result: ShortResult, memory: StepProfile | None) -> None:
        """Keeps what the short phase has found so far."""

    def warn(self, warning: str) -> None:
        """Adds to the record's warnings."""


def run_short_phase(
    spec: RunSpec,
    step: ClassifierStep,
    train: EncodedSplit,
    owners: Mapping[str, str],
    device: Device,
    say: Say,
    found: Findings,
    *,
    in_use: InUse | None = None,
    rounds: Sequence[KeptRound] = (),
) -> None:
    """Measures single steps; the batches lie on the device before the first of them.

    The memory pass comes after the timing pass and apart from it, since counting allocations costs time. It
    starts on every device from the same things: parameters, buffers, optimizer state and one batch (on CUDA
    also the workspaces that libraries keep). So the timing pass's other batches and losses go first, and what
    the timing pass left in a pool of memory is given back. One step that isn't measured then fills the pool
    again with what steady training needs, so that ``peak_reserved_bytes`` says what training reserves and not
    what earlier steps happened to leave. Then come the ledger's pass and a step whose operations are counted,
    which cost most. What using the model costs comes last, as the model is merged for it.

    Args:
        spec: the run.
        step: the method's training step.
        train: the rows.
        owners: of the model's modules and parameters, by qualified name.
        device: where it runs.
        say: told how far it is.
        found: given the results.
        in_use: what measuring the model in use needs, where the suite asks for it; ``None`` leaves that out.
        rounds: that were timed before: they take the timing pass's place, after the same warm-up.

    Raises:
        DivergedError: the loss of a step isn't finite; they are looked at outside what is timed.
    """
    batches = fixed_batches(spec, train, device)
    watched = _WatchedStep(step)
    if rounds:
        _warm_up(spec, watched, batches, device, say)
        result = joined(rounds)
    else:
        result = _time(spec, watched, batches, device, say)
    found.keep_short(result, None)

    energy, warnings = run_energy_pass(spec, watched, batches, device, say)
    if energy is not None:
        result = result.model_copy(update={"energy": energy})
        if energy.steps:
            watched.check("energy")
            found.keep_short(result, None)
        for warning in warnings:
            found.warn(warning)

    say(Progress(phase="short: memory", step=0, total=1))
    del batches[1:]
    gc.collect()
    device.release_cached_memory()
    # The bare step: a kept loss would be counted, and what a step holds doesn't depend on values.
    memory = measure_memory(step, batches, device, warmup_steps=1)
    if memory.alloc_retries:
        found.warn(RETRIES_WARNING.format(memory.alloc_retries))
    result = result.model_copy(update={"memory": _memory_result(memory)})
    found.keep_short(result, None)

    say(Progress(phase="short: breakdown", step=0, total=1))
    profile: StepProfile | None = None
    try:
        profile = profile_step(
            step.model, batches[0], step, optimizers=step.optimizer, owner=owners, warmup_steps=0
        )
    except ProfileError as error:
        found.warn(f"whose the memory is can't be said: {error}")
    else:
        result = result.model_copy(update={"breakdown": _breakdown(profile, memory)})
        found.keep_short(result, profile)

    work = run_work_pass(spec, step, batches, device, say)
    result = result.model_copy(update={"work": work})
    found.keep_short(result, profile)
    if in_use is not None and spec.short.inference:
        used = run_inference_pass(spec, step.model, in_use, batches[0], device, say, found.warn)
        found.keep_short(result.model_copy(update={"inference": used}), profile)


def run_timing_pass(
    spec: RunSpec, step: ClassifierStep, train: EncodedSplit, device: Device, say: Say, found: Findings
) -> None:
    """The timing pass alone; arguments and errors as of ``run_short_phase``."""
    batches = fixed_batches(spec, train, device)
    found.keep_short(_time(spec, _WatchedStep(step), batches, device, say), None)


def _time(
    spec: RunSpec, watched: _WatchedStep, batches: Sequence[Batch], device: Device, say: Say
) -> ShortResult:
    asked = spec.short
    begin = time.perf_counter()

    def on_step(part: str, done: int, total: int) -> None:
        if part == "timing" and done == 0:
            watched.check("warm-up")
        elapsed = time.perf_counter() - begin
        left = elapsed / done * (total - done) if part == "timing" and done else None
        if left is not None and asked.max_seconds is not None:
            left = max(0.0, min(left, asked.max_seconds - elapsed))
        say(Progress(phase=f"short: {part}", step=done, total=total, seconds_left=left))

    latency = measure_latency(
        watched,
        batches,
        device,
        warmup_steps=asked.warmup_steps,
        extra_warmup_steps=asked.extra_warmup_steps,
        steps=asked.steps,
        min_seconds=asked.min_seconds,
        max_seconds=asked.max_seconds,
        on_step=on_step,
    )
    watched.check("timing")
    return _timed(spec, [batch.real_tokens for batch in batches], latency)


def _warm_up(
    spec: RunSpec, watched: _WatchedStep, batches: Sequence[Batch], device: Device, say: Say
) -> None:
    """What the passes after a timing pass find done, where that was done elsewhere."""
    asked, begin = spec.short, time.perf_counter()

    def out_of_time() -> bool:
        return asked.max_seconds is not None and time.perf_counter() - begin > asked.max_seconds * SHARE

    warm_up(
        watched,
        batches,
        device,
        steps=asked.warmup_steps,
        extra_steps=0,
        out_of_time=out_of_time,
        on_step=lambda done, total: say(Progress(phase="short: warm-up", step=done, total=total)),
    )
    watched.check("warm-up")


def fixed_batches(spec: RunSpec, train: EncodedSplit, device: Device) -> list[Batch]:
    """The batches of the timing pass, on the device; each is padded to ``max_length``."""
    count = min(spec.short.warmup_steps + spec.short.steps, DISTINCT_BATCHES)
    return [
        batch.to(device.torch_device)
        for batch in train.fixed_shape(spec.train.batch_size, count, seed=spec.seed)
    ]


def _timed(spec: RunSpec, real_tokens: list[int], latency: Latency) -> ShortResult:
    """Sums up the timing pass.

    Args:
        spec: the run.
        real_tokens: of each batch; they were used in turn, from the first warm-up step on.
        latency: what was measured.
    """
    first = latency.warmup_steps
    return ShortResult(
        warmup_steps=latency.warmup_steps,
        steady=latency.steady,
        stopped_by=latency.stopped_by,
        batch_size=spec.train.batch_size,
        padded_tokens=spec.train.batch_size * spec.data.max_length,
        real_tokens=tuple(
            real_tokens[(first + index) % len(real_tokens)] for index in range(len(latency.steps))
        ),
        times=step_times(latency),
        memory=None,
    )


def _memory_result(memory: StepBytes) -> MemoryResult:
    return MemoryResult(
        source=memory.source,
        start_bytes=memory.start_bytes,
        peak_allocated_bytes=memory.peak_bytes,
        peak_reserved_bytes=memory.peak_reserved_bytes,
        phases=tuple(
            PhaseMemory(
                phase=p.phase,
                peak_bytes=p.peak_bytes,
                end_bytes=p.end_bytes,
                pool=PoolPeaks(**asdict(p.pool)) if p.pool is not None else None,
            )
            for p in memory.phases
        ),
        alloc_retries=memory.alloc_retries,
        ooms=memory.ooms,
        device_bytes=memory.device.used_bytes if memory.device is not None else None,
        device_bytes_of=memory.device.of if memory.device is not None else None,
        unowned_bytes=memory.unowned_bytes,
    )


def _breakdown(profile: StepProfile, memory: StepBytes) -> PeakBreakdown:
    peak = profile.peak
    return PeakBreakdown(
        peak_bytes=peak.total_bytes,
        peak_phase=peak.phase,
        categories=dict(peak.categories),
        owners=dict(peak.owners),
        saved_bytes=profile.activations.total_bytes,
        uncounted_bytes=memory.peak_bytes - peak.total_bytes,
    )


def step_times(latency: Latency) -> StepTimes:
    """Samples of all clocks, as records have them."""
    return StepTimes(
        clock=latency.clock,
        host=_host_times(latency.steps),
        wall=PhaseTimes(**_by_phase(latency.waited)) if latency.waited else None,
        enqueue=_host_times(latency.waited),
        pass_s=latency.pass_s,
        **_by_phase(latency.steps),
    )


def _host_times(steps: Sequence[StepTime]) -> PhaseTimes | None:
    hosts = [step.host for step in steps if step.host is not None]
    return PhaseTimes(**_by_phase(hosts)) if hosts else None


def _by_phase(steps: Sequence[StepTime]) -> dict[str, Any]:
    def of(phase: str) -> tuple[float, ...]:
        return tuple(step.phases_s[phase] for step in steps)

    return {
        "step_s": tuple(step.total_s for step in steps),
        "forward_s": of("forward"),
        "backward_s": of("backward"),
        "clip_s": of("clip") if "clip" in steps[0].phases_s else None,
        "optimizer_s": of("optimizer"),
    }
