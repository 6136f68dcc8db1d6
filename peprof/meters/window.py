"""From a sampler's readings to what a stretch of time took, and what the device did in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from peprof.meters.reading import PowerKind, Reading
from peprof.meters.sampler import Trace
from peprof.meters.slowdowns import names_of

LEAST_PERIODS = 10
"""Of the counter, in a window whose energy is to be known: it is off by a look at each end, and by what the
power changed within a period there."""

LONGEST_GAP_S = 0.5
"""Between two figures of power that are joined by a straight line."""

Moves = list[tuple[float, float]]
"""(seconds, joules) at each move of a counter."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The lowest, the middle and the highest of several looks."""

    lowest: float
    median: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a device took and did from one moment to another. ``None`` is unavailable, see ``unavailable``.

    Args:
        seconds: its length.
        looks: of the sampler, in it.
        energy_j: the counter's difference; by all that used the device.
        counter_period_s: from one move of the counter to the next, in the middle; as found, to a look.
        integrated_j: power over time, a second figure for the same.
        power_kind: of what was integrated.
        power_w: as it was told.
        memory_used_bytes, process_bytes: the highest that was seen.
        gpu_busy, memory_busy: shares of time, each over up to a second before the look.
        sm_clock_mhz, memory_clock_mhz, temperature_c: as they were told.
        reasons: why clocks weren't higher -> share of the looks.
        violations_s: policy -> seconds for which it held clocks down, by the driver's own count.
        unavailable: figure -> why it is ``None``.
    """

    seconds: float
    looks: int
    energy_j: float | None = None
    counter_period_s: float | None = None
    integrated_j: float | None = None
    power_kind: PowerKind | None = None
    power_w: Spread | None = None
    memory_used_bytes: int | None = None
    process_bytes: int | None = None
    gpu_busy: Spread | None = None
    memory_busy: Spread | None = None
    sm_clock_mhz: Spread | None = None
    memory_clock_mhz: Spread | None = None
    temperature_c: Spread | None = None
    reasons: dict[str, float] | None = None
    violations_s: dict[str, float] | None = None
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def mean_power_w(self) -> float | None:
        """By the counter."""
        return self.energy_j / self.seconds if self.energy_j is not None else None

    @property
    def integrated_to_counted(self) -> float | None:
        """Integrated power by the counter's joules: 1 where both tell the same."""
        if self.energy_j is None or self.integrated_j is None or self.energy_j <= 0:
            return None
        return self.integrated_j / self.energy_j


class _UnknownError(Exception):
    """A figure can't be told; the message says why."""


def look_at(trace: Trace, begin_s: float, end_s: float) -> Window:
    """What was seen between two moments.

    Args:
        trace: of a sampler that was at work before and after.
        begin_s, end_s: on ``time.perf_counter``.

    Raises:
        ValueError: the end doesn't lie after the beginning.
    """
    if end_s <= begin_s:
        raise ValueError(f"a window can't end at {end_s} s, when it begins at {begin_s} s")
    within = [one for one in trace.readings if begin_s <= one.at_s <= end_s]
    told: dict[str, object] = {}
    missing: dict[str, str] = {}
    try:
        counted = _counted(trace, begin_s, end_s)
        told["counter_period_s"] = counted.period_s
        if end_s - begin_s < LEAST_PERIODS * counted.period_s:
            raise _UnknownError(
                f"the window of {end_s - begin_s:.3g} s is too short for a counter that moves every "
                f"{counted.period_s:.3g} s: at least {LEAST_PERIODS * counted.period_s:.3g} s are needed"
            )
        told["energy_j"] = counted.joules
    except _UnknownError as error:
        missing["energy_j"] = str(error)
    try:
        told["integrated_j"] = _integrated_j(trace, begin_s, end_s)
        told["power_kind"] = next(one.power_kind for one in within if one.power_w is not None)
    except _UnknownError as error:
        missing["integrated_j"] = str(error)
    for name in ("power_w", "gpu_busy", "memory_busy", "sm_clock_mhz", "memory_clock_mhz", "temperature_c"):
        told[name] = _spread(getattr(one, name) for one in within)
    for name in ("memory_used_bytes", "process_bytes"):
        told[name] = max((v for one in within if (v := getattr(one, name)) is not None), default=None)
    told["reasons"] = _reasons(within)
    told["violations_s"] = _violations_s(trace.readings, begin_s, end_s)
    sources = {"reasons": "clock_event_reasons", "violations_s": "violations_ns"}
    for name in _LOOKED_AT:
        if told[name] is None:
            missing[name] = _why_missing(trace, sources.get(name, name))
    return Window(
        seconds=end_s - begin_s,
        looks=len(within),
        unavailable=missing,
        **told,  # type: ignore[arg-type]
    )


_LOOKED_AT = (
    "power_w", "memory_used_bytes", "process_bytes", "gpu_busy", "memory_busy", "sm_clock_mhz",
    "memory_clock_mhz", "temperature_c", "reasons", "violations_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Counted:
    joules: float
    period_s: float


def _counted(trace: Trace, begin_s: float, end_s: float) -> _Counted:
    """The counter's difference, by straight lines between its moves; and how often it moves.

    Raises:
        _UnknownError: with what is wrong.
    """
    known = [one for one in trace.readings if one.energy_j is not None]
    if not known:
        raise _UnknownError(_why_missing(trace, "energy_j"))
    before = [one for one in trace.readings if one.at_s <= begin_s]
    after = [one for one in trace.readings if one.at_s >= end_s]
    if not before or not after:
        raise _UnknownError(
            trace.why_cut
            or "the sampler wasn't at work over the whole window: enter it before, leave it after"
        )
    if before[-1].counter != after[0].counter:
        raise _UnknownError(
            "the counter was set back in the window, or wasn't readable for a while, as when drivers restart"
        )
    life = [one for one in known if one.counter == after[0].counter]
    moves: Moves = [
        (now.at_s, now.energy_j)
        for last, now in pairwise(life)
        if now.energy_j is not None and now.energy_j != last.energy_j
    ]
    within = [at_s for at_s, _ in moves if begin_s <= at_s <= end_s]
    if len(within) < 2:
        raise _UnknownError(
            f"the counter moved {len(within)} time(s) in the window of {end_s - begin_s:.3g} s: too seldom"
        )
    if not (moves[0][0] <= begin_s and end_s <= moves[-1][0]):
        side = "before" if moves[0][0] > begin_s else "after"
        raise _UnknownError(f"the counter didn't move {side} the window while it was looked at")
    period_s = median(later - earlier for earlier, later in pairwise(within))
    return _Counted(joules=_level(moves, end_s) - _level(moves, begin_s), period_s=period_s)


def _level(points: Sequence[tuple[float, float]], at_s: float) -> float:
    """On the straight line between the points around a moment."""
    for (left_s, left), (right_s, right) in pairwise(points):
        if left_s <= at_s <= right_s:
            return left + (right - left) * (at_s - left_s) / (right_s - left_s)
    return points[0][1]  # a single point, at that moment


def _integrated_j(trace: Trace, begin_s: float, end_s: float) -> float:
    """Joules under the line through the figures of power.

    Raises:
        _UnknownError: with what is wrong.
    """
    points = [(one.at_s, one.power_w) for one in trace.readings if one.power_w is not None]
    if not points:
        raise _UnknownError(_why_missing(trace, "power_w"))
    if points[0][0] > begin_s or points[-1][0] < end_s:
        raise _UnknownError(trace.why_cut or "power wasn't told over the whole window")
    inner = [point for point in points if begin_s < point[0] < end_s]
    line = [(begin_s, _level(points, begin_s)), *inner, (end_s, _level(points, end_s))]
    gap_s = max(later[0] - earlier[0] for earlier, later in pairwise(line))
    if gap_s > LONGEST_GAP_S or not inner:
        raise _UnknownError(f"power wasn't told for {gap_s:.3g} s on end")
    return sum((right_s - left_s) * (left + right) / 2 for (left_s, left), (right_s, right) in pairwise(line))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = sorted(value for value in values if value is not None)
    return Spread(lowest=known[0], median=median(known), highest=known[-1]) if known else None


def _reasons(within: Sequence[Reading]) -> dict[str, float] | None:
    looks = [names_of(one.clock_event_reasons) for one in within if one.clock_event_reasons is not None]
    if not looks:
        return None
    names = sorted({name for look in looks for name in look})
    return {name: sum(name in look for look in looks) / len(looks) for name in names}


def _violations_s(readings: Sequence[Reading], begin_s: float, end_s: float) -> dict[str, float] | None:
    """Differences between the last look before the window and the first after, or those next to them."""
    looks = [one for one in readings if one.violations_ns is not None]
    before = [one for one in looks if one.at_s <= begin_s] or looks[:1]
    after = [one for one in looks if one.at_s >= end_s] or looks[-1:]
    if not before or not after or before[-1] is after[0] or before[-1].counter != after[0].counter:
        return None
    first, last = before[-1].violations_ns or {}, after[0].violations_ns or {}
    return {name: (last[name] - first[name]) / 1e9 for name in first if name in last}


def _why_missing(trace: Trace, figure: str) -> str:
    told = [one.missing[figure] for one in trace.readings if figure in one.missing]
    if told:
        return told[-1]
    return trace.why_cut or "the window was too short for a look at it"
