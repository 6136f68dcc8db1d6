"""Two versions' runs -> what changed, by method and metric, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from peprof.results.crossed import SeedNoise
from peprof.results.measures import MEASURES, STEP_TIME, Measure
from peprof.results.pairing import Pair, Unit, pair_up
from peprof.results.record import RunRecord
from peprof.results.rows import Outcome, scores_of
from peprof.results.score_shifts import compare_scores
from peprof.results.scores import Score, noise_of_seeds
from peprof.results.shifts import Sample, compare_samples, samples_of
from peprof.results.statistics import Interval, median

#: Of intervals and marks unless a user says otherwise. A whole comparison has dozens of them: at 95 % one in
#: twenty would be marked by chance alone.
CONFIDENCE = 0.99

Mark = Literal["better", "worse", "same", "unclear", "unavailable", "not comparable"]

#: What decided a mark, from most to least: see ``Change.judged_by``.
Judge = Literal["exact", "steps", "runs", "answers", "seeds", "intervals"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric of one method in both versions. Differences and ratios are those of new to base.

    Args:
        measure: the metric.
        base, new: its values; ``None`` where it wasn't measured. Of several runs the geometric mean of their
            medians, of memory and operations the middle, of metrics the mean.
        difference: in the metric's unit.
        interval: of the difference; ``None`` where nothing tells how sure it is.
        ratio, ratio_interval: the same as a factor; ``None`` for shares.
        mark: ``same``: within noise, or equal where there is no noise; ``unclear``: nothing tells how noisy
            it is; ``unavailable``: not measured in one of both.
        judged_by: what the mark rests on: ``exact``: no noise; ``steps``: how steps differ within runs;
            ``runs``: how runs differ, too; ``answers``: to the same examples; ``seeds``; ``intervals`` of the
            two values. ``None`` where nothing was judged.
    """

    measure: Measure
    base: float | None
    new: float | None
    difference: float | None = None
    interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    mark: Mark = "unavailable"
    judged_by: Judge | None = None

    @property
    def is_known(self) -> bool:
        """Whether any version has a value."""
        return self.base is not None or self.new is not None

    @property
    def worsening(self) -> float | None:
        """How much worse it became, as a share of base, or of all examples for shares; below 0 if better.

        ``None`` where one of both isn't known.
        """
        if self.measure.unit == "share":
            change = self.difference
        else:
            change = self.ratio - 1 if self.ratio is not None else None
        if change is None:
            return None
        return -change if self.measure.higher_is_better else change


@dataclass(frozen=True, kw_only=True)
class MethodChange:
    """One method in both versions.

    Args:
        pair: its runs, and why they may not be compared.
        deciding: name of the metric that it is judged by.
        changes: by metric, in the order of ``MEASURES``.
        broken: runs that failed in new, and not in base.
    """

    pair: Pair
    deciding: str
    changes: Mapping[str, Change]
    broken: tuple[Outcome, ...]


@dataclass(frozen=True, kw_only=True)
class VersionComparison:
    """All methods of both versions.

    Args:
        methods: those of new first, then what only base has.
        confidence: of all intervals, and so of marks.
        ignored: conditions that the user allows to differ.
    """

    methods: tuple[MethodChange, ...]
    confidence: float
    ignored: frozenset[str]

    @property
    def compared(self) -> tuple[MethodChange, ...]:
        """The methods that both versions have, under the same conditions."""
        return tuple(method for method in self.methods if method.pair.comparable)


def compare_versions(
    base: Sequence[RunRecord],
    new: Sequence[RunRecord],
    *,
    ignore: Collection[str] = (),
    confidence: float = CONFIDENCE,
) -> VersionComparison:
    """What changed from one version to the other.

    Args:
        base, new: records of each; several of one method are repeated measurements.
        ignore: conditions that may differ, see ``peprof.results.pairing.ignored_conditions``.
        confidence: between 0 and 1, exclusive.
    """
    pairs = pair_up(base, new, ignore=ignore)
    scores = [(_scores(pair.base), _scores(pair.new)) for pair in pairs]
    noise = noise_of_seeds(side["accuracy"] for both in scores for side in both if "accuracy" in side)
    methods = tuple(_method(pair, both, noise, confidence) for pair, both in zip(pairs, scores, strict=True))
    return VersionComparison(methods=methods, confidence=confidence, ignored=frozenset(ignore))


_Scores = Mapping[str, Score]


def _scores(unit: Unit | None) -> _Scores:
    return scores_of(unit.runs) if unit is not None else {}


def _method(
    pair: Pair, scores: tuple[_Scores, _Scores], noise: SeedNoise | None, confidence: float
) -> MethodChange:
    unit = pair.new or pair.base
    deciding = unit.runs[0].spec.data.judged_by[0] if unit is not None else ""
    changes: dict[str, Change] = {}
    for measure in MEASURES.values():
        if measure.kind == "score":
            change = _score_change(measure, pair, scores, noise, confidence)
        elif measure.kind == "exact":
            change = _exact_change(measure, pair)
        elif measure.name == "samples_per_second":
            change = _rate_change(measure, changes[STEP_TIME.name], pair)
        else:
            change = _noisy_change(measure, pair, confidence)
        changes[measure.name] = change if pair.comparable else _values_alone(change)
    return MethodChange(pair=pair, deciding=deciding, changes=changes, broken=_broken(pair))


def _values_alone(change: Change) -> Change:
    known = change.base is not None and change.new is not None
    return Change(
        measure=change.measure,
        base=change.base,
        new=change.new,
        mark="not comparable" if known else "unavailable",
    )


def _noisy_change(measure: Measure, pair: Pair, confidence: float) -> Change:
    steps = [measure.known_samples(unit.runs) if unit is not None else [] for unit in (pair.base, pair.new)]
    base = samples_of(steps[0], others=len(steps[1]))
    new = samples_of(steps[1], others=len(steps[0]))
    values = [_middle_of(side) for side in (base, new)]
    change = Change(measure=measure, base=values[0], new=values[1])
    if not base or not new or values[0] is None or values[1] is None:
        return change
    shift = compare_samples(base, new)
    interval = shift.interval(confidence)
    return replace(
        change,
        difference=values[1] - values[0],
        interval=_scaled(interval, values[0]),
        ratio=shift.ratio,
        ratio_interval=interval,
        mark=_mark(measure, interval, 1.0),
        judged_by=None if interval is None else "runs" if shift.over_runs else "steps",
    )


def _middle_of(samples: Sequence[Sample]) -> float | None:
    if not samples:
        return None
    return math.exp(math.fsum(sample.log_median for sample in samples) / len(samples))


def _scaled(ratio: Interval | None, base: float) -> Interval | None:
    """The interval of a difference that goes with that of a ratio."""
    if ratio is None:
        return None
    return Interval(low=base * (ratio.low - 1), high=base * (ratio.high - 1))


def _rate_change(measure: Measure, steps: Change, pair: Pair) -> Change:
    """Of examples a second, from that of the steps: another way to say it, with the same mark."""
    sizes = [_batch_size(unit) for unit in (pair.base, pair.new)]
    base, new = (
        size / value if size and value else None
        for size, value in zip(sizes, (steps.base, steps.new), strict=True)
    )
    change = Change(measure=measure, base=base, new=new)
    if base is None or new is None:
        return change
    scale = new / base * (steps.ratio or 1.0)  # 1, unless another batch size is let pass
    inverse = _inverse(steps.ratio_interval, scale)
    return replace(
        change,
        difference=new - base,
        interval=_scaled(inverse, base),
        ratio=new / base,
        ratio_interval=inverse,
        mark=_mark(measure, inverse, 1.0),
        judged_by=steps.judged_by,
    )


def _inverse(ratio: Interval | None, scale: float) -> Interval | None:
    """The interval of ``scale`` over what a ratio may be; one that reaches 0 makes it endless."""
    if ratio is None:
        return None
    return Interval(low=scale / ratio.high, high=scale / ratio.low if ratio.low > 0 else math.inf)


def _batch_size(unit: Unit | None) -> int | None:
    runs = unit.runs if unit is not None else ()
    return next((run.short.batch_size for run in runs if run.short is not None), None)


def _exact_change(measure: Measure, pair: Pair) -> Change:
    """Of what has no noise: any difference is one, unless the runs of a version disagree by as much."""
    sides = [
        [values[0] for values in measure.known_samples(unit.runs)] if unit is not None else []
        for unit in (pair.base, pair.new)
    ]
    base, new = (median(side) if side else None for side in sides)
    change = Change(measure=measure, base=base, new=new)
    if base is None or new is None:
        return change
    apart = max(sides[0]) < min(sides[1]) or max(sides[1]) < min(sides[0])
    worse = (new > base) is not measure.higher_is_better
    return replace(
        change,
        difference=new - base,
        ratio=new / base,
        mark="same" if not apart else "worse" if worse else "better",
        judged_by="exact",
    )


def _score_change(
    measure: Measure, pair: Pair, scores: tuple[_Scores, _Scores], noise: SeedNoise | None, confidence: float
) -> Change:
    base, new = (side.get(measure.name) for side in scores)
    change = Change(
        measure=measure,
        base=base.value if base is not None else None,
        new=new.value if new is not None else None,
    )
    if base is None or new is None:
        return change
    found = compare_scores(base, new, noise, same_examples=_same_data(pair), confidence=confidence)
    ratio = new.value / base.value if measure.unit != "share" and base.value > 0 else None
    return replace(
        change,
        base=found.base,
        new=found.new,
        difference=found.new - found.base,
        interval=found.interval,
        ratio=ratio,
        mark=_mark(measure, found.interval, 0.0),
        judged_by=found.judged_by,
    )


def _same_data(pair: Pair) -> bool:
    """Whether both were evaluated on the same examples; what isn't known doesn't count as the same."""
    if pair.base is None or pair.new is None:
        return False
    fingerprints = {unit.conditions.get("data fingerprint") for unit in (pair.base, pair.new)}
    return len(fingerprints) == 1 and None not in fingerprints


def _mark(measure: Measure, interval: Interval | None, nothing: float) -> Mark:
    if interval is None:
        return "unclear"
    if interval.low <= nothing <= interval.high:
        return "same"
    return "better" if (interval.low > nothing) is measure.higher_is_better else "worse"


def _broken(pair: Pair) -> tuple[Outcome, ...]:
    """Runs of new without a complete result, that base has one of, or doesn't have at all.

    Of what base doesn't have only those that went wrong: that memory didn't suffice is then a result.
    """
    before: dict[int, set[str]] = {}
    for run in pair.base.runs if pair.base is not None else ():
        before.setdefault(run.spec.seed, set()).add(run.status)
    broken = []
    for run in pair.new.runs if pair.new is not None else ():
        known = before.get(run.spec.seed)
        was_ok = known is not None and "ok" in known
        if run.status != "ok" and (was_ok or (known is None and run.status in ("failed", "timeout"))):
            broken.append(
                Outcome(run_id=run.run_id, seed=run.spec.seed, status=run.status, failure=run.failure)
            )
    return tuple(broken)
