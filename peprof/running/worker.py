"""One run, in a child process: RunSpec in, RunRecord out. Whatever goes wrong becomes part of the record."""

from __future__ import annotations

import gc
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from peprof.breakdown.values import StepProfile
from peprof.devices import Device, as_out_of_memory, open_device
from peprof.errors import PeprofError, SuiteError
from peprof.events import Progress
from peprof.profiler.errors import StepOutOfMemoryError
from peprof.results.record import (
    Environment,
    Failure,
    FullResult,
    Predictions,
    RunRecord,
    ShortResult,
    Status,
    TrainingHistory,
    utc_now,
)
from peprof.running.environment import describe_environment
from peprof.running.estimate_pass import UNFINISHED, OwnRun, run_estimate_pass
from peprof.running.full_phase import run_full_phase
from peprof.running.inference_pass import InUse
from peprof.running.keeping import keep_adapter
from peprof.running.replay import out_of_memory, run_out_again
from peprof.running.resuming import PeriodicKeeper, RunCheckpoint, conditions_of, source_digest
from peprof.running.rounds import KeptRound, rounds_of
from peprof.running.short_phase import run_short_phase, run_timing_pass
from peprof.running.subject import Built, Subject
from peprof.running.tasks import RunResult, Say
from peprof.suite.planning import RunSpec
from peprof.tracking.following import Following
from peprof.training.batches import EncodedSplit
from peprof.training.data import load_data
from peprof.training.moving_state import MovingState, StateMismatchError
from peprof.training.quantising import quiet_bitsandbytes
from peprof.training.sources import go_offline
from peprof.training.trainer import DivergedError

MESSAGE_CHARACTERS = 500
"""A longer message is cut: whoever needs all of it finds it in the traceback."""

PURE_HALF_WARNING = (
    "trained in pure float16 without loss scaling: small gradients become zero and updates can overflow, so "
    "the loss and accuracy say little of the method; bfloat16 has the range of float32"
)


ROUNDS_WARNING = (
    "timed once and not in rounds: some of these were timed with another source of the method, or on another "
    "kind of device; remove the record and run the suite again to have them all"
)


@dataclass(kw_only=True)
class _Findings:
    """What a run has found so far; filled as it goes, so that a failure keeps what came before it."""

    parts: dict[str, Any] = field(default_factory=dict)
    history: TrainingHistory | None = None
    predictions: Predictions | None = None
    memory: StepProfile | None = None
    phase: str = "setup"
    method_source: str | None = None
    run_out_again: Callable[[], StepProfile | None] | None = None
    train: EncodedSplit | None = None
    memory_bytes: int | None = None
    following: Following | None = None

    def keep_history(self, history: TrainingHistory) -> None:
        """Keeps a training step by step."""
        self.history = history

    def keep_predictions(self, predictions: Predictions) -> None:
        """Keeps the result's answers."""
        self.predictions = predictions

    def keep_short(self, result: ShortResult, memory: StepProfile | None) -> None:
        """Keeps what the short phase has found so far."""
        self.parts["short"] = result
        self.memory = memory

    def warn(self, warning: str) -> None:
        """Adds to the record's warnings."""
        self.parts["warnings"] = (*self.parts.get("warnings", ()), warning)


@dataclass(frozen=True, kw_only=True)
class _KeptIn:
    """Where it is kept what a run leaves beside its record, and which attempt this is; see ``run``."""

    adapter: Path | None
    checkpoint: Path | None
    attempt: int
    after_failure: bool


def run(
    spec: RunSpec,
    *,
    device_name: str,
    source: str,
    attempt: int,
    say: Say,
    keep: Callable[[RunResult], None] = lambda result: None,
    adapter_directory: Path | None = None,
    checkpoint_directory: Path | None = None,
    after_failure: bool = False,
    run_directory: Path | None = None,
    trackers: Sequence[str] = (),
    timing_only: bool = False,
    rounds: Sequence[KeptRound] = (),
) -> RunResult:
    """Does one run on a device.

    Args:
        spec: what to do.
        device_name: ``cpu`` or ``cuda:N``.
        source: the suite's file, for messages.
        attempt: 1 for the first try.
        say: told how far it is.
        keep: given a failure's result before its cause is looked into, and any before its memory is
            estimated: both may end the process.
        adapter_directory: where what was trained is kept, if the run asks for it; ``None`` keeps nothing.
        checkpoint_directory: where it is kept how far the run got, if it asks for it, and where an earlier
            attempt has kept that; ``None`` keeps nothing and starts anew.
        after_failure: whether the attempt before this one failed by itself.
        run_directory: beside whose record trackers keep what they write; ``None`` for no trackers.
        trackers: names of those that follow the run; they were checked.
        timing_only: times steps and does nothing else: a round of the run, whose record holds the times.
        rounds: of the run, timed before; empty where it times its steps itself.

    Returns:
        The record, whatever happened, and what lies beside it.
    """
    begin, started_at = time.perf_counter(), utc_now()
    found = _Findings()
    if run_directory is not None and not timing_only:
        found.following = Following(spec, run_directory, trackers, found.warn)
    kept_in = _KeptIn(
        adapter=adapter_directory if not timing_only else None,
        checkpoint=checkpoint_directory if not timing_only else None,
        attempt=attempt,
        after_failure=after_failure,
    )

    def heard(event: Progress) -> None:
        found.phase = event.phase
        say(event)

    status: Status = "ok"
    failure: Failure | None = None
    try:
        with quiet_bitsandbytes():
            _run(spec, device_name, source, found, heard, begin, kept_in, timing_only, rounds)
    except Exception as error:  # noqa: BLE001 -- the border of the process: any failure becomes a row
        status, failure = explain(error, found.phase)
        if isinstance(error, StepOutOfMemoryError):
            found.memory = error.profile

    total_time_s = time.perf_counter() - begin + sum(one.total_time_s for one in rounds)

    def result() -> RunResult:
        record = RunRecord(
            run_id=spec.run_id,
            spec=spec,
            status=status,
            failure=failure,
            started_at=started_at,
            finished_at=utc_now(),
            total_time_s=total_time_s,
            attempt=attempt,
            **found.parts,
        )
        return RunResult(
            record=record,
            history=found.history,
            memory=found.memory,
            predictions=found.predictions,
            method_source=found.method_source,
        )

    # Here the error is gone, and with it the tensors that its traceback held.
    if found.following is not None:
        found.following.finish(result().record)
    if spec.short.estimate and "short" in spec.phases and (failure is not None or not timing_only):
        found.parts["estimate"] = _own(spec, source, found).without(UNFINISHED)
        keep(result())
        say(Progress(phase="estimate", step=0, total=1))
        found.parts["estimate"] = run_estimate_pass(_own(spec, source, found))
    if failure is not None and status == "oom":
        keep(result())
        with quiet_bitsandbytes():
            failure = _with_memory(failure, found)
    return result()


def _own(spec: RunSpec, source: str, found: _Findings) -> OwnRun:
    """The run as far as it knows itself."""
    environment: Environment | None = found.parts.get("environment")
    return OwnRun(
        spec=spec,
        source=source,
        kind="cuda" if spec.device == "cuda" else "cpu",
        device_name=environment.device_name if environment is not None else None,
        memory_bytes=found.memory_bytes,
        facts=found.parts.get("data"),
        train=found.train,
    )


def _run(
    spec: RunSpec,
    device_name: str,
    source: str,
    found: _Findings,
    say: Say,
    begin: float,
    kept_in: _KeptIn,
    timing_only: bool,
    rounds: Sequence[KeptRound],
) -> None:
    if kept_in.adapter is not None:
        # What an earlier attempt has trained isn't what this one's record tells of.
        shutil.rmtree(kept_in.adapter, ignore_errors=True)
    go_offline()  # what is needed was fetched before; nothing may touch the network while being measured
    say(Progress(phase="setup"))
    device = open_device(device_name)
    device.get_ready()
    if spec.model.dtype == "float16":
        found.warn(PURE_HALF_WARNING)
    found.parts["environment"] = describe_environment(device)
    found.memory_bytes = device.bytes_for_tensors()
    data = load_data(spec.data, source=source)
    found.parts["data"] = data.facts
    subject = Subject(spec, device, data, source)
    built = subject.build()
    found.train = built.train
    found.parts |= {"parameters": built.counts, "model": built.facts}
    found.parts["setup_time_s"] = time.perf_counter() - begin
    found.method_source = source_digest(type(built.method))

    if timing_only:
        found.run_out_again = partial(run_out_again, spec, built.step, built.train, built.owners, device)
        run_timing_pass(spec, built.step, built.train, device, say, found)
        return
    checkpoint = _checkpoint(spec, built.method, found, kept_in)
    if "short" in spec.phases and not _found_before(checkpoint, found):
        _run_short(spec, built, subject, device, say, found, checkpoint, rounds)
        if "full" in spec.phases:
            # The short phase has trained: start again from the same seed. The old model must go first.
            say(Progress(phase="setup"))
            del built
            gc.collect()
            device.release_cached_memory()
            built = subject.build()
    if "full" in spec.phases:
        keeper, training = None, None
        if checkpoint is not None and spec.train.checkpoint_every_seconds is not None:
            moving = MovingState(built.step, built.method, device.torch_device)
            try:
                training = checkpoint.put_back(moving)
            except StateMismatchError:
                del moving, built
                built = subject.build()
                moving = MovingState(built.step, built.method, device.torch_device)
            if training is not None:
                note = f"resumed at step {training.steps}"
                say(Progress(phase="full: training", step=training.steps, note=note))
            keeper = PeriodicKeeper(spec.train.checkpoint_every_seconds, checkpoint, moving)
        if found.following is not None:
            found.following.open(
                resumed_step=training.steps if training is not None else 0,
                short=found.parts.get("short"),
                last_evaluation=training.evaluations[-1] if training and training.evaluations else None,
            )
        full: FullResult = run_full_phase(
            spec,
            built.step,
            built.train,
            built.validation,
            built.method,
            device,
            say,
            found.keep_history,
            keep_predictions=found.keep_predictions,
            warn=found.warn,
            watchers=(found.following,) if found.following is not None else (),
            keeper=keeper,
            training=training,
        )
        found.parts["full"] = full
        if kept_in.adapter is not None and spec.train.save_adapter:
            keep_adapter(built.step.model, built.method, kept_in.adapter, found.warn)


def _checkpoint(spec: RunSpec, method: object, found: _Findings, kept_in: _KeptIn) -> RunCheckpoint | None:
    """How far the run got before, and where that is kept; ``None`` if it isn't to be."""
    asked = "full" in spec.phases and spec.train.checkpoint_every_seconds is not None
    if kept_in.checkpoint is None or not asked:
        return None
    return RunCheckpoint(
        kept_in.checkpoint,
        run_id=spec.run_id,
        attempt=kept_in.attempt,
        after_failure=kept_in.after_failure,
        conditions=conditions_of(found.parts["environment"], method),
        warn=found.warn,
    )


def _found_before(checkpoint: RunCheckpoint | None, found: _Findings) -> bool:
    """Takes over what the short phase of an earlier attempt found; whether there was something."""
    kept = checkpoint.short() if checkpoint is not None else None
    if kept is None:
        return False
    found.keep_short(kept.short, kept.memory)
    for warning in kept.warnings:
        found.warn(warning)
    return True


def _run_short(
    spec: RunSpec,
    built: Built,
    subject: Subject,
    device: Device,
    say: Say,
    found: _Findings,
    checkpoint: RunCheckpoint | None,
    rounds: Sequence[KeptRound],
) -> None:
    in_use = InUse(method=built.method, make_plain=subject.build_plain)
    warnings = len(found.parts.get("warnings", ()))
    found.run_out_again = partial(run_out_again, spec, built.step, built.train, built.owners, device)
    if len([one for one in rounds if one.method_source == found.method_source]) < rounds_of(spec):
        found.warn(ROUNDS_WARNING)
        rounds = ()
    run_short_phase(
        spec, built.step, built.train, built.owners, device, say, found, in_use=in_use, rounds=rounds
    )
    found.run_out_again = None
    if checkpoint is not None:
        checkpoint.keep_short(found.parts["short"], found.parts.get("warnings", ())[warnings:], found.memory)


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


def explain(error: Exception, phase: str) -> tuple[Status, Failure]:
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
