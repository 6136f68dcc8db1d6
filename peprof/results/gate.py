"""What a change of version may cost: thresholds, and whether they hold."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peprof.errors import UsageError
from peprof.results.measures import DECIDING, MEASURES
from peprof.results.versions import Change, MethodChange, VersionComparison

REGRESSION, RUN_FAILED, NOT_COMPARABLE = 1, 3, 4
"""Exit codes, see ``peprof.errors``."""

_EXAMPLE = "step_time:5%,peak_allocated:2%,accuracy:1pt"
_TERM = re.compile(r"(?P<metric>[^:]+):(?P<number>[0-9]*\.?[0-9]+)\s*(?P<unit>%|pt)")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """How much worse a metric may become.

    Args:
        metric: a name of ``MEASURES``, or ``metric`` for whatever decides.
        limit: as a share: of base's value for ``%``, of all examples for ``pt``.
        unit: ``%`` of base's value, or ``pt``, points of a percentage.
    """

    metric: str
    limit: float
    unit: Literal["%", "pt"]

    @property
    def text(self) -> str:
        """As it is given: ``step_time:5%``."""
        return f"{self.metric}:{100 * self.limit:g}{self.unit}"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A threshold that doesn't hold, or that couldn't be looked at.

    Args:
        method: name of the method.
        change: of the metric.
        threshold: that was set.
    """

    method: str
    change: Change
    threshold: Threshold


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a version passes.

    Args:
        thresholds: that were set.
        regressions: metrics that became worse by more than noise, and by as much as their threshold.
        unchecked: metrics with a threshold that base has and new lacks, or of which nothing tells how noisy
            they are.
        never_checked: thresholds whose metric no method has in both versions.
        broken: methods with runs that failed in new, and not in base.
        incomparable: methods that both versions have, under different conditions.
        missing: methods that base alone has, where thresholds were set: a version that wasn't measured is no
            better for it.
        unreadable: how many results of both versions can't be read.
        nothing_compared: there is no method that could be compared.
    """

    thresholds: tuple[Threshold, ...]
    regressions: tuple[Finding, ...]
    unchecked: tuple[Finding, ...]
    never_checked: tuple[Threshold, ...]
    broken: tuple[MethodChange, ...]
    incomparable: tuple[MethodChange, ...]
    missing: tuple[MethodChange, ...]
    unreadable: int
    nothing_compared: bool

    @property
    def exit_code(self) -> int:
        """0 where all is well; what is worst comes first: a run that failed, a regression, not comparable."""
        if self.broken:
            return RUN_FAILED
        if self.regressions:
            return REGRESSION
        blind = self.unchecked or self.never_checked or self.unreadable or self.nothing_compared
        return NOT_COMPARABLE if blind or self.incomparable or self.missing else 0


def parse_thresholds(text: str) -> tuple[Threshold, ...]:
    """Thresholds as a user writes them, ``step_time:5%,accuracy:1pt``.

    Raises:
        UsageError: a term that isn't one, an unknown metric, one named twice, or a unit that doesn't fit it.
    """
    thresholds = tuple(_threshold(term.strip()) for term in text.split(",") if term.strip())
    if not thresholds:
        raise UsageError("--fail-on names no threshold", hint=f"Say what may change how much: {_EXAMPLE}.")
    names = [threshold.metric for threshold in thresholds]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--fail-on names {', '.join(twice)} twice", hint="Give each metric one threshold.")
    return thresholds


def _threshold(term: str) -> Threshold:
    match = _TERM.fullmatch(term)
    if match is None:
        raise UsageError(
            f"--fail-on: '{term}' is no threshold",
            hint=f"Write METRIC:NUMBER% or METRIC:NUMBERpt, several with commas between: {_EXAMPLE}.",
        )
    name = match["metric"].strip().lower().replace("-", "_").replace(" ", "_")
    if name != DECIDING and name not in MEASURES:
        near = difflib.get_close_matches(name, MEASURES, n=1)
        guess = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"--fail-on: there is no metric '{match['metric'].strip()}'.{guess}",
            hint=f"Metrics are: {', '.join(MEASURES)}; '{DECIDING}' is what the suite is judged by.",
        )
    unit: Literal["%", "pt"] = "pt" if match["unit"] == "pt" else "%"
    if name != DECIDING and (unit == "pt") is not (MEASURES[name].unit == "share"):
        fits = "points, as 1pt" if unit == "%" else "percent, as 5%"
        raise UsageError(f"--fail-on: '{term}'", hint=f"A threshold of {name} is given in {fits}.")
    return Threshold(metric=name, limit=float(match["number"]) / 100, unit=unit)


def judge(
    comparison: VersionComparison, thresholds: Sequence[Threshold] = (), *, unreadable: int = 0
) -> Verdict:
    """Whether a version passes. A regression takes both: more than noise, and as much as its threshold.

    A threshold that could not be looked at is no pass: see ``Verdict.unchecked``.

    Args:
        comparison: of two versions.
        thresholds: how much worse what may become.
        unreadable: how many results of both can't be read.

    Raises:
        UsageError: a threshold for the metric that decides has a unit that doesn't fit it.
    """
    regressions, unchecked, seen = [], [], set()
    for method in comparison.compared:
        for threshold in thresholds:
            change = _change(method, threshold)
            finding = Finding(method=method.pair.name, change=change, threshold=threshold)
            if change.mark == "unclear" or (change.base is not None and change.new is None):
                unchecked.append(finding)
            if change.mark in ("better", "worse", "same"):
                seen.add(threshold)
            if change.mark == "worse" and (change.worsening or 0.0) >= threshold.limit:
                regressions.append(finding)
    told = {finding.threshold for finding in unchecked}
    return Verdict(
        thresholds=tuple(thresholds),
        regressions=tuple(regressions),
        unchecked=tuple(unchecked),
        never_checked=tuple(one for one in thresholds if one not in seen | told),
        broken=tuple(method for method in comparison.methods if method.broken),
        incomparable=tuple(method for method in comparison.methods if method.pair.differences),
        missing=tuple(method for method in comparison.methods if thresholds and method.pair.new is None),
        unreadable=unreadable,
        nothing_compared=not comparison.compared,
    )


def _change(method: MethodChange, threshold: Threshold) -> Change:
    change = method.changes[method.deciding if threshold.metric == DECIDING else threshold.metric]
    if (threshold.unit == "pt") is not (change.measure.unit == "share"):
        fits = "points, as 1pt" if threshold.unit == "%" else "percent, as 5%"
        raise UsageError(
            f"--fail-on: '{threshold.text}': {method.pair.name} is judged by {change.measure.name}",
            hint=f"A threshold of {change.measure.name} is given in {fits}.",
        )
    return change
