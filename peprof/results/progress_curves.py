"""How good a training had become after so many seconds, steps or joules, and when it reached a target.

Read from the evaluations that a run made on its way; nothing is interpolated between them. Seconds and joules
are those of training steps: no evaluation, no set-up, no waiting for data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peprof.results.figures import metric_values
from peprof.results.record import RunRecord
from peprof.results.statistics import median
from peprof.suite.metrics import METRICS, Metric

Axis = Literal["seconds", "steps", "joules"]
AXES: tuple[Axis, ...] = ("seconds", "steps", "joules")


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluation on the way.

    Args:
        steps: training steps before it.
        seconds: of these.
        joules: of these; ``None`` where the device can't tell.
        value: of the metric.
    """

    steps: int
    seconds: float
    joules: float | None
    value: float

    def on(self, axis: Axis) -> float | None:
        """What had been spent."""
        return {"seconds": self.seconds, "steps": float(self.steps), "joules": self.joules}[axis]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of one run by one metric.

    Args:
        metric: its name, and which way is better.
        seed: of the run.
        points: in order; at least one.
    """

    metric: Metric
    seed: int
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Reached:
    """When the seeds of a row reached a target, at their first evaluation that was as good.

    Medians over all seeds, one that never reached it counted as later than all others; ``None`` where that
    leaves no median, or it wasn't measured.

    Args:
        target: of the metric.
        seeds: that were looked at.
        reached: how many of them got there.
        seconds, steps, joules: spent in training steps until then.
    """

    target: float
    seeds: int
    reached: int
    seconds: float | None
    steps: float | None
    joules: float | None


@dataclass(frozen=True, kw_only=True)
class BandPoint:
    """Several seeds after the same number of steps.

    Args:
        steps: that they have done.
        seconds, joules: medians over the seeds.
        value: mean.
        low, high: of the worst and the best seed by number.
        seeds: how many got so far.
    """

    steps: int
    seconds: float
    joules: float | None
    value: float
    low: float
    high: float
    seeds: int

    def on(self, axis: Axis) -> float | None:
        """What had been spent."""
        return {"seconds": self.seconds, "steps": float(self.steps), "joules": self.joules}[axis]


def curve_of(record: RunRecord, metric: str | None = None) -> Curve | None:
    """A finished training's way; ``None`` where it was cut short, or no evaluation knows the metric.

    Args:
        record: of a run.
        metric: the deciding one unless given.
    """
    name = metric or record.spec.data.judged_by[0]
    if record.status != "ok" or record.full is None:
        return None
    points = tuple(
        Point(steps=one.step, seconds=one.train_time_s, joules=one.energy_j, value=value)
        for one in record.full.evaluations
        if (value := metric_values(one).get(name)) is not None
    )
    return Curve(metric=METRICS[name], seed=record.spec.seed, points=points) if points else None


def best_within(curve: Curve, axis: Axis, amount: float) -> float | None:
    """The best value seen until ``amount`` had been spent; ``None`` before the first evaluation.

    A training that ended sooner keeps what it had reached.

    Args:
        curve: of a run.
        axis: what is spent.
        amount: seconds, steps or joules.
    """
    spent = [(point.on(axis), point.value) for point in curve.points]
    values = [value for cost, value in spent if cost is not None and cost <= amount]
    if not values:
        return None
    return max(values) if curve.metric.higher_is_better else min(values)


def first_reaching(curve: Curve, target: float) -> Point | None:
    """The first evaluation at least as good as the target; ``None`` where there was none."""
    better = curve.metric.higher_is_better
    reaching = (
        point for point in curve.points if (point.value >= target if better else point.value <= target)
    )
    return next(reaching, None)


def reached(curves: Sequence[Curve], target: float) -> Reached | None:
    """When a target was reached over several seeds; ``None`` for no curve."""
    if not curves:
        return None
    firsts = [first_reaching(curve, target) for curve in curves]
    return Reached(
        target=target,
        seeds=len(curves),
        reached=sum(point is not None for point in firsts),
        seconds=_middle(firsts, "seconds"),
        steps=_middle(firsts, "steps"),
        joules=_middle(firsts, "joules"),
    )


def _middle(firsts: Sequence[Point | None], axis: Axis) -> float | None:
    costs: list[float] = []
    for point in firsts:
        cost = math.inf if point is None else point.on(axis)
        if cost is None:
            return None
        costs.append(cost)
    ordered = sorted(costs)
    # Not median(): it would interpolate between a number and infinity.
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return None if math.isinf(high) else (low + high) / 2


def band(curves: Sequence[Curve]) -> tuple[BandPoint, ...]:
    """The seeds of a row together, at each step that any of them was evaluated at."""
    by_steps: dict[int, list[Point]] = {}
    for curve in curves:
        for point in curve.points:
            by_steps.setdefault(point.steps, []).append(point)
    return tuple(_together(steps, by_steps[steps]) for steps in sorted(by_steps))


def _together(steps: int, points: Sequence[Point]) -> BandPoint:
    values = [point.value for point in points]
    joules = [point.joules for point in points if point.joules is not None]
    return BandPoint(
        steps=steps,
        seconds=median([point.seconds for point in points]),
        joules=median(joules) if len(joules) == len(points) else None,
        value=math.fsum(values) / len(values),
        low=min(values),
        high=max(values),
        seeds=len(points),
    )
