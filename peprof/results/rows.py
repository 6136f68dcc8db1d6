"""Runs that differ in nothing but the seed -> one row of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peprof.results.budgets import Within
from peprof.results.figures import ShortFigures, epoch_time_s, metric_figures, short_figures
from peprof.results.paired import Tested
from peprof.results.predicted import RowPredictions, row_predictions
from peprof.results.progress_curves import Curve, Reached, curve_of
from peprof.results.record import Evaluation, Failure, FullResult, RunRecord, Status
from peprof.results.scores import Score, noise_of_seeds, score_of, with_noise_of_seeds
from peprof.results.statistics import Interval, Quartiles, median
from peprof.results.work_figures import InferenceFigures, inference_figures, step_rate
from peprof.suite.metrics import METRICS, Metric


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run of a row ended."""

    run_id: str
    seed: int
    status: Status
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class AgainstReference:
    """By how much a row's deciding metric differs from the reference's.

    Args:
        value: this row less the reference, over the seeds that both have.
        seeds: that both have.
        tested: with what result; ``None`` where nothing can be tested.
        adjusted_p: the p-value, adjusted by Holm for all rows of the table that were tested.
        untested_because: ``None`` where something was tested.
    """

    value: float
    seeds: int
    tested: Tested | None = None
    adjusted_p: float | None = None
    untested_because: str | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under the conditions of its table: all its seeds together.

    Costs are medians over the seeds' medians; bytes, seconds and counts as their names say. ``None`` is what
    was not measured.

    Args:
        label: what the suite calls the method.
        variant: what tells it from another row of the same label, ``rank=16``; empty when there is none.
        method: the method's name.
        options: the method's options.
        outcomes: one a run, in order of the seeds.
        trainable_backbone, trainable_head: parameters.
        metric: what decides which row is better.
        scores: over the seeds, by metric; the deciding one first where it is known.
        exact_match: share of the answers, mean over the seeds, that are written exactly as the right word;
            ``None`` where nothing is written.
        invalid: the same for those that are no class's word.
        curves: of the deciding metric on the way, one a finished seed.
        measured_steps: the fewest of any seed.
        asked_steps: what the suite asked to measure.
        stopped_by_time: ``short.max_seconds`` ended the timing pass of at least one seed.
        outlier_steps: over all seeds.
        first_step_slow: of at least one seed.
        rounds: in which steps were timed, the fewest of any seed.
        step_interval: 95 %, of the median step.
        step_p90_s, step_p99_s: 90 and 99 of 100 steps are no slower.
        host_step_s, enqueue_step_s, wall_step_s, pass_step_s, drift, spread: as of ``ShortFigures``.
        launch_bound: the host limits the device, in at least one seed; ``None`` where there is no such host.
        unsteady: steps drifted, or differed widely, in at least one seed.
        warmed_up: steps took equally long when warming up ended, in all seeds; ``None`` where nobody knows.
        run_peak_bytes: highest memory of a whole training.
        run_peak_source: who counted it.
        energy_j: of all training steps of one training.
        joules_per_sample: of training.
        step_joules_per_sample: of single steps, in the short phase.
        flops: floating-point operations of a training step.
        flops_per_s, mfu: achieved in a training step; the latter over the device's peak.
        inference_s, inference_merged_s: seconds of a forward pass of the adapted model and of the merged one.
        inference_overhead, inference_merged_overhead: these over the plain backbone's.
        inference_peak_bytes: of a forward pass of the adapted model, with the model.
        token_s, token_merged_s: seconds for each further token that is generated.
        memory_ratio, step_ratio: to the reference's row in the same table.
        best: names of the fields and metrics in which this row is the table's best.
        on_front: on the Pareto front of memory and the deciding metric; ``None`` where there is no front.
        within_noise: the deciding metric wasn't shown to differ from that of the best row; false for the best
            itself.
        next_within_noise: the name of the next better row, where it wasn't shown to differ from that one.
        against: the reference; ``None`` for the reference itself, and where one of both has no value.
        reached: when the target was; ``None`` where there is no target or no training.
        within: how good it had become within a budget; ``None`` where there is no budget or no training.
        predicted: of the memory of a step, beside what was measured; ``None`` where no run was asked for it.
        warnings: of all runs, without repetition.
    """

    label: str
    variant: str
    method: str
    options: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    trainable_backbone: int | None
    trainable_head: int | None
    metric: Metric
    scores: Mapping[str, Score]
    exact_match: float | None
    invalid: float | None
    curves: tuple[Curve, ...]
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    step: Quartiles | None
    forward: Quartiles | None
    backward: Quartiles | None
    clip: Quartiles | None
    optimizer: Quartiles | None
    samples_per_s: float | None
    real_tokens_per_s: float | None
    measured_steps: int | None
    asked_steps: int
    stopped_by_time: bool
    outlier_steps: int
    first_step_slow: bool
    train_time_s: float | None
    evaluation_time_s: float | None
    epoch_time_s: float | None
    checkpoint_bytes: int | None
    run_peak_bytes: int | None
    run_peak_source: str | None
    energy_j: float | None
    joules_per_sample: float | None
    rounds: int = 1
    step_interval: Interval | None = None
    step_p90_s: float | None = None
    step_p99_s: float | None = None
    host_step_s: float | None = None
    enqueue_step_s: float | None = None
    wall_step_s: float | None = None
    pass_step_s: float | None = None
    drift: float | None = None
    spread: float | None = None
    launch_bound: bool | None = None
    unsteady: bool = False
    warmed_up: bool | None = None
    step_joules_per_sample: float | None = None
    flops: float | None = None
    flops_per_s: float | None = None
    mfu: float | None = None
    inference_s: float | None = None
    inference_merged_s: float | None = None
    inference_overhead: float | None = None
    inference_merged_overhead: float | None = None
    inference_peak_bytes: int | None = None
    token_s: float | None = None
    token_merged_s: float | None = None
    memory_ratio: float | None = None
    step_ratio: float | None = None
    best: frozenset[str] = frozenset()
    on_front: bool | None = None
    within_noise: bool = False
    next_within_noise: str | None = None
    against: AgainstReference | None = None
    reached: Reached | None = None
    within: Within | None = None
    predicted: RowPredictions | None = None
    warnings: tuple[str, ...] = ()

    @property
    def score(self) -> Score | None:
        """By the deciding metric; ``None`` where no training was finished."""
        return self.scores.get(self.metric.name)

    @property
    def accuracy(self) -> Score | None:
        """Share of right answers, whether it decides or not; ``None`` where nothing is right or wrong."""
        return self.scores.get("accuracy")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of all runs, failed ones included."""
        return tuple(outcome.seed for outcome in self.outcomes)

    @property
    def ok(self) -> int:
        """How many runs have a complete result."""
        return sum(outcome.status == "ok" for outcome in self.outcomes)

    @property
    def status(self) -> str:
        """``ok``, ``partial`` where only some runs are, or how they failed, ``oom``."""
        if self.ok:
            return "ok" if self.ok == len(self.outcomes) else "partial"
        kinds = {outcome.status for outcome in self.outcomes}
        return kinds.pop() if len(kinds) == 1 else "failed"

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The runs without a complete result."""
        return tuple(outcome for outcome in self.outcomes if outcome.status != "ok")

    @property
    def name(self) -> str:
        """The label, with what tells it from another row of the same label."""
        return f"{self.label} ({self.variant})" if self.variant else self.label


def make_rows(records: Iterable[RunRecord]) -> list[Row]:
    """One row for all runs that differ in nothing but the seed.

    Args:
        records: that may be compared: what seeds add to a score's noise is estimated from all of them.
    """
    works = list(by_work(records).values())
    rows = [_row(sorted(runs, key=lambda run: run.spec.seed)) for runs in works]
    noise = noise_of_seeds(row.accuracy for row in rows if row.accuracy)
    variants = variants_of([runs[0] for runs in works])
    return [
        replace(
            row,
            variant=variant,
            scores={name: with_noise_of_seeds(score, noise) for name, score in row.scores.items()},
        )
        for row, variant in zip(rows, variants, strict=True)
    ]


def by_work(records: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs by what they do: an id of it -> those that differ in nothing else than the seed."""
    # A run's id holds a digest of all that decides its result, the seed left out, so runs with equal digests
    # do the same. It is made anew all the same, once for each: an older peprof may have made it otherwise.
    work_of: dict[tuple[str, str], str] = {}
    works: dict[str, list[RunRecord]] = {}
    for record in records:
        made = (record.spec.method.label, record.run_id.rpartition("-")[2])
        if made not in work_of:
            work_of[made] = record.spec.model_copy(update={"seed": 0}).run_id
        works.setdefault(work_of[made], []).append(record)
    return works


def variants_of(records: Sequence[RunRecord]) -> list[str]:
    """What tells rows of the same label apart; empty for a label that occurs once."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.spec.method.label, []).append(place)
    variants = [""] * len(records)
    for namesakes in places.values():
        if len(namesakes) == 1:
            continue
        settings = {place: _settings(records[place]) for place in namesakes}
        keys = dict.fromkeys(key for own in settings.values() for key in own)
        differing = [key for key in keys if len({own.get(key) for own in settings.values()}) > 1]
        for place, own in settings.items():
            variants[place] = ", ".join(f"{key}={own[key]}" for key in differing if key in own)
    return variants


def _settings(record: RunRecord) -> dict[str, str]:
    """All that may differ between two rows of a table, flat, as text; the method's own options come first."""
    spec = record.spec.model_dump(mode="json")
    settings = {**spec["method"]["options"], "method": spec["method"]["name"]}
    settings |= {key: spec["train"][key] for key in ("learning_rate", "weight_decay")}
    for table in ("short", "train", "data", "model"):
        settings |= {
            f"{table}.{key}": value
            for key, value in spec[table].items()
            if key not in ("learning_rate", "weight_decay", "seeds")
        }
    return {
        key: json.dumps(value) if isinstance(value, list | dict) else str(value)
        for key, value in settings.items()
    }


def _row(runs: Sequence[RunRecord]) -> Row:
    spec = runs[0].spec
    counts = next((run.parameters for run in runs if run.parameters), None)
    figures = [short_figures(run.short) for run in runs]
    shorts = [found for found in figures if found is not None]
    memories = [run.short.memory for run in runs if run.short and run.short.memory]
    fulls = [run.full for run in runs if run.status == "ok" and run.full]
    peaks = [full.peak for full in fulls if full.peak]
    return Row(
        label=spec.method.label,
        variant="",
        method=spec.method.name,
        options=spec.method.options,
        outcomes=tuple(
            Outcome(run_id=run.run_id, seed=run.spec.seed, status=run.status, failure=run.failure)
            for run in runs
        ),
        trainable_backbone=counts.trainable_backbone if counts else None,
        trainable_head=counts.trainable_head if counts else None,
        metric=METRICS[spec.data.judged_by[0]],
        scores=scores_of(runs),
        exact_match=_mean(_written_share(full, lambda last: last.exact_matches) for full in fulls),
        invalid=_mean(_written_share(full, lambda last: last.invalid) for full in fulls),
        curves=tuple(curve for run in runs if (curve := curve_of(run))),
        peak_allocated_bytes=_middle_bytes(memory.peak_allocated_bytes for memory in memories),
        peak_reserved_bytes=_middle_bytes(memory.peak_reserved_bytes for memory in memories),
        step=_middle_quartiles(shorts, lambda short: short.step),
        forward=_middle_quartiles(shorts, lambda short: short.forward),
        backward=_middle_quartiles(shorts, lambda short: short.backward),
        clip=_middle_quartiles(shorts, lambda short: short.clip),
        optimizer=_middle_quartiles(shorts, lambda short: short.optimizer),
        samples_per_s=_middle(short.samples_per_s for short in shorts),
        real_tokens_per_s=_middle(short.real_tokens_per_s for short in shorts),
        measured_steps=min((short.measured_steps for short in shorts), default=None),
        asked_steps=spec.short.steps,
        stopped_by_time=any(short.stopped_by_time for short in shorts),
        outlier_steps=sum(short.outlier_steps for short in shorts),
        first_step_slow=any(short.first_step_slow for short in shorts),
        train_time_s=_middle(full.train_time_s for full in fulls),
        evaluation_time_s=_middle(full.evaluation_time_s for full in fulls),
        epoch_time_s=_middle(epoch_time_s(full) for full in fulls),
        checkpoint_bytes=_middle_bytes(full.checkpoint_bytes for full in fulls),
        run_peak_bytes=_middle_bytes(peak.peak_bytes for peak in peaks),
        run_peak_source=peaks[0].source if peaks else None,
        energy_j=_middle(full.energy_j for full in fulls),
        joules_per_sample=_middle(_joules_per_sample(run) for run in runs),
        step_joules_per_sample=_middle(
            run.short.energy.sample_energy_j for run in runs if run.short and run.short.energy
        ),
        predicted=row_predictions(runs),
        warnings=tuple(dict.fromkeys(warning for run in runs for warning in run.warnings)),
        **_timing(shorts),
        **_work(runs, figures),
        **_inference(runs),
    )


_TIMES = ("step_p90_s", "step_p99_s", "host_step_s", "enqueue_step_s", "wall_step_s", "pass_step_s")


def _timing(shorts: Sequence[ShortFigures]) -> dict[str, Any]:
    drifts = [short.drift for short in shorts if short.drift is not None]
    return {
        "rounds": min((short.rounds for short in shorts), default=1),
        "step_interval": _middle_interval([short.step_interval for short in shorts]),
        "drift": max(drifts, key=abs, default=None),
        "spread": max((short.spread for short in shorts), default=None),
        "launch_bound": _any(short.launch_bound for short in shorts),
        "unsteady": any(short.unsteady for short in shorts),
        "warmed_up": _all(short.warmed_up for short in shorts),
        **{name: _middle(getattr(short, name) for short in shorts) for name in _TIMES},
    }


def _any(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return any(known) if known else None


def _all(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return all(known) if known else None


def _middle_interval(intervals: Sequence[Interval | None]) -> Interval | None:
    """Medians of both ends, as the rest of a row's costs; ``None`` unless each seed has one."""
    known = [interval for interval in intervals if interval is not None]
    if not known or len(known) < len(intervals):
        return None
    return Interval(low=median([one.low for one in known]), high=median([one.high for one in known]))


def _work(runs: Sequence[RunRecord], figures: Sequence[ShortFigures | None]) -> dict[str, Any]:
    steps = [
        step_rate(run.short.work, timed.step.median if timed is not None else None)
        for run, timed in zip(runs, figures, strict=True)
        if run.short is not None and run.short.work is not None
    ]
    return {
        "flops": _middle(step.flops for step in steps),
        "flops_per_s": _middle(step.flops_per_s for step in steps),
        "mfu": _middle(step.mfu for step in steps),
    }


def _inference(runs: Sequence[RunRecord]) -> dict[str, Any]:
    by_form: dict[str, list[InferenceFigures]] = {"adapted": [], "merged": [], "plain": []}
    for run in runs:
        for one in inference_figures(run.short.inference if run.short else None):
            by_form[one.form].append(one)
    adapted, merged = by_form["adapted"], by_form["merged"]
    return {
        "inference_s": _middle(one.forward_s for one in adapted),
        "inference_merged_s": _middle(one.forward_s for one in merged),
        "inference_overhead": _middle(one.forward_ratio for one in adapted),
        "inference_merged_overhead": _middle(one.forward_ratio for one in merged),
        "inference_peak_bytes": _middle_bytes(one.peak_bytes for one in adapted),
        "token_s": _middle(one.token_s for one in adapted),
        "token_merged_s": _middle(one.token_s for one in merged),
    }


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _middle_bytes(values: Iterable[int | None]) -> int | None:
    middle = _middle(values)
    return None if middle is None else round(middle)


def _middle_quartiles(
    shorts: Sequence[ShortFigures], part: Callable[[ShortFigures], Quartiles | None]
) -> Quartiles | None:
    parts = [found for short in shorts if (found := part(short)) is not None]
    if not parts:
        return None
    return Quartiles(
        q1=median([p.q1 for p in parts]),
        median=median([p.median for p in parts]),
        q3=median([p.q3 for p in parts]),
    )


def scores_of(runs: Sequence[RunRecord]) -> dict[str, Score]:
    """By metric; of each over the seeds that know it."""
    found = [(run.spec.seed, metric_figures(run)) for run in runs]
    names = dict.fromkeys(name for _, figures in found for name in figures)
    return {
        name: score_of([(seed, figures[name]) for seed, figures in found if name in figures])
        for name in names
    }


def _written_share(full: FullResult, count: Callable[[Evaluation], int | None]) -> float | None:
    last = full.result
    counted = count(last) if last is not None else None
    return counted / last.total if last is not None and counted is not None and last.total else None


def _joules_per_sample(run: RunRecord) -> float | None:
    full, data = run.full, run.data
    if run.status != "ok" or full is None or full.energy_j is None or data is None:
        return None
    samples = full.epochs * data.train_rows
    return full.energy_j / samples if samples > 0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
