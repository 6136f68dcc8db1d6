"""The largest batch, or the longest length, whose training step fits into so much memory.

A step's peak grows evenly with the batch and nearly so with the length, so a few probes find the border; it
is then verified on both sides with steps that are built anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from peprof.estimation.building import BuiltOnMeta, KnownData, build_on_meta, longest_length, meta_batch
from peprof.estimation.estimating import estimate_run, quiet_libraries
from peprof.estimation.gpu_memory import GpuMemory
from peprof.estimation.kernels import AMPERE, Kind
from peprof.estimation.tracing import trace
from peprof.results.estimates import Estimate, Fit
from peprof.suite.planning import RunSpec

Dimension = Literal["batch", "length"]
Need = Callable[[Estimate], "int | None"]
"""An estimate -> the memory that it needs; ``None`` where that isn't known."""

LARGEST_BATCH, LONGEST_LENGTH = 2**20, 2**20
"""Nobody asks for more; where even this fits, it is the answer."""
SHORTEST_LENGTH = 4


def pool_bytes(estimate: Estimate) -> int | None:
    """What a known GPU's pool would hold, as simulated."""
    return estimate.reserved_bytes


def tensor_bytes(estimate: Estimate) -> int | None:
    """What the ledger counts; what an allocator makes of it is more."""
    return estimate.peak_bytes


def find_fit(
    spec: RunSpec,
    known: KnownData,
    kind: Kind,
    dimension: Dimension,
    memory_bytes: int,
    *,
    source: str,
    need: Need = tensor_bytes,
    padded: bool = True,
    gpu: GpuMemory | None = None,
) -> Fit:
    """The largest batch or length of a run that fits.

    Args:
        spec: the run; its other dimension stays as it is.
        known: of its data.
        kind: of the device.
        dimension: what grows.
        memory_bytes: that may be used.
        source: the suite's file, for messages.
        need: what counts as the memory of a step.
        padded: whether batches hold padding.
        gpu: whose kernels run and whose pool is simulated; ``None`` for none in particular.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """

    def estimated(size: int) -> Estimate:
        return estimate_run(sized(spec, dimension, size), known, kind, source=source, padded=padded, gpu=gpu)

    unit, smallest = unit_of(spec, dimension), smallest_of(spec, dimension)
    first = estimated(smallest)
    if first.problem is not None:
        return Fit(dimension=dimension, memory_bytes=memory_bytes, estimate=first, largest=None)
    cap = cap_of(spec, known, dimension, source=source)
    probe = _Probe(
        sized(spec, dimension, smallest), known, kind, dimension, source=source, padded=padded, gpu=gpu
    )
    verified: dict[int, Estimate] = {smallest: first}

    def needed(size: int) -> int:
        nearest = min(verified, key=lambda other: abs(other - size))
        near = verified[nearest]
        more = (need(near) or 0) - (near.peak_bytes or 0)  # than the bytes of tensors
        return (need(near) or 0) if nearest == size else probe(size) + more

    while True:
        largest = largest_within(needed, memory_bytes, smallest=smallest, cap=cap, unit=unit)
        sizes = [largest, largest + unit] if largest is not None else [smallest]
        missing = [size for size in sizes if size not in verified and size <= cap]
        if not missing:
            break
        verified |= {size: estimated(size) for size in missing}
    return Fit(
        dimension=dimension,
        memory_bytes=memory_bytes,
        largest=largest,
        estimate=verified[largest if largest is not None else smallest],
        beyond=verified.get(largest + unit) if largest is not None else first,
        need_bytes=need(verified[largest if largest is not None else smallest]),
        at_cap=largest == cap,
    )


def find_fits(
    spec: RunSpec,
    known: KnownData,
    kind: Kind,
    dimensions: Sequence[Dimension],
    memory_bytes: int,
    *,
    source: str,
    need: Need = tensor_bytes,
    padded: bool = True,
    gpu: GpuMemory | None = None,
) -> dict[str, Fit]:
    """All that is asked of a run, by dimension; where activations are the limit, with checkpointing too.

    Args:
        spec: the run; where one dimension grows, the other stays as it is.
        dimensions: that are looked for.
        known, kind, memory_bytes, source, need, padded, gpu: as for ``find_fit``.

    Raises:
        SuiteError: the model isn't known here or can't do the task.
    """

    def find(run: RunSpec, dimension: Dimension) -> Fit:
        return find_fit(
            run, known, kind, dimension, memory_bytes, source=source, need=need, padded=padded, gpu=gpu
        )

    found: dict[str, Fit] = {}
    for dimension in dimensions:
        fit = find(spec, dimension)
        if fit.bound_by in ("activations", "temporaries") and not spec.method.gradient_checkpointing:
            method = spec.method.model_copy(update={"gradient_checkpointing": True})
            checkpointed = find(spec.model_copy(update={"method": method}), dimension).largest
            fit = replace(fit, checkpointed=checkpointed)
        found[dimension] = fit
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
        return LARGEST_BATCH // unit_of(spec, dimension) * unit_of(spec, dimension)
    return longest_length(sized(spec, "length", SHORTEST_LENGTH), known, source=source) or LONGEST_LENGTH


class _Probe:
    """The peak of a step at other sizes, quickly: over one model, without a step that makes optimizer states.

    Methods that change from step to step may be somewhere else by then, so the border is verified apart.
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
    ) -> None:
        self._capability = gpu.gpu.capability if gpu is not None else AMPERE
        self._spec, self._kind, self._dimension, self._padded = spec, kind, dimension, padded
        with quiet_libraries():
            self._built: BuiltOnMeta = build_on_meta(spec, known, kind, source=source)
        self._has_state = False
        self._found: dict[int, int] = {}

    def __call__(self, size: int) -> int:
        if size not in self._found:
            batch = meta_batch(sized(self._spec, self._dimension, size), self._built.config)
            with quiet_libraries():
                found = trace(
                    self._built.step,
                    batch,
                    self._kind,
                    padded=self._padded,
                    warm_up=not self._has_state,
                    capability=self._capability,
                )
            self._has_state = True
            self._found[size] = found.peak_bytes
        return self._found[size]


def largest_within(
    needed: Callable[[int], int], limit: int, *, smallest: int, cap: int, unit: int = 1
) -> int | None:
    """The largest size whose need is within the limit; ``None`` where the smallest one's isn't.

    Goes by the line through the last two sizes, which is exact where needs grow evenly, and halves the rest
    where it isn't.

    Args:
        needed: never smaller for a larger size.
        limit: that needs must not exceed.
        smallest, cap: first and last size; multiples of ``unit``.
        unit: between sizes.

    Example:
        >>> largest_within(lambda n: 100 + 7 * n, 1000, smallest=1, cap=10**6)
        128
    """
    found = {smallest: needed(smallest)}
    if found[smallest] > limit:
        return None
    low, high, turn = smallest, None, 0
    while low < cap and (high is None or high - low > unit):
        turn += 1
        top = cap if high is None else high - unit
        size = max(low + unit, min(_next_size(found, low, high, limit, unit, halve=turn % 3 == 0), top))
        found[size] = needed(size)
        if found[size] <= limit:
            low = size
        else:
            high = size
    return low


def _next_size(
    found: Mapping[int, int], low: int, high: int | None, limit: int, unit: int, *, halve: bool
) -> int:
    """Where the line through two sizes meets the limit, rounded down to a unit; or the middle.

    Args:
        found: needs by size.
        low: the largest size that is known to fit.
        high: the smallest that is known not to; ``None`` where none is.
        limit: of needs.
        unit: between sizes.
        halve: to take the middle, where there is one.
    """
    if high is not None and halve:
        return (low + high) // 2 // unit * unit
    other = high if high is not None else max((size for size in found if size < low), default=None)
    if other is None:
        return low + unit
    slope = (found[other] - found[low]) / (other - low)
    if slope <= 0:
        return 2 * low
    return low + int((limit - found[low]) / slope) // unit * unit
