"""What runs' steps were computed to need beside what was measured, and how far off it was.

Like is held against like. Tensors' bytes are held against the ledger's count on a CPU, whose own counter also
sees memory inside operators; on a GPU against the allocator's peak, which also has what it rounds up and
libraries' workspaces; what its pool was simulated to hold against what it held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from peprof.breakdown.values import StepProfile
from peprof.results.record import EstimatedMemory, RunRecord, Standing
from peprof.results.statistics import median

Figure = Literal["peak", "reserved", "device"]
Against = Literal["ledger", "allocator"]
FIGURES: tuple[Figure, ...] = ("peak", "reserved", "device")
_NO_TRAINING_STEP = ("short: inference", "full: evaluation")
"""Where memory may run out without a training step having needed it."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A figure as it was predicted, held against what was measured.

    Args:
        predicted_bytes: before.
        measured_bytes: ``None`` where it wasn't.
    """

    predicted_bytes: int
    measured_bytes: int | None

    @property
    def error(self) -> float | None:
        """By which share of what was measured too much was predicted; below 0 too little."""
        if not self.measured_bytes:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


@dataclass(frozen=True, kw_only=True)
class RanOut:
    """How a run that ran out of memory had been predicted.

    Args:
        seed: of the run.
        phase: what it was doing.
        need_bytes: of a training step: what its pool would hold where a known GPU's was simulated, else its
            tensors alone.
        standing: how well that is known.
        there_bytes: of memory for it; ``None`` where nobody told.
    """

    seed: int
    phase: str
    need_bytes: int
    standing: Standing
    there_bytes: int | None

    @property
    def foreseen(self) -> bool | None:
        """Whether more was said to be needed than there was; ``None`` where nobody knows."""
        return None if self.there_bytes is None else self.need_bytes > self.there_bytes


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What was predicted of one run.

    Args:
        held: by figure; without those that weren't predicted.
        against: what the peak of tensors is held against.
        ran_out: ``None`` where it didn't, or not in a training step.
        problem: why nothing was predicted; ``None`` where something was.
        assumptions: in words.
    """

    held: Mapping[Figure, Held]
    against: Against
    ran_out: RanOut | None = None
    problem: str | None = None
    assumptions: tuple[str, ...] = ()

    def error(self, figure: Figure) -> float | None:
        """Of a figure, see ``Held``; ``None`` where it wasn't predicted or wasn't measured."""
        held = self.held.get(figure)
        return held.error if held is not None else None


def prediction_of(record: RunRecord) -> Prediction | None:
    """What was predicted of a run; ``None`` where nobody asked for it."""
    estimate = record.estimate
    if estimate is None:
        return None
    predicted: dict[Figure, int | None] = {
        "peak": estimate.peak_bytes,
        "reserved": estimate.reserved_bytes,
        "device": estimate.device_bytes,
    }
    measured = _measured(record, estimate)
    held: dict[Figure, Held] = {
        figure: Held(predicted_bytes=nbytes, measured_bytes=measured.get(figure))
        for figure, nbytes in predicted.items()
        if nbytes is not None
    }
    return Prediction(
        held=MappingProxyType(held),
        against="ledger" if estimate.kind == "cpu" else "allocator",
        ran_out=_ran_out(record, estimate),
        problem=estimate.problem,
        assumptions=estimate.assumptions,
    )


def _measured(record: RunRecord, estimate: EstimatedMemory) -> dict[Figure, int | None]:
    short = record.short
    memory = short.memory if short is not None else None
    breakdown = short.breakdown if short is not None else None
    if estimate.kind == "cpu":
        return {"peak": breakdown.peak_bytes if breakdown is not None else None}
    if memory is None:
        return {}
    # A pool that had to be emptied holds what there was, not what was wanted.
    wanted = memory.peak_reserved_bytes if not memory.alloc_retries else None
    used = memory.device_bytes if memory.device_bytes_of == "process" and wanted is not None else None
    return {"peak": memory.peak_allocated_bytes, "reserved": wanted, "device": used}


def _ran_out(record: RunRecord, estimate: EstimatedMemory) -> RanOut | None:
    failure = record.failure
    if record.status != "oom" or failure is None or failure.phase in _NO_TRAINING_STEP:
        return None
    need = estimate.reserved_bytes if estimate.reserved_bytes is not None else estimate.peak_bytes
    if need is None:
        return None
    figure = "reserved_bytes" if estimate.reserved_bytes is not None else "tensors"
    return RanOut(
        seed=record.spec.seed,
        phase=failure.phase,
        need_bytes=need,
        standing=estimate.standing.get(figure, "assumed"),
        there_bytes=estimate.there_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class RowPredictions:
    """What was predicted of all runs of a row, in the order of their seeds.

    Args:
        runs: those that were asked for it; at least one.
    """

    runs: tuple[Prediction, ...]

    def predicted_bytes(self, figure: Figure) -> int | None:
        """Median over the runs that have both, so that it goes with the other two; where none has, over those
        of which it was predicted; ``None`` where it was of none.
        """
        held = [run.held[figure] for run in self.runs if figure in run.held]
        found = [one for one in held if one.measured_bytes is not None] or held
        return round(median([one.predicted_bytes for one in found])) if found else None

    def measured_bytes(self, figure: Figure) -> int | None:
        """Median over the runs that have both; ``None`` where none has."""
        found = [
            held.measured_bytes
            for run in self.runs
            if (held := run.held.get(figure)) is not None and held.measured_bytes is not None
        ]
        return round(median(found)) if found else None

    def error(self, figure: Figure) -> float | None:
        """Median over the runs that have both; ``None`` where none has."""
        found = self.errors(figure)
        return median(found) if found else None

    def errors(self, figure: Figure) -> list[float]:
        """Of the runs that have both."""
        return [error for run in self.runs if (error := run.error(figure)) is not None]


def row_predictions(records: Iterable[RunRecord]) -> RowPredictions | None:
    """Of a row's runs; ``None`` where none was asked for it."""
    found = tuple(made for record in records if (made := prediction_of(record)) is not None)
    return RowPredictions(runs=found) if found else None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How far predictions of one figure were off, over all runs of a table.

    Args:
        runs: that have it both predicted and measured.
        median_error: of the errors without their signs.
        worst: the error that is farthest from 0, with its sign; of two such the one that was too low.
        worst_name: whose it is.
        too_low: share of the runs that needed more than was predicted.
    """

    runs: int
    median_error: float
    worst: float
    worst_name: str
    too_low: float


def accuracy(rows: Sequence[tuple[str, RowPredictions]], figure: Figure) -> Accuracy | None:
    """How far off one figure was; ``None`` where no run has it both predicted and measured.

    Args:
        rows: names, and what was predicted of their runs.
        figure: which.
    """
    errors = [(error, name) for name, row in rows for error in row.errors(figure)]
    if not errors:
        return None
    worst, name = max(errors, key=lambda one: (abs(one[0]), one[0] < 0))
    return Accuracy(
        runs=len(errors),
        median_error=median([abs(error) for error, _ in errors]),
        worst=worst,
        worst_name=name,
        too_low=sum(error < 0 for error, _ in errors) / len(errors),
    )


@dataclass(frozen=True, kw_only=True)
class HeldPhase:
    """The most that one phase of a step needed, as predicted and as measured.

    Args:
        phase: its name.
        held: both.
    """

    phase: str
    held: Held


def by_phase(record: RunRecord, profile: StepProfile | None) -> tuple[HeldPhase, ...]:
    """Tensors' bytes by phase of a step; empty where nothing was predicted.

    Args:
        record: of the run.
        profile: what the ledger counted of its step; ``None`` where it isn't there.
    """
    estimate = record.estimate
    if estimate is None:
        return ()
    measured: dict[str, int] = {}
    memory = record.short.memory if record.short is not None else None
    if estimate.kind == "cuda" and memory is not None:
        measured = {part.phase: part.peak_bytes for part in memory.phases}
    elif estimate.kind == "cpu" and profile is not None and profile.ran_out is None:
        measured = {part.phase: part.peak.total_bytes for part in profile.phases}
    return tuple(
        HeldPhase(
            phase=part.phase,
            held=Held(predicted_bytes=part.peak_bytes, measured_bytes=measured.get(part.phase)),
        )
        for part in estimate.phases
    )
