"""One record -> the figures people ask for: medians, quartiles, rates, the final accuracy.

Records keep raw samples; what is derived from them is derived here, once, for tables and data frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from peprof.meters.slowdowns import slowdown_warnings
from peprof.results.record import Evaluation, FullResult, PhaseTimes, RunRecord, ShortResult, StepTimes
from peprof.results.statistics import (
    Interval,
    Quartiles,
    drift,
    median,
    median_interval,
    median_interval_over_rounds,
    outliers,
    quantile,
    quartiles,
    rate,
    wilson_interval,
)
from peprof.suite.metrics import METRICS, Metric

LEAST_FOR_P99 = 100
"""Steps from which on one in a hundred is something that was seen."""

NOTABLE_DRIFT = 0.05
"""From the first third of a round's steps to its last, beyond which the steps aren't steady."""

WIDE_SPREAD = 0.1
"""Between a round's quartiles, by its median, beyond which the steps aren't steady."""

LAUNCH_BOUND_SHARE = 0.95
"""Of the device's time, from which on the time in which the host queues a step limits it. Not 1: where the
host limits, the device's time is the host's and what the last kernels take."""


@dataclass(frozen=True, kw_only=True)
class ShortFigures:
    """What the short phase says; times of single steps in seconds.

    Args:
        measured_steps: steps in the timing pass.
        stopped_by_time: ``short.max_seconds`` ended it before ``short.steps`` were done.
        step, forward, backward, optimizer: seconds.
        clip: seconds; ``None`` when the gradient isn't clipped.
        samples_per_s: batch size by the median step.
        real_tokens_per_s: mean real tokens of a step by the median step.
        outlier_steps: steps whose time is an outlier.
        first_step_slow: the first step is one of them, and a slow one.
        step_interval: 95 %, of the median step; over the rounds where there are some. ``None`` where there
            are too few steps.
        step_p90_s: nine of ten steps are no slower.
        step_p99_s: 99 of 100 are no slower; ``None`` for fewer than ``LEAST_FOR_P99`` steps.
        host_step_s: median of the host's time for a step of the timing pass; ``None`` where the host does
            the work itself.
        enqueue_step_s: median time in which the host queued a step, the queue being empty; likewise.
        wall_step_s: median wall time of a step that was waited for; likewise.
        pass_step_s: wall time of the timing pass by its steps; ``None`` where it isn't known.
        launch_bound: the host limits the device; ``None`` where the host does the work itself.
        drift: by which share the last third of steps is slower than the first; of several rounds the largest.
        spread: between the quartiles, by the median; of several rounds the largest.
        warmup_steps: before the timing pass.
        warmed_up: the last of these took equally long; ``None`` where there were too few to tell.
        rounds: in which the steps were timed.
    """

    measured_steps: int
    stopped_by_time: bool
    step: Quartiles
    forward: Quartiles
    backward: Quartiles
    clip: Quartiles | None
    optimizer: Quartiles
    samples_per_s: float
    real_tokens_per_s: float | None
    outlier_steps: int
    first_step_slow: bool
    step_interval: Interval | None
    step_p90_s: float
    step_p99_s: float | None
    host_step_s: float | None
    enqueue_step_s: float | None
    wall_step_s: float | None
    pass_step_s: float | None
    launch_bound: bool | None
    drift: float | None
    spread: float
    warmup_steps: int
    warmed_up: bool | None
    rounds: int

    @property
    def unsteady(self) -> bool:
        """Steps became slower or faster on the way, or differ widely from each other."""
        return abs(self.drift or 0.0) > NOTABLE_DRIFT or self.spread > WIDE_SPREAD


@dataclass(frozen=True, kw_only=True)
class AccuracyFigures:
    """The last evaluation of a run: share of rows classified rightly, with its 95 % Wilson interval.

    Where answers are written, also the shares of those that are exactly the right word, and of those that are
    no class's word; ``None`` elsewhere.
    """

    value: float
    low: float
    high: float
    total: int
    exact_match: float | None = None
    invalid: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricFigures:
    """What one metric says of a run's result.

    Args:
        metric: its name, and which way is better.
        value: of the evaluation that counts.
        interval: 95 %, over the examples: Wilson's for shares of right answers, otherwise the record's;
            ``None`` where it has none.
        total: examples.
        answers: bit i is 1 where the answer to example i is right; ``None`` where the record doesn't tell,
            and for metrics that aren't the share of right answers.
    """

    metric: Metric
    value: float
    interval: Interval | None
    total: int
    answers: int | None = None


def short_figures(short: ShortResult | None) -> ShortFigures | None:
    """Medians and rates of the timing pass; ``None`` when it did not finish."""
    if short is None or short.times is None or not short.times.step_s:
        return None
    times = short.times
    ordered = sorted(times.step_s)  # once, as of many runs all of these are asked for at a time
    step = quartiles(ordered)
    strange = outliers(times.step_s)
    rounds = step_rounds(short)
    tokens = rate(sum(short.real_tokens) / len(short.real_tokens), step.median) if short.real_tokens else None
    return ShortFigures(
        measured_steps=len(times.step_s),
        stopped_by_time=short.stopped_by == "max_seconds",
        step=step,
        forward=quartiles(times.forward_s),
        backward=quartiles(times.backward_s),
        clip=quartiles(times.clip_s) if times.clip_s is not None else None,
        optimizer=quartiles(times.optimizer_s),
        samples_per_s=rate(short.batch_size, step.median),
        real_tokens_per_s=tokens,
        outlier_steps=len(strange),
        first_step_slow=0 in strange and times.step_s[0] > step.median,
        step_interval=_step_interval(rounds),
        step_p90_s=quantile(ordered, 0.9),
        step_p99_s=quantile(ordered, 0.99) if len(ordered) >= LEAST_FOR_P99 else None,
        host_step_s=_median_step(times.host),
        enqueue_step_s=_median_step(times.enqueue),
        wall_step_s=_median_step(times.wall),
        pass_step_s=times.pass_s / len(times.step_s) if times.pass_s is not None else None,
        launch_bound=_launch_bound(times, step.median),
        drift=max((found for one in rounds if (found := drift(one)) is not None), key=abs, default=None),
        spread=max(_spread(parts) for parts in ([step] if len(rounds) == 1 else map(quartiles, rounds))),
        warmup_steps=short.warmup_steps,
        warmed_up=short.steady,
        rounds=len(rounds),
    )


def throttled(short: ShortResult | None) -> bool | None:
    """Whether the device's clocks were held down while steps' energy was measured, right after their time.

    ``None`` where nothing tells.
    """
    energy = short.energy if short is not None else None
    if energy is None or energy.seconds is None or (energy.slowdowns, energy.violations_s) == (None, None):
        return None
    return bool(slowdown_warnings(energy.slowdowns or {}, energy.violations_s or {}, energy.seconds))


def step_rounds(short: ShortResult) -> list[tuple[float, ...]]:
    """Seconds of each step, by round; one round where the steps were timed at one go."""
    steps = short.times.step_s if short.times is not None else ()
    if sum(one.steps for one in short.rounds) != len(steps):
        return [steps]
    values = iter(steps)
    return [tuple(islice(values, one.steps)) for one in short.rounds if one.steps]


def _spread(parts: Quartiles) -> float:
    return (parts.q3 - parts.q1) / parts.median


def _step_interval(rounds: Sequence[Sequence[float]]) -> Interval | None:
    if len(rounds) == 1:
        return median_interval(rounds[0])
    found = median_interval_over_rounds(rounds)
    return Interval(low=max(found.low, 0.0), high=found.high) if found is not None else None


def _median_step(times: PhaseTimes | None) -> float | None:
    return median(times.step_s) if times is not None and times.step_s else None


def _launch_bound(times: StepTimes, device_s: float) -> bool | None:
    """By the host's time with an empty queue: with a full one it keeps the device's pace."""
    enqueue_s = _median_step(times.enqueue)
    return enqueue_s >= LAUNCH_BOUND_SHARE * device_s if enqueue_s is not None else None


def accuracy_figures(record: RunRecord) -> AccuracyFigures | None:
    """The final accuracy of a finished training; ``None`` for one that was cut short or never evaluated."""
    last = record.full.result if record.status == "ok" and record.full is not None else None
    if last is None or last.correct is None or last.total < 1:
        return None
    interval = wilson_interval(last.correct, last.total)
    return AccuracyFigures(
        value=last.correct / last.total,
        low=interval.low,
        high=interval.high,
        total=last.total,
        exact_match=None if last.exact_matches is None else last.exact_matches / last.total,
        invalid=None if last.invalid is None else last.invalid / last.total,
    )


def metric_figures(record: RunRecord) -> dict[str, MetricFigures]:
    """What is known of a finished training's result, by metric, the deciding one first.

    Empty for a run that was cut short or never evaluated. A metric without a number has no place in it.
    """
    full = record.full
    result = full.result if record.status == "ok" and full is not None else None
    if full is None or result is None or result.total < 1:
        return {}
    found = {
        name: MetricFigures(
            metric=METRICS[name],
            value=value,
            interval=_interval(name, value, full, result.total),
            total=result.total,
            answers=_answers(full, result) if name == "accuracy" else None,
        )
        for name, value in metric_values(result).items()
    }
    order = list(record.spec.data.judged_by)
    return dict(
        sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    )


def metric_values(evaluation: Evaluation) -> dict[str, float]:
    """Metric -> value, of any evaluation; what records of before format 3 only counted is worked out."""
    counts = {"accuracy": evaluation.correct, "exact_match": evaluation.exact_matches}
    total = evaluation.total
    values = {name: count / total for name, count in counts.items() if count is not None and total > 0}
    values |= evaluation.metrics
    return {name: value for name, value in values.items() if name in METRICS and math.isfinite(value)}


def _interval(name: str, value: float, full: FullResult, total: int) -> Interval | None:
    if name in ("accuracy", "exact_match"):
        return wilson_interval(min(value * total, total), total)
    ends = full.intervals.get(name)
    if ends is None or not all(map(math.isfinite, ends)):
        return None
    return Interval(low=ends[0], high=ends[1])


def _answers(full: FullResult, result: Evaluation) -> int | None:
    """The answers, unless they aren't those of this evaluation."""
    try:
        answers = int(full.correct_bits or "", 16)
    except ValueError:
        return None
    fits = answers.bit_length() <= result.total and answers.bit_count() == result.correct
    return answers if fits else None


def epoch_time_s(full: FullResult | None) -> float | None:
    """Median training seconds of a finished epoch; ``None`` when none was finished."""
    return median(full.epoch_times_s) if full is not None and full.epoch_times_s else None
