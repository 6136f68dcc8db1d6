"""One run, in a child process: RunSpec in, RunRecord out. Whatever goes wrong becomes part of the record."""

from __future__ import annotations

import gc
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peprof.breakdown.values import StepProfile
from peprof.devices import Device, as_out_of_memory, open_device
from peprof.errors import PeprofError, SuiteError
from peprof.events import Progress
from peprof.profiler.errors import StepOutOfMemoryError
from peprof.results.record import (
    Failure,
    FullResult,
    ModelFacts,
    ParameterCounts,
    RunRecord,
    ShortResult,
    Status,
    TrainingHistory,
    utc_now,
)
from peprof.running.environment import describe_environment
from peprof.running.full_phase import run_full_phase
from peprof.running.keeping import keep_adapter
from peprof.running.methods import apply_method, enable_checkpointing, make_method
from peprof.running.replay import out_of_memory, run_out_again
from peprof.running.short_phase import run_short_phase
from peprof.running.tasks import RunResult, Say
from peprof.suite.planning import RunSpec
from peprof.training.backbone import load_backbone
from peprof.training.batches import EncodedSplit
from peprof.training.data import ClassificationData, load_data
from peprof.training.optimizers import default_groups, make_optimizer, make_schedule
from peprof.training.protocols import HasAfterStep, HasLossTerm, HasParameterGroups, LearnsFromData
from peprof.training.sources import go_offline
from peprof.training.step import ClassifierStep
from peprof.training.tasks import encode, tokenizer_texts
from peprof.training.trainer import DivergedError, planned_steps

MESSAGE_CHARACTERS = 500
"""A longer message is cut: whoever needs all of it finds it in the traceback."""

PURE_HALF_WARNING = (
    "trained in pure float16 without loss scaling: small gradients become zero and updates can overflow, so "
    "the loss and accuracy say little of the method; bfloat16 has the range of float32"
)


@dataclass(kw_only=True)
class _Findings:
    """What a run has found so far; filled as it goes, so that a failure keeps what came before it."""

    parts: dict[str, Any] = field(default_factory=dict)
    history: TrainingHistory | None = None
    memory: StepProfile | None = None
    phase: str = "setup"
    run_out_again: Callable[[], StepProfile | None] | None = None

    def keep_history(self, history: TrainingHistory) -> None:
        """Keeps a training step by step."""
        self.history = history

    def keep_short(self, result: ShortResult, memory: StepProfile | None) -> None:
        """Keeps what the short phase has found so far."""
        self.parts["short"] = result
        self.memory = memory

    def warn(self, warning: str) -> None:
        """Adds to the record's warnings."""
        self.parts["warnings"] = (*self.parts.get("warnings", ()), warning)


def run(
    spec: RunSpec,
    *,
    device_name: str,
    source: str,
    attempt: int,
    say: Say,
    keep: Callable[[RunResult], None] = lambda result: None,
    adapter_directory: Path | None = None,
) -> RunResult:
    """Does one run on a device.

    Args:
        spec: what to do.
        device_name: ``cpu`` or ``cuda:N``.
        source: the suite's file, for messages.
        attempt: 1 for the first try.
        say: told how far it is.
        keep: given a failure's result before its cause is looked into, which may end the process.
        adapter_directory: where what was trained is kept, if the run asks for it; ``None`` keeps nothing.

    Returns:
        The record, whatever happened, and what lies beside it.
    """
    begin, started_at = time.perf_counter(), utc_now()
    found = _Findings()

    def heard(event: Progress) -> None:
        found.phase = event.phase
        say(event)

    status: Status = "ok"
    failure: Failure | None = None
    try:
        _run(spec, device_name, source, found, heard, begin, adapter_directory)
    except Exception as error:  # noqa: BLE001 -- the border of the process: any failure becomes a row
        status, failure = _explain(error, found.phase)
        if isinstance(error, StepOutOfMemoryError):
            found.memory = error.profile

    def result() -> RunResult:
        record = RunRecord(
            run_id=spec.run_id,
            spec=spec,
            status=status,
            failure=failure,
            started_at=started_at,
            finished_at=utc_now(),
            total_time_s=time.perf_counter() - begin,
            attempt=attempt,
            **found.parts,
        )
        return RunResult(record=record, history=found.history, memory=found.memory)

    # Here the error is gone, and with it the tensors that its traceback held.
    if failure is not None and status == "oom":
        keep(result())
        failure = _with_memory(failure, found)
    return result()


def _run(
    spec: RunSpec,
    device_name: str,
    source: str,
    found: _Findings,
    say: Say,
    begin: float,
    adapter_directory: Path | None,
) -> None:
    if adapter_directory is not None:
        # What an earlier attempt has trained isn't what this one's record tells of.
        shutil.rmtree(adapter_directory, ignore_errors=True)
    go_offline()  # what is needed was fetched before; nothing may touch the network while being measured
    say(Progress(phase="setup"))
    device = open_device(device_name)
    if spec.model.dtype == "float16":
        found.warn(PURE_HALF_WARNING)
    found.parts["environment"] = describe_environment(device)
    data = load_data(spec.data, source=source)
    found.parts["data"] = data.facts
    subject = _Subject(spec, device, data, source)
    built = subject.build()
    found.parts |= {"parameters": built.counts, "model": built.facts}
    found.parts["setup_time_s"] = time.perf_counter() - begin

    if "short" in spec.phases:
        found.run_out_again = partial(run_out_again, spec, built.step, built.train, built.owners, device)
        run_short_phase(spec, built.step, built.train, built.owners, device, say, found)
        found.run_out_again = None
        if "full" in spec.phases:
            # The short phase has trained: start again from the same seed. The old model must go first.
            say(Progress(phase="setup"))
            del built
            gc.collect()
            device.release_cached_memory()
            built = subject.build()
    if "full" in spec.phases:
        full: FullResult = run_full_phase(
            spec, built.step, built.train, built.validation, built.method, device, say, found.keep_history
        )
        found.parts["full"] = full
        if adapter_directory is not None and spec.train.save_adapter:
            keep_adapter(built.step.model, built.method, adapter_directory, found.warn)


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A method applied to a backbone, ready to train."""

    step: ClassifierStep
    method: Any
    train: EncodedSplit
    validation: EncodedSplit
    counts: ParameterCounts
    owners: Mapping[str, str]
    facts: ModelFacts


class _Subject:
    """Builds what is measured, each time the same from the same seed."""

    def __init__(self, spec: RunSpec, device: Device, data: ClassificationData, source: str) -> None:
        self._spec, self._device, self._data, self._source = spec, device, data, source
        self._encoded: tuple[EncodedSplit, EncodedSplit] | None = None

    def build(self) -> _Built:
        spec, data = self._spec, self._data
        _seed(spec.seed)
        backbone = load_backbone(
            spec.model,
            num_labels=data.facts.num_labels,
            texts=lambda: tokenizer_texts(data.train, spec.data),
            source=self._source,
            task=spec.data.task,
            words=spec.data.verbalizers,
        )
        if self._encoded is None:
            encoded = partial(
                encode,
                data=spec.data,
                tokenizer=backbone.tokenizer,
                geometry=backbone.model.config,
                source=self._source,
            )
            self._encoded = (encoded(data.train), encoded(data.validation))
        method = make_method(spec.method)
        plain: Any = backbone.model  # whose `to` has annotations that a checker can't follow
        plain.to(self._device.torch_device)
        applied = apply_method(method, plain, self._examples_for(method))
        model = applied.model.to(self._device.torch_device)
        if spec.method.gradient_checkpointing:
            enable_checkpointing(model)
        if isinstance(method, HasParameterGroups):
            groups = method.parameter_groups(model, spec.train.learning_rate, spec.train.weight_decay)
        else:
            groups = default_groups(model, spec.train.weight_decay)
        optimizer = make_optimizer(spec.train, groups)
        steps = planned_steps(spec.train, len(data.train.labels))
        step = ClassifierStep(
            model,
            optimizer,
            schedule=make_schedule(spec.train, optimizer, steps),
            max_grad_norm=spec.train.max_grad_norm,
            loss_term=partial(method.loss_term, model) if isinstance(method, HasLossTerm) else None,
            after_step=partial(method.after_step, model, total_steps=steps)
            if isinstance(method, HasAfterStep)
            else None,
        )
        return _Built(
            step=step,
            method=method,
            train=self._encoded[0],
            validation=self._encoded[1],
            counts=applied.counts,
            owners=applied.owners,
            facts=backbone.facts,
        )

    def _examples_for(self, method: object) -> Iterator[Mapping[str, torch.Tensor]]:
        """Training examples for a method that asks for some; drawn by the run's seed."""
        if not isinstance(method, LearnsFromData) or not method.examples_needed():
            return
        assert self._encoded is not None
        batches = self._encoded[0].epoch(self._spec.train.batch_size, seed=self._spec.seed)
        left = method.examples_needed()
        for batch in batches:
            if left <= 0:
                return
            on_device = batch.to(self._device.torch_device).inputs
            yield {name: tensor[:left] for name, tensor in on_device.items()}
            left -= self._spec.train.batch_size


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _with_memory(failure: Failure, found: _Findings) -> Failure:
    """A failure for want of memory, and whose the memory was, where that can be found."""
    if (found.memory is None or found.memory.ran_out is None) and found.run_out_again is not None:
        try:
            found.memory = found.run_out_again() or found.memory
        except Exception as error:  # noqa: BLE001 -- whatever it is, the first error is the one that counts
            found.warn(f"whose the memory was can't be said: {_one_line(str(error))[:MESSAGE_CHARACTERS]}")
    memory = out_of_memory(found.memory) if found.memory is not None else None
    return failure.model_copy(update={"memory": memory})


def _explain(error: Exception, phase: str) -> tuple[Status, Failure]:
    """An exception -> a status and what to say of it."""
    if isinstance(error, StepOutOfMemoryError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    memory = as_out_of_memory(error)
    status: Status = "failed"
    message = str(error)
    hint: str | None = None
    if memory is not None:
        status = "oom"
        hint = "Lower train.batch_size or data.max_length, or choose a method with a smaller peak."
    elif isinstance(error, DivergedError):
        status = "diverged"
    if isinstance(error, PeprofError):
        message, hint = error.message, error.hint
    if isinstance(error, SuiteError):
        message = f"{error.source}: " + "; ".join(map(str, error.faults))
    else:
        message = _one_line(message)[:MESSAGE_CHARACTERS]
    return status, Failure(
        phase=phase,
        kind=type(error).__name__,
        message=message or type(error).__name__,
        hint=hint,
        requested_bytes=memory.requested_bytes if memory is not None else None,
        traceback="".join(traceback.format_exception(error)),
    )
