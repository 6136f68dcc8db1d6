"""Records of whole trainings for tests: with each answer, other metrics, and what happened on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peprof.results.record import Evaluation, FullResult, RunPeak, RunRecord
from peprof.suite.planning import RunSpec
from tests.results.factory import make_full, make_record, make_short, make_spec


def bits(right: Sequence[bool]) -> str:
    """Answers as records have them."""
    return f"{sum(1 << place for place, one in enumerate(right) if one):0{-(-len(right) // 4)}x}"


def answered(label: str, right: Sequence[bool], *, seed: int = 0) -> RunRecord:
    """A run whose answers are known."""
    full = make_full(correct=sum(map(bool, right)), total=len(right))
    return make_record(
        label, seed=seed, short=make_short(), full=full.model_copy(update={"correct_bits": bits(right)})
    )


def judged(
    label: str,
    metrics: Mapping[str, float],
    *,
    data: Mapping[str, object],
    seed: int = 0,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    correct: int | None = None,
) -> RunRecord:
    """A run of another task.

    Args:
        label: of the method.
        metrics: of its only evaluation.
        data: keys of ``[data]``: task and metrics.
        seed: of the run.
        intervals: of the metrics.
        correct: right answers.
    """
    spec = make_spec(label, seed=seed)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update=dict(data))})
    last = Evaluation(
        step=300, train_time_s=600.0, correct=correct, total=1500, loss=0.5, time_s=2.0, metrics=dict(metrics)
    )
    full = make_full().model_copy(
        update={"evaluations": (last,), "result_step": 300, "intervals": dict(intervals or {})}
    )
    return make_record(spec=spec, short=make_short(), full=full)


def on_the_way(
    label: str,
    correct: Sequence[int],
    *,
    seed: int = 0,
    seconds_a_step: float = 0.5,
    watts: float | None = None,
    target: float | None = None,
    spec: RunSpec | None = None,
    peak: RunPeak | None = None,
) -> RunRecord:
    """A run that was evaluated on 1,000 rows each 100 steps.

    Args:
        label: of the method.
        correct: right answers of each evaluation.
        seed: of the run.
        seconds_a_step: of training.
        watts: that training takes; ``None`` where the device can't tell.
        target: of the suite.
        spec: of the run; as ``make_spec`` has it unless given.
        peak: of the whole run.
    """
    spec = spec or make_spec(label, seed=seed)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"target": target})})
    evaluations = tuple(
        Evaluation(
            step=100 * number,
            train_time_s=100 * number * seconds_a_step,
            correct=count,
            total=1000,
            loss=1 - count / 1000,
            time_s=1.0,
            metrics={"accuracy": count / 1000},
            energy_j=None if watts is None else 100 * number * seconds_a_step * watts,
        )
        for number, count in enumerate(correct, start=1)
    )
    last = evaluations[-1]
    full = FullResult(
        steps=last.step,
        epochs=0.5,
        train_time_s=last.train_time_s,
        evaluation_time_s=float(len(evaluations)),
        epoch_times_s=(),
        evaluations=evaluations,
        checkpoint_bytes=1024,
        final_loss=0.2,
        result_step=last.step,
        energy_j=last.energy_j,
        peak=peak,
    )
    return make_record(spec=spec, short=make_short(), full=full)
