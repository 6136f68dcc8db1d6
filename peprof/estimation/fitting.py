"""The largest batch, or the longest length, whose training step fits into so much memory.

A step's peak grows evenly with the batch and nearly so with the length, so a few probes tell where the border
must be; it is then found, and verified on both sides, with steps that are built anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from peprof.errors import SuiteError
from peprof.estimation.allocator_settings import TORCHS_OWN, AllocatorSettings
from peprof.estimation.attention_kernels import AMPERES, GpuKernels
from peprof.estimation.building import BuiltOnMeta, KnownData, build_on_meta, longest_length, meta_batch
from peprof.estimation.estimating import UNTELLABLE, estimate_run, problem_of, quiet_libraries
from peprof.estimation.gpu_memory import GpuMemory
from peprof.estimation.kernels import Kind
from peprof.estimation.remedies import remedies_for
from peprof.estimation.tracing import trace
from peprof.results.estimates import SEARCH_END, Estimate, Fit
from peprof.running.border import BorderSearch
from peprof.suite.planning import RunSpec

Dimension = Literal["batch", "length"]

SHORTEST_LENGTH = 4
_STRIDE = 8
"""From one size that fits to the next that is tried, in the search for one that doesn't."""
_LINES = 2
"""So often the line through both sides says where the border is: the second one is straighter."""


class _CannotTellError(Exception):
    """What a step of some size needs can't be told; its estimate, which says why."""

    def __init__(self, estimate: Estimate) -> None:
        super().__init__(estimate.problem)
        self.estimate = estimate


def find_fit(
    spec: RunSpec,
    known: KnownData,
    kind: Kind,
    dimension: Dimension,
    memory_bytes: int,
    *,
    source: str,
    padded: bool = True,
    gpu: GpuMemory | None = None,
    kernels: GpuKernels = AMPERES,
    settings: AllocatorSettings | None = TORCHS_OWN,
    say: Callable[[int], None] = lambda size: None,
) -> Fit:
    """The largest batch or length of a run that fits, by what a simulated pool holds where there is one.

    Args:
        spec: the run; its other dimension stays as it is.
        known: of its data.
        kind: of the device.
        dimension: what grows.
        memory_bytes: that may be used.
        source: the suite's file, for messages.
        padded: whether batches hold padding.
        gpu: whose kernels run and whose pool is simulated; ``None`` for none in particular.
        kernels: what decides on those of attention where there is no ``gpu``.
        settings: of the simulated pool; ``None`` where it isn't to be simulated.
        say: told each size before it is estimated.

    Returns:
        The border; or, where a size on the way can't be told, that size's estimate with its problem.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """
    unit, smallest = unit_of(spec, dimension), smallest_of(spec, dimension)
    steps = _Steps(
        spec,
        known,
        kind,
        dimension,
        source=source,
        padded=padded,
        gpu=gpu,
        kernels=kernels,
        settings=settings,
        say=say,
    )
    try:
        steps.verify(smallest)
        cap = cap_of(spec, known, dimension, source=source)
        largest = _border(steps, memory_bytes, smallest=smallest, cap=cap, unit=unit)
    except _CannotTellError as told:
        return Fit(dimension=dimension, memory_bytes=memory_bytes, estimate=told.estimate, largest=None)
    at = largest if largest is not None else smallest
    return Fit(
        dimension=dimension,
        memory_bytes=memory_bytes,
        largest=largest,
        cap=cap,
        estimate=steps.verified[at],
        beyond=steps.verified.get(at + unit if largest is not None else at),
    )


def _border(steps: _Steps, memory_bytes: int, *, smallest: int, cap: int, unit: int) -> int | None:
    """The largest size that fits, verified on both sides; ``None`` where not even the smallest does.

    Raises:
        _CannotTellError: some size on the way can't be told.
    """
    if steps.need_bytes(smallest) > memory_bytes:
        return None
    start, growth_bytes = supposed_border(
        steps.need_bytes, memory_bytes, smallest=smallest, cap=cap, unit=unit
    )
    search = BorderSearch(
        start=start,
        smallest=smallest,
        cap=cap,
        unit=unit,
        limit_bytes=memory_bytes,
        growth_bytes=growth_bytes,
    )
    while (size := search.next_size()) is not None:
        if size not in steps.verified:
            steps.verify(size)
        need_bytes = steps.need_bytes(size)
        search.tell(size, fits=need_bytes <= memory_bytes, need_bytes=need_bytes)
    return search.largest


def find_fits(
    spec: RunSpec,
    known: KnownData,
    kind: Kind,
    dimensions: Sequence[Dimension],
    memory_bytes: int,
    *,
    source: str,
    padded: bool = True,
    gpu: GpuMemory | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> dict[str, Fit]:
    """All that is asked of a run, by dimension; and with what would help there, as ``remedies_for`` says.

    Args:
        spec: the run; where one dimension grows, the other stays as it is.
        dimensions: that are looked for.
        known, kind, memory_bytes, source, padded, gpu: as for ``find_fit``.
        say: told what is tried, in words.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """

    def find(run: RunSpec, dimension: Dimension, words: str = "") -> Fit:
        return find_fit(
            run,
            known,
            kind,
            dimension,
            memory_bytes,
            source=source,
            padded=padded,
            gpu=gpu,
            say=lambda size: say(f"{dimension} {size}{words}"),
        )

    found: dict[str, Fit] = {}
    for dimension in dimensions:
        fit = find(spec, dimension)
        remedies: dict[str, int] = {}
        for name, changed in remedies_for(fit, spec):
            try:
                largest = find(changed, dimension, f" with {name}").largest
            except SuiteError:  # it doesn't go with this model or method
                continue
            if largest is not None and largest > (fit.largest or 0):
                remedies[name] = largest
        found[dimension] = replace(fit, remedies=remedies)
    return found


def sized(spec: RunSpec, dimension: Dimension, size: int) -> RunSpec:
    """The run with another batch or length."""
    if dimension == "batch":
        return spec.model_copy(update={"train": spec.train.model_copy(update={"batch_size": size})})
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": size})})


def unit_of(spec: RunSpec, dimension: Dimension) -> int:
    """What lies between two sizes: a batch that is cut has whole parts."""
    return spec.train.gradient_accumulation_steps if dimension == "batch" else 1


def smallest_of(spec: RunSpec, dimension: Dimension) -> int:
    """The first size."""
    return unit_of(spec, dimension) if dimension == "batch" else SHORTEST_LENGTH


def cap_of(spec: RunSpec, known: KnownData, dimension: Dimension, *, source: str) -> int:
    """The last size: what the model has positions for, or more than anybody asks for.

    Args:
        spec: the run.
        known: of its data.
        dimension: what grows.
        source: the suite's file, for messages.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """
    if dimension == "batch":
        return SEARCH_END // unit_of(spec, dimension) * unit_of(spec, dimension)
    return longest_length(sized(spec, "length", SHORTEST_LENGTH), known, source=source) or SEARCH_END


class _Steps:
    """What a run's steps of different sizes need: estimated anew, or quickly over one model.

    The quick way needs no step that makes optimizer states. Methods that change from step to step may be
    somewhere else by then, so that borders are verified with estimates.

    Args:
        spec, known, kind, dimension, source, padded, gpu, kernels, settings, say: as for ``find_fit``.
    """

    def __init__(
        self,
        spec: RunSpec,
        known: KnownData,
        kind: Kind,
        dimension: Dimension,
        *,
        source: str,
        padded: bool,
        gpu: GpuMemory | None,
        kernels: GpuKernels,
        settings: AllocatorSettings | None,
        say: Callable[[int], None],
    ) -> None:
        self._spec, self._known, self._kind, self._dimension = spec, known, kind, dimension
        self._source, self._padded, self._gpu, self._settings = source, padded, gpu, settings
        self._kernels = gpu.kernels if gpu is not None else kernels
        self._say = say
        self.verified: dict[int, Estimate] = {}
        self._built: BuiltOnMeta | None = None
        self._has_state = False
        self._peaks_bytes: dict[int, int] = {}

    def verify(self, size: int) -> None:
        """Adds the estimate of a step that is built anew.

        Raises:
            _CannotTellError: there is none.
            SuiteError: the model isn't known here or can't do the task.
        """
        self._say(size)
        found = estimate_run(
            sized(self._spec, self._dimension, size),
            self._known,
            self._kind,
            source=self._source,
            padded=self._padded,
            gpu=self._gpu,
            kernels=self._kernels,
            settings=self._settings,
        )
        if found.problem is not None:
            raise _CannotTellError(self._named(found, size))
        self.verified[size] = found

    def need_bytes(self, size: int) -> int:
        """Of a size; of one that isn't verified the peak of its tensors, and what the pool of the nearest
        verified one has beside them.

        Raises:
            _CannotTellError: an operator says no.
        """
        near = self.verified[min(self.verified, key=lambda other: abs(other - size))]
        assert near.need_bytes is not None and near.peak_bytes is not None  # as it has no problem
        if size in self.verified:
            return near.need_bytes
        return self._peak_bytes(size) + near.need_bytes - near.peak_bytes

    def _peak_bytes(self, size: int) -> int:
        if size not in self._peaks_bytes:
            self._say(size)
            try:
                self._peaks_bytes[size] = self._quick_peak_bytes(size)
            except SuiteError:
                raise
            except UNTELLABLE as error:
                spec = sized(self._spec, self._dimension, size)
                found = Estimate(spec=spec, kind=self._kind, profile=None, problem=problem_of(error))
                raise _CannotTellError(self._named(found, size)) from error
        return self._peaks_bytes[size]

    def _quick_peak_bytes(self, size: int) -> int:
        with quiet_libraries():
            if self._built is None:
                smallest = smallest_of(self._spec, self._dimension)
                run = sized(self._spec, self._dimension, smallest)
                self._built = build_on_meta(run, self._known, self._kind, source=self._source)
            found = trace(
                self._built.step,
                meta_batch(sized(self._spec, self._dimension, size), self._built.config),
                self._kind,
                padded=self._padded,
                warm_up=not self._has_state,
                kernels=self._kernels,
            )
        self._has_state = True
        return found.peak_bytes

    def _named(self, found: Estimate, size: int) -> Estimate:
        """With the size in its problem, as it isn't the run's own."""
        if size == smallest_of(self._spec, self._dimension):
            return found  # whatever size it is, it says that
        return replace(found, problem=f"{self._dimension} {size}: {found.problem}")


def supposed_border(
    needed: Callable[[int], int], limit: int, *, smallest: int, cap: int, unit: int = 1
) -> tuple[int, float | None]:
    """Where the border must be about, and by how much needs grow there; by few questions.

    Goes up in large strides until the limit is passed; then the line through both sides tells, twice.

    Args:
        needed: never smaller for a larger size.
        limit: that needs must not exceed; the smallest size's doesn't.
        smallest, cap: first and last size; multiples of ``unit``.
        unit: between sizes.

    Returns:
        A size, and what one more of it needs; ``None`` for that where nothing is known to be too large.

    Example:
        >>> supposed_border(lambda n: 100 + 7 * n, 1000, smallest=1, cap=10**6)
        (128, 7.0)
    """
    low, low_bytes = smallest, needed(smallest)
    while True:
        if low == cap:
            return cap, None
        high = min(cap, _STRIDE * low)
        high_bytes = needed(high)
        if high_bytes > limit:
            break
        low, low_bytes = high, high_bytes
    size = low
    for _ in range(_LINES):
        growth = (high_bytes - low_bytes) / (high - low)
        size = low + int((limit - low_bytes) / growth) // unit * unit
        if size in (low, high):
            break
        size_bytes = needed(size)
        if size_bytes <= limit:
            low, low_bytes = size, size_bytes
        else:
            high, high_bytes = size, size_bytes
    return size, (high_bytes - low_bytes) / (high - low)
