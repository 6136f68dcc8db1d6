"""A comparison of two versions in words: its cells, its summary, and what a reader must know beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peprof.reports.columns import failure_words
from peprof.reports.formats import (
    MISSING,
    human_bytes,
    human_energy,
    human_large,
    human_percent,
    human_seconds,
    signed,
    significant,
)
from peprof.reports.listing import listed
from peprof.results.conditions import Difference
from peprof.results.gate import Finding, Threshold, Verdict
from peprof.results.measures import MEASURES, Unit
from peprof.results.statistics import Interval
from peprof.results.versions import Change, Mark, MethodChange, VersionComparison

#: Heads of the columns; that of the interval says how sure it is.
HEADS = ("method", "metric", "base", "new", "difference", "interval", "ratio", "mark")

MARK_WORDS: Mapping[Mark, str] = {
    "better": "better",
    "worse": "worse",
    "same": "same within noise",
    "unclear": "noise unknown",
    "unavailable": "unavailable",
    "not comparable": "not comparable",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is shown.

    Args:
        base, new: where the two versions' results lie.
        comparison: of them.
        verdict: of that.
        only_changed: leaves out metrics that are the same.
    """

    base: Path
    new: Path
    comparison: VersionComparison
    verdict: Verdict
    only_changed: bool = False

    def changes(self, method: MethodChange) -> list[Change]:
        """The metrics of a method that are shown: those that a version has, or that have a threshold."""
        wanted = {threshold.metric for threshold in self.verdict.thresholds}
        return [
            change
            for change in method.changes.values()
            if (change.is_known or change.measure.name in wanted)
            and not (self.only_changed and (change.mark in ("same", "unavailable") or change.difference == 0))
        ]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1 else significant(value)


_WRITTEN: Mapping[Unit, Callable[[float], str]] = {
    "s": human_seconds,
    "B": human_bytes,
    "J": human_energy,
    "1/s": significant,
    "operations": human_large,
    "share": lambda value: f"{human_percent(value)} %",
    "number": _number,
}


def value_cell(change: Change, value: float | None) -> str:
    """A value with its unit."""
    if value is None:
        return MISSING
    return signed(_WRITTEN[change.measure.unit](abs(value)), value, plus=False)


def difference_cell(change: Change, value: float | None) -> str:
    """A difference with its sign: ``+10.0 ms``, ``−1.2 pt``."""
    if value is None:
        return MISSING
    if change.measure.unit == "share":
        return f"{signed(human_percent(abs(value)), value)} pt"
    return signed(_WRITTEN[change.measure.unit](abs(value)), value) if value else "0"


def cells(name: str, change: Change) -> tuple[str, ...]:
    """A line of the table, by ``HEADS``."""
    return (
        name,
        change.measure.name,
        value_cell(change, change.base),
        value_cell(change, change.new),
        difference_cell(change, change.difference),
        _interval_cell(change),
        f"{change.ratio:.3f}x" if change.ratio is not None else MISSING,
        MARK_WORDS[change.mark] if not _is_equal(change) else "same",
    )


def _is_equal(change: Change) -> bool:
    return change.mark == "same" and change.judged_by == "exact"


def _interval_cell(change: Change) -> str:
    if change.judged_by == "exact":
        return "exact"
    if change.interval is None:
        return MISSING
    return (
        f"{difference_cell(change, change.interval.low)} to {difference_cell(change, change.interval.high)}"
    )


def heads(comparison: VersionComparison) -> tuple[str, ...]:
    """Of the columns."""
    return tuple(
        f"{_percent(comparison.confidence)} interval" if head == "interval" else head for head in HEADS
    )


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def headline(shown: Shown) -> str:
    """What came out of it, in one sentence."""
    verdict = shown.verdict
    if verdict.broken:
        count = sum(len(method.broken) for method in verdict.broken)
        what = "1 run" if count == 1 else f"{count} runs"
        return f"Failed: {what} of {listed([one.pair.name for one in verdict.broken])}, in the new version."
    if verdict.regressions:
        return f"Regression: {'; '.join(map(_regression, verdict.regressions))}."
    if verdict.exit_code:
        return f"Not comparable: {_blindness(verdict)}."
    if verdict.thresholds:
        return f"Passed: nothing is worse by {_limits(verdict.thresholds)} or more."
    return f"Compared: {counted(shown.comparison)}."


def _limits(thresholds: Sequence[Threshold]) -> str:
    return ", ".join(threshold.text for threshold in thresholds)


def _regression(finding: Finding) -> str:
    change = finding.change
    return f"{change.measure.name} of {finding.method} {grown(change)} (limit {finding.threshold.text})"


def grown(change: Change) -> str:
    """By how much a metric changed, the way that thresholds are given: ``+5.2 %``, ``−1.2 pt``."""
    if change.measure.unit == "share" or change.ratio is None:
        return difference_cell(change, change.difference)
    percent = 100 * (change.ratio - 1)
    return f"{signed(_number(abs(percent)), percent)} %"


def _blindness(verdict: Verdict) -> str:
    parts = []
    if verdict.nothing_compared:
        parts.append("no method was measured in both versions under the same conditions")
    elif verdict.incomparable:
        names = listed([method.pair.name for method in verdict.incomparable])
        parts.append(f"conditions differ for {names}")
    if verdict.missing:
        parts.append(f"{listed([method.pair.name for method in verdict.missing])} missing in new")
    if verdict.unreadable:
        parts.append(
            f"{verdict.unreadable} {'result' if verdict.unreadable == 1 else 'results'} can't be read"
        )
    for finding in verdict.unchecked:
        why = "nothing tells how noisy it is" if finding.change.mark == "unclear" else "missing in new"
        parts.append(f"{finding.change.measure.name} of {finding.method}: {why}")
    if not verdict.nothing_compared:
        parts += [f"{one.metric} was measured in no method of both versions" for one in verdict.never_checked]
    return "; ".join(parts)


def counted(comparison: VersionComparison) -> str:
    """How many metrics of how many methods have which mark."""
    marks = Counter(
        change.mark for method in comparison.compared for change in method.changes.values() if change.is_known
    )
    methods = len(comparison.compared)
    words = [
        f"{marks[mark]} {MARK_WORDS[mark]}"
        for mark in ("worse", "better", "same", "unclear", "unavailable")
        if marks[mark] or mark in ("worse", "better")
    ]
    return f"{methods} {'method' if methods == 1 else 'methods'}: {', '.join(words)}"


def apart(comparison: VersionComparison) -> list[str]:
    """What stands apart, and why: not comparable, or in one version alone."""
    said = [
        f"Not comparable: {method.pair.name}: {_differences(method.pair.differences)}."
        for method in comparison.methods
        if method.pair.differences
    ]
    for where, names in (
        ("new", [method.pair.name for method in comparison.methods if method.pair.base is None]),
        ("base", [method.pair.name for method in comparison.methods if method.pair.new is None]),
    ):
        if names:
            said.append(f"Only in {where}: {', '.join(names)}.")
    return said


def _differences(differences: Iterable[Difference]) -> str:
    return "; ".join(f"{one.condition} {one.here} (base: {one.first})" for one in differences)


def footnotes(comparison: VersionComparison) -> list[str]:
    """How sure the values are, what was let pass, and what nobody measured."""
    return [
        *_noise_notes(comparison),
        *_ignored_notes(comparison),
        *_missing_notes(comparison),
    ]


def _noise_notes(comparison: VersionComparison) -> list[str]:
    judged = [change.judged_by for method in comparison.compared for change in method.changes.values()]
    notes = []
    if any(one not in (None, "exact") for one in judged):
        tested = sum(one not in (None, "exact") for one in judged)
        notes.append(
            f"Marks go by {_percent(comparison.confidence)} intervals: of {tested} here, chance alone marks "
            f"about {tested * (1 - comparison.confidence):.2g} where nothing changed."
        )
    if "steps" in judged:
        notes.append("One run of each: what differs from run to run is not in the intervals of times.")
    if "intervals" in judged:
        notes.append("Without the answers to the same examples, metrics are compared by their intervals.")
    return notes


def _ignored_notes(comparison: VersionComparison) -> list[str]:
    names: dict[str, list[str]] = {}
    for method in comparison.compared:
        for one in method.pair.ignored:
            text = f"{one.condition} {one.here} (base: {one.first})"
            names.setdefault(text, []).append(method.pair.name)
    everyone = len(comparison.compared)
    return [
        f"Ignored: {text}{'' if len(who) == everyone else f', {listed(who)}'}." for text, who in names.items()
    ]


def _missing_notes(comparison: VersionComparison) -> list[str]:
    metrics = [name for name, measure in MEASURES.items() if measure.kind != "score"]
    missing = [
        name for name in metrics if not any(method.changes[name].is_known for method in comparison.compared)
    ]
    return [f"Unavailable in both: {', '.join(missing)}."] if missing and comparison.compared else []


def failures(comparison: VersionComparison) -> list[str]:
    """Why runs of new failed that base has, one line for all seeds that failed alike."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for method in comparison.methods:
        for outcome in method.broken:
            words = failure_words(outcome.status, outcome.failure)
            seeds.setdefault((method.pair.name, words), []).append(outcome.seed)
    return [
        f"{name}, {'seed' if len(known) == 1 else 'seeds'} {', '.join(map(str, known))}: {words}"
        for (name, words), known in seeds.items()
    ]


def as_pair(interval: Interval | None) -> list[float | None] | None:
    """An interval's ends, for files, of which some know no infinity: ``None`` where there is no end."""
    if interval is None:
        return None
    return [end if math.isfinite(end) else None for end in (interval.low, interval.high)]
