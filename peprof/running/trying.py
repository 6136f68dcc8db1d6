"""A few steps of a run, in a child process that may run out of memory: whether they fit, and their peak."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from peprof.devices import Mark, StepBytes, no_mark, open_device
from peprof.events import Progress
from peprof.gpus.room import GpuRoom
from peprof.profiler.memory import measure_memory
from peprof.running.subject import Subject
from peprof.running.tasks import RoomTask, Say, Tried, TryTask
from peprof.running.worker import explain
from peprof.training.batches import Batch
from peprof.training.data import load_data
from peprof.training.sources import go_offline
from peprof.training.step import ClassifierStep

STEPS = 2
"""From the second on the optimizer has its states; it is the one that is measured."""


class _Place:
    """Where a try is: so that it can be said where memory ran out."""

    def __init__(self, say: Say) -> None:
        self.phase, self._words = "setup", ""
        self._say = say
        say(Progress(phase=self.phase))

    def at_step(self, number: int) -> None:
        """A step begins; they count from 1."""
        self._words = f"step {number} of {STEPS}"
        self._say(Progress(phase=self._words))

    def mark(self, phase: str | None) -> None:
        """A phase of the step begins."""
        if phase is not None:
            self.phase = f"{phase} of {self._words}"


class _FollowedStep:
    """A step whose place is kept; what it costs doesn't matter here."""

    def __init__(self, step: ClassifierStep, place: _Place) -> None:
        self._step, self._place, self._done = step, place, 0

    def __call__(self, batch: Batch, mark: Mark = no_mark) -> torch.Tensor:
        def both(phase: str | None) -> None:
            self._place.mark(phase)
            mark(phase)

        self._done += 1
        self._place.at_step(self._done)
        return self._step(batch, both)

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        return self._step.resident_tensors()


def try_size(task: TryTask, say: Say) -> Tried:
    """Runs ``STEPS`` training steps on one batch, as they would be trained with, and measures the last.

    Args:
        task: what is tried.
        say: told how far it is.

    Returns:
        What it needed; or that it ran out of memory or failed, and where.
    """
    place = _Place(say)
    try:
        memory = _measured(task, place)
    except Exception as error:  # noqa: BLE001 -- the border of the process: whatever happens is an answer
        status, failure = explain(error, place.phase)
        return Tried(status=status, failure=failure)
    own = memory.device is not None and memory.device.of == "process"
    return Tried(
        status="ok",
        peak_bytes=memory.peak_bytes,
        reserved_bytes=memory.peak_reserved_bytes,
        unowned_bytes=memory.unowned_bytes if own else None,  # what others use says nothing of this one
        alloc_retries=memory.alloc_retries,
    )


def _measured(task: TryTask, place: _Place) -> StepBytes:
    go_offline()  # what is needed was fetched before
    spec = task.spec
    device = open_device(task.device)
    device.limit_memory(task.memory_bytes)
    device.get_ready()
    built = Subject(spec, device, load_data(spec.data, source=task.source), task.source).build()
    [batch] = built.train.fixed_shape(spec.train.batch_size, 1, seed=spec.seed)
    batch = batch.to(device.torch_device)
    gc.collect()
    device.release_cached_memory()  # what loading left in a pool isn't what training reserves
    step = _FollowedStep(built.step, place)
    return measure_memory(step, [batch], device, warmup_steps=STEPS - 1)


def room_of(task: RoomTask) -> GpuRoom | None:
    """What there is of a device's memory; ``None`` where it has none of its own."""
    return open_device(task.device).room()
