"""Runs -> the memory of their training steps, each computed once, without data and without the device.

All of it happens in the process that asks: nothing is measured here, so torch may be imported beside whatever
shows the result, and a child would only import it once more. Whoever must answer at once, such as
``peprof --help``, imports this late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache

from peprof.errors import PeprofError, SuiteError
from peprof.estimation.allocator_settings import TORCHS_OWN, AllocatorSettings
from peprof.estimation.allocator_simulation import AllocationEvent, Resident, simulate
from peprof.estimation.attention_kernels import AMPERES, GpuKernels
from peprof.estimation.building import KnownData, build_on_meta, known_data
from peprof.estimation.gpu_memory import GpuMemory
from peprof.estimation.kernels import Kind
from peprof.estimation.scratch import Scratch, with_scratch
from peprof.estimation.tracing import trace
from peprof.events import Progress
from peprof.results.estimates import DeviceMemory, Estimate, StepEvents
from peprof.suite.planning import RunSpec
from peprof.training.batches import Batch
from peprof.training.quiet import errors_alone

GUESSED = "somewhere a size depends on values; 1 was taken"
_LONGEST_PROBLEM = 300
UNTELLABLE = (RuntimeError, ValueError, TypeError, ArithmeticError, PeprofError)
"""What models, methods and operators raise where a step can't be run without data."""


def estimate_runs(
    specs: Sequence[RunSpec],
    kind: Kind,
    *,
    source: str,
    say: Callable[[Progress], None] = lambda event: None,
    events: bool = False,
    padded: bool = True,
    gpu: GpuMemory | None = None,
    settings: AllocatorSettings | None = TORCHS_OWN,
    num_labels: int | None = None,
    tell: Callable[[Estimate], None] = lambda found: None,
) -> tuple[Estimate, ...]:
    """Estimates runs, in their order; those that need the same memory are computed once.

    Args:
        specs: the runs.
        kind: of the device whose operators they would use.
        source: the suite's file, for messages.
        say: told how far it is.
        events: whether each estimate keeps the births and deaths of its tensors.
        padded: whether batches hold padding, so that attention needs a mask.
        gpu: whose kernels run and whose pool is simulated; ``None`` for none in particular.
        settings: of the simulated allocator; ``None`` where it isn't to be simulated.
        num_labels: classes of data that isn't here; ``None`` where nobody has said.
        tell: told of each run's estimate as soon as it is there.

    Raises:
        SuiteError: a model isn't known here or can't do its task, or data that is here is wrong. What one
            method can't do is a row.
    """
    data_of = cache(lambda text: known_data(by_text[text], source=source, num_labels=num_labels))
    by_text = {spec.data.model_dump_json(): spec.data for spec in specs}
    done: dict[str, Estimate] = {}
    cases = {memory_key(spec): spec for spec in reversed(specs)}
    begin = time.monotonic()
    for spec in specs:
        key = memory_key(spec)
        if key in done:
            tell(_of(spec, done[key]))
            continue
        left = (time.monotonic() - begin) / len(done) * (len(cases) - len(done)) if done else None
        say(Progress(
            phase=f"estimating {spec.method.label}", step=len(done), total=len(cases), seconds_left=left
        ))  # fmt: skip
        known = data_of(spec.data.model_dump_json())
        done[key] = estimate_run(
            spec, known, kind, source=source, events=events, padded=padded, gpu=gpu, settings=settings
        )
        tell(done[key])
    return tuple(_of(spec, done[memory_key(spec)]) for spec in specs)


def _of(spec: RunSpec, found: Estimate) -> Estimate:
    return found if found.spec is spec else replace(found, spec=spec)


def memory_key(spec: RunSpec) -> str:
    """Equal for runs whose training steps need the same memory."""
    train = spec.train
    decides = (
        spec.model.model_dump_json(),
        spec.data.model_dump_json(
            include={"name", "path", "subset", "max_length", "task", "max_target_length"}
        ),
        (train.batch_size, train.gradient_accumulation_steps, train.autocast, train.max_grad_norm is None),
        (train.optimizer, sorted(train.optimizer_options.items()), train.weight_decay > 0),
        spec.method.model_dump_json(include={"name", "options", "gradient_checkpointing"}),
    )
    return repr(decides)


def estimate_run(
    spec: RunSpec,
    known: KnownData,
    kind: Kind,
    *,
    source: str,
    events: bool = False,
    padded: bool = True,
    gpu: GpuMemory | None = None,
    kernels: GpuKernels = AMPERES,
    batch: Batch | None = None,
    settings: AllocatorSettings | None = TORCHS_OWN,
) -> Estimate:
    """The memory of a run's training step.

    Args:
        spec: the run.
        known: of its data.
        kind: of the device whose operators it would use.
        source: the suite's file, for messages.
        events: whether to keep the births and deaths of its tensors.
        padded: whether batches hold padding.
        gpu: whose kernels run and whose pool is simulated; ``None`` for none in particular.
        kernels: what decides on those of attention where there is no ``gpu``.
        batch: on ``meta``; one of the longest length unless given.
        settings: of the simulated allocator; ``None`` where it isn't to be simulated.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """
    device = _device_of(gpu) if gpu is not None else None
    with quiet_libraries():
        try:
            built = build_on_meta(spec, known, kind, source=source)
            kernels = gpu.kernels if gpu is not None else kernels
            found = trace(built.step, batch or built.batch, kind, padded=padded, kernels=kernels)
        except SuiteError:
            raise
        except UNTELLABLE as error:
            problem = problem_of(error)
            return Estimate(spec=spec, kind=kind, profile=None, problem=problem, device=device)
        log = found.events()
        reserved: int | None = None
        untold: tuple[str, ...] = ()
        if gpu is not None and settings is not None:
            reserved, untold = reserved_bytes(log, gpu, settings, scratch=found.scratch), found.untold
        return Estimate(
            spec=spec,
            kind=kind,
            reserved_bytes=reserved,
            device_bytes=reserved + gpu.context.nbytes if gpu is not None and reserved is not None else None,
            profile=found.profile(built.owners),
            counts=built.counts,
            architecture=built.architecture,
            assumptions=(*built.assumptions, *([GUESSED] if found.guessed else []), *untold),
            events=log if events else None,
            device=device,
        )


def _device_of(gpu: GpuMemory) -> DeviceMemory:
    return DeviceMemory(
        name=gpu.gpu.name,
        total_bytes=gpu.total.nbytes,
        context_bytes=gpu.context.nbytes,
        workspace_bytes=sum(gpu.workspaces_bytes),
    )


def reserved_bytes(
    events: StepEvents,
    gpu: GpuMemory,
    settings: AllocatorSettings = TORCHS_OWN,
    *,
    scratch: Sequence[Scratch] = (),
) -> int:
    """What the caching allocator would hold of a GPU that has room for all, workspaces included.

    Args:
        events: of a step.
        gpu: whose libraries keep workspaces.
        settings: of the allocator.
        scratch: what operators had meanwhile.
    """
    resident = [Resident(number, nbytes) for number, nbytes in events.resident if nbytes]
    resident += [Resident(~place, nbytes) for place, nbytes in enumerate(gpu.workspaces_bytes)]
    changes = [AllocationEvent(*event) for event in events.in_phases()]
    changes = with_scratch(changes, scratch, first=~len(gpu.workspaces_bytes))
    steps = simulate(changes, resident=resident, config=settings)
    return max(steps.peak.reserved_bytes, steps.first_step_peak.reserved_bytes)


def problem_of(error: Exception) -> str:
    """Why a step can't be run without data, in one line: what a method or an operator says."""
    line = " ".join(str(error).split())[:_LONGEST_PROBLEM] or type(error).__name__
    if isinstance(error, NotImplementedError) or "meta" in line.lower():
        return f"can't be told without data: {line}"
    return line


def quiet_libraries() -> AbstractContextManager[None]:
    """Without advice for people who run the model."""
    return errors_alone("transformers")
