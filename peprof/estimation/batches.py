"""The memory of a model's training step at batch sizes that double, each estimated by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from peprof.errors import UsageError
from peprof.estimation.building import known_data
from peprof.estimation.estimating import estimate_run, memory_key
from peprof.estimation.fitting import sized
from peprof.estimation.gpu_memory import GpuMemory
from peprof.estimation.kernels import Kind
from peprof.events import Progress
from peprof.results.estimates import Estimate
from peprof.suite.planning import RunSpec

Points = dict[str, list[tuple[int, int]]]
LARGEST_BATCH = 256
"""Where doubling ends, unless a larger batch is asked for."""
ENOUGH_BYTES = 80 * 2**30
"""A method that needs more isn't followed further, unless the GPU that is named has more."""


def one_a_method(specs: Sequence[RunSpec]) -> tuple[RunSpec, ...]:
    """The first run of each method, where runs differ in their methods and batch sizes alone.

    Raises:
        UsageError: they differ in something else that memory depends on.
    """
    first: dict[str, RunSpec] = {}
    for spec in specs:
        known = first.setdefault(spec.method.label, spec)
        if memory_key(_at_smallest(known)) != memory_key(_at_smallest(spec)):
            raise UsageError(
                "--plot draws one model, trained in one way: this suite's runs differ in more than method "
                "and batch size",
                hint="Name a suite without a matrix of other keys, or the model by --model.",
            )
    return tuple(first.values())


def _at_smallest(spec: RunSpec) -> RunSpec:
    return sized(spec, "batch", spec.train.gradient_accumulation_steps)


def batch_sizes(spec: RunSpec) -> list[int]:
    """1, 2, 4 ... times the parts that a batch is done in, up to ``LARGEST_BATCH`` or the run's own."""
    last = max(LARGEST_BATCH, spec.train.batch_size)
    sizes = [spec.train.gradient_accumulation_steps]
    while 2 * sizes[-1] <= last:
        sizes.append(2 * sizes[-1])
    return sizes


def estimate_batches(
    specs: Sequence[RunSpec],
    kind: Kind,
    *,
    source: str,
    say: Callable[[Progress], None] = lambda event: None,
    padded: bool = True,
    gpu: GpuMemory | None = None,
    done: Sequence[Estimate] = (),
    num_labels: int | None = None,
) -> Points:
    """By method, (batch size, bytes) at each of ``batch_sizes``.

    The bytes are the peak of tensors; of a known GPU, what would be used on it.

    A method's points end behind the first that is above what is enough to know, and before the first that
    can't be told: a method has none where its steps can't be told at all.

    Args:
        specs: one a method.
        kind: of the device whose operators they would use.
        source: the suite's file, for messages.
        say: told how far it is.
        padded: whether batches hold padding.
        gpu: whose kernels run and whose pool is simulated; ``None`` for none in particular.
        done: estimates of the same circumstances; what they tell isn't computed once more.
        num_labels: classes of data that isn't here; ``None`` where nobody has said.

    Raises:
        SuiteError: a model isn't known here or can't do its task, or data that is here is wrong.
    """
    enough = max(ENOUGH_BYTES, gpu.total.nbytes if gpu is not None else 0)
    drawn = {memory_key(found.spec): _drawn_bytes(found) for found in done}
    found: Points = {spec.method.label: [] for spec in specs}
    counter = _Counter([len(batch_sizes(spec)) for spec in specs], say)
    for number, spec in enumerate(specs):
        known = known_data(spec.data, source=source, num_labels=num_labels)
        for size in batch_sizes(spec):
            counter.say(number, f"estimating {spec.method.label} at batch {size}")
            run = sized(spec, "batch", size)
            key = memory_key(run)
            if key not in drawn:
                estimate = estimate_run(run, known, kind, source=source, padded=padded, gpu=gpu)
                drawn[key] = _drawn_bytes(estimate)
            nbytes = drawn[key]
            if nbytes is None:
                break
            found[spec.method.label].append((size, nbytes))
            if nbytes > enough:
                break
    return found


def _drawn_bytes(found: Estimate) -> int | None:
    return found.peak_bytes if found.device is None else found.device_bytes


class _Counter:
    """How far it is; a method that ends early makes what is left less.

    Args:
        points: of each method, at most.
        say: told of it.
    """

    def __init__(self, points: Sequence[int], say: Callable[[Progress], None]) -> None:
        self._points, self._say = points, say
        self._done = self._of_method = self._method = 0
        self._begin = time.monotonic()

    def say(self, method: int, phase: str) -> None:
        """Before a point of a method."""
        if method != self._method:
            self._method, self._of_method = method, 0
        left = sum(self._points[method:]) - self._of_method
        seconds = (time.monotonic() - self._begin) / self._done * left if self._done else None
        self._say(Progress(phase=phase, step=self._done, total=self._done + left, seconds_left=seconds))
        self._done += 1
        self._of_method += 1
