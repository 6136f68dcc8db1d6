"""The short phase's work pass: operations and bytes of a step, and the peak that its rate is held against."""

from __future__ import annotations

from collections.abc import Sequence

from peprof.devices import Device
from peprof.devices.peaks import format_of_products, peak_rate
from peprof.events import Progress
from peprof.profiler.work import StepWork, measure_work
from peprof.results.record import PhaseWorkResult, WorkResult
from peprof.running.tasks import Say
from peprof.suite.planning import RunSpec
from peprof.training.batches import Batch
from peprof.training.step import ClassifierStep


def run_work_pass(
    spec: RunSpec, step: ClassifierStep, batches: Sequence[Batch], device: Device, say: Say
) -> WorkResult:
    """Counts the work of one more step.

    Args:
        spec: the run.
        step: a warm step.
        batches: on the device; the last one is counted.
        device: where it runs.
        say: told that it begins.
    """
    say(Progress(phase="short: work", step=0, total=1))
    found = measure_work(step, batches, warmup_steps=0)
    facts = device.facts()
    products = format_of_products(facts.kind, spec.model.dtype, spec.train.autocast)
    peak = peak_rate(facts.name, products)
    return WorkResult(
        phases=_phases(found),
        uncounted=found.uncounted,
        peak_flops_per_s=peak.flops_per_s,
        peak_words=peak.words,
    )


def _phases(found: StepWork) -> tuple[PhaseWorkResult, ...]:
    return tuple(
        PhaseWorkResult(phase=one.phase, flops=one.flops, bytes_accessed=one.bytes_accessed)
        for one in found.phases
    )
