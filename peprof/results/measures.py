"""What two versions are compared by: names, units, which way is better, and where it lies in a record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from peprof.results.record import RunRecord, StepTimes
from peprof.suite.metrics import METRICS, Metric

Unit = Literal["s", "B", "J", "1/s", "operations", "share", "number"]
Kind = Literal["steps", "runs", "exact", "score"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Something that a version may do better or worse than another.

    Args:
        name: as options and files have it.
        unit: of its values.
        kind: ``steps``: each run has a sample; ``runs``: each run has one noisy number; ``exact``: each run
            has one number without noise; ``score``: a metric of the result.
        samples: of one run: its steps, or its one number; empty where it wasn't measured.
        higher_is_better: false where less is better.
    """

    name: str
    unit: Unit
    kind: Kind
    samples: Callable[[RunRecord], Sequence[float]]
    higher_is_better: bool = False

    def known_samples(self, runs: Iterable[RunRecord]) -> list[Sequence[float]]:
        """Of the runs that have one."""
        return [found for run in runs if (found := self.samples(run))]


def _of_times(pick: Callable[[StepTimes], Sequence[float] | None]) -> Callable[[RunRecord], Sequence[float]]:
    def samples(record: RunRecord) -> Sequence[float]:
        times = record.short.times if record.short else None
        return _positive(pick(times) or ()) if times else ()

    return samples


def _positive(values: Sequence[float]) -> Sequence[float]:
    """The values, if all are such that a ratio can be made of them: no clock says 0 s of real work."""
    return values if values and min(values) > 0 and math.isfinite(sum(values)) else ()


def _one(value: float | None) -> Sequence[float]:
    return () if value is None else _positive((float(value),))


def _peak_allocated(record: RunRecord) -> Sequence[float]:
    memory = record.short.memory if record.short else None
    return _one(memory.peak_allocated_bytes if memory else None)


def _peak_reserved(record: RunRecord) -> Sequence[float]:
    memory = record.short.memory if record.short else None
    return _one(memory.peak_reserved_bytes if memory else None)


def _flops(record: RunRecord) -> Sequence[float]:
    work = record.short.work if record.short else None
    return _one(sum(phase.flops for phase in work.phases) if work else None)


def _inference(record: RunRecord) -> Sequence[float]:
    inference = record.short.inference if record.short else None
    return _positive(inference.adapted.times.forward_s) if inference else ()


def _step_energy(record: RunRecord) -> Sequence[float]:
    energy = record.short.energy if record.short else None
    return _one(energy.sample_energy_j if energy else None)


def _train_time(record: RunRecord) -> Sequence[float]:
    return _one(record.full.train_time_s if record.status == "ok" and record.full else None)


def _energy(record: RunRecord) -> Sequence[float]:
    full, data = record.full, record.data
    if record.status != "ok" or full is None or data is None or full.energy_j is None:
        return ()
    samples = full.epochs * data.train_rows
    return _one(full.energy_j / samples if samples > 0 else None)


def _score(record: RunRecord) -> Sequence[float]:
    raise TypeError("a score is compared with its answers, not by samples")


STEP_TIME = Measure(name="step_time", unit="s", kind="steps", samples=_of_times(lambda times: times.step_s))

_ALL = (
    STEP_TIME,
    Measure(name="forward_time", unit="s", kind="steps", samples=_of_times(lambda times: times.forward_s)),
    Measure(name="backward_time", unit="s", kind="steps", samples=_of_times(lambda times: times.backward_s)),
    Measure(name="clip_time", unit="s", kind="steps", samples=_of_times(lambda times: times.clip_s)),
    Measure(
        name="optimizer_time", unit="s", kind="steps", samples=_of_times(lambda times: times.optimizer_s)
    ),
    Measure(
        name="samples_per_second", unit="1/s", kind="steps", samples=STEP_TIME.samples, higher_is_better=True
    ),
    Measure(name="peak_allocated", unit="B", kind="exact", samples=_peak_allocated),
    Measure(name="peak_reserved", unit="B", kind="exact", samples=_peak_reserved),
    Measure(name="flops", unit="operations", kind="exact", samples=_flops),
    Measure(name="inference_time", unit="s", kind="steps", samples=_inference),
    Measure(name="step_energy_per_sample", unit="J", kind="runs", samples=_step_energy),
    Measure(name="train_time", unit="s", kind="runs", samples=_train_time),
    Measure(name="energy_per_sample", unit="J", kind="runs", samples=_energy),
)


def _of_metric(metric: Metric) -> Measure:
    return Measure(
        name=metric.name,
        unit="share" if metric.share else "number",
        kind="score",
        samples=_score,
        higher_is_better=metric.higher_is_better,
    )


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {measure.name: measure for measure in (*_ALL, *map(_of_metric, METRICS.values()))}
)
"""By name, in the order in which they are shown.

``samples_per_second`` is the batch size by the step's time. ``step_energy_per_sample`` is of single steps in
the short phase, ``energy_per_sample`` of a whole training.
"""

#: Stands for whatever metric decides, in options.
DECIDING = "metric"
