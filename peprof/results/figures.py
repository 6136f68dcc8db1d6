"""One record -> the figures people ask for: medians, quartiles, rates, the final accuracy.

Records keep raw samples; what is derived from them is derived here, once, for tables and data frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from peprof.results.record import FullResult, RunRecord, ShortResult
from peprof.results.statistics import Quartiles, median, outliers, quartiles, rate, wilson_interval


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


def short_figures(short: ShortResult | None) -> ShortFigures | None:
    """Medians and rates of the timing pass; ``None`` when it did not finish."""
    if short is None or short.times is None or not short.times.step_s:
        return None
    times = short.times
    step = quartiles(times.step_s)
    strange = outliers(times.step_s)
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
    )


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


def epoch_time_s(full: FullResult | None) -> float | None:
    """Median training seconds of a finished epoch; ``None`` when none was finished."""
    return median(full.epoch_times_s) if full is not None and full.epoch_times_s else None
