"""A comparison of two versions for other programs and for pull requests: markdown, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from peprof.errors import PeprofError
from peprof.reports import versions
from peprof.reports.markdown_rows import escaped, markdown_row
from peprof.reports.versions import Shown
from peprof.results.conditions import Difference
from peprof.results.versions import Change, MethodChange

#: Of the layout of what ``to_json`` gives.
JSON_VERSION = 1

_SUMMARY = "What was compared, and how sure it is"


def to_markdown(shown: Shown) -> str:
    """For a pull request, as GitHub renders it: what came out of it, the table, the rest folded."""
    comparison = shown.comparison
    lines = [f"**{escaped(versions.headline(shown))}**", ""]
    if shown.verdict.exit_code or shown.verdict.thresholds:
        lines += [f"{escaped(versions.counted(comparison))}.", ""]
    rows = [
        _row(versions.cells(method.pair.name, change), change)
        for method in comparison.compared
        for change in shown.changes(method)
    ]
    if rows:
        numeric = ("base", "new", "difference", "interval", "ratio")
        lines += [
            markdown_row(versions.heads(comparison)),
            markdown_row("---:" if head in numeric else "---" for head in versions.HEADS),
            *rows,
            "",
        ]
    elif comparison.compared:
        lines += ["Nothing changed beyond noise.", ""]
    lines += [f"- {escaped(text)}" for text in (*versions.failures(comparison), *versions.apart(comparison))]
    quiet = [f"Base: {shown.base}, new: {shown.new}.", *_conditions(shown), *versions.footnotes(comparison)]
    lines += [
        *([""] if lines[-1] else []),
        f"<details><summary>{_SUMMARY}</summary>",
        "",
        *(f"- {escaped(text)}" for text in quiet),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str], change: Change) -> str:
    loud = change.mark in ("better", "worse", "unclear")
    texts = [escaped(cell) for cell in cells]
    return markdown_row([*texts[:-1], f"**{texts[-1]}**" if loud else texts[-1]])


def _conditions(shown: Shown) -> list[str]:
    """What all methods that were compared have in common in both versions."""
    known = [unit.conditions for method in shown.comparison.compared if (unit := method.pair.new) is not None]
    if not known:
        return []
    common = {
        name: value
        for name, value in known[0].items()
        if name not in shown.comparison.ignored and all(one.get(name) == value for one in known)
    }
    return [f"In both: {', '.join(f'{name} {value}' for name, value in common.items())}."]


def to_json(shown: Shown, *, problems: Sequence[PeprofError] = ()) -> str:
    """All of it as one JSON object: bytes, seconds, joules and shares; ``null`` is what isn't known.

    Args:
        shown: the comparison.
        problems: results that could not be read.
    """
    comparison, verdict = shown.comparison, shown.verdict
    content = {
        "version": JSON_VERSION,
        "base": str(shown.base),
        "new": str(shown.new),
        "exit_code": verdict.exit_code,
        "summary": versions.headline(shown),
        "confidence": comparison.confidence,
        "ignored": sorted(comparison.ignored),
        "thresholds": [threshold.text for threshold in verdict.thresholds],
        "regressions": [
            {"method": one.method, "metric": one.change.measure.name, "threshold": one.threshold.text}
            for one in verdict.regressions
        ],
        "unchecked": [
            {"method": one.method, "metric": one.change.measure.name, "threshold": one.threshold.text}
            for one in verdict.unchecked
        ],
        "never_checked": [threshold.text for threshold in verdict.never_checked],
        "methods": [_method(shown, method) for method in comparison.methods],
        "problems": [problem.message for problem in problems],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _method(shown: Shown, method: MethodChange) -> dict[str, Any]:
    pair = method.pair
    return {
        "method": pair.name,
        "comparable": pair.comparable,
        "differences": [_difference(one) for one in pair.differences],
        "ignored": [_difference(one) for one in pair.ignored],
        "base_runs": [run.run_id for run in pair.base.runs] if pair.base else None,
        "new_runs": [run.run_id for run in pair.new.runs] if pair.new else None,
        "failed_runs": [outcome.run_id for outcome in method.broken],
        "metrics": [_raw(change) for change in shown.changes(method)],
    }


def _difference(one: Difference) -> dict[str, str]:
    return {"condition": one.condition, "base": one.first, "new": one.here}


def _raw(change: Change) -> dict[str, Any]:
    return {
        "metric": change.measure.name,
        "unit": change.measure.unit,
        "higher_is_better": change.measure.higher_is_better,
        "base": change.base,
        "new": change.new,
        "difference": change.difference,
        "difference_interval": versions.as_pair(change.interval),
        "ratio": change.ratio,
        "ratio_interval": versions.as_pair(change.ratio_interval),
        "mark": change.mark,
        "judged_by": change.judged_by,
    }


def to_csv(shown: Shown) -> str:
    """A line for each metric of each method; empty is what isn't known."""
    text = io.StringIO()
    writer: Any = None
    for method in shown.comparison.methods:
        why = "; ".join(f"{one.condition} {one.here} (base: {one.first})" for one in method.pair.differences)
        for change in shown.changes(method):
            line = {"method": method.pair.name, **_flat(_raw(change)), "not_comparable_because": why or None}
            if writer is None:
                writer = csv.DictWriter(text, fieldnames=list(line), lineterminator="\n")
                writer.writeheader()
            writer.writerow(line)
    return text.getvalue()


def _flat(raw: dict[str, Any]) -> dict[str, Any]:
    """Intervals as two fields."""
    flat: dict[str, Any] = {}
    for name, value in raw.items():
        if name.endswith("_interval"):
            stem = name.removesuffix("_interval")
            flat[f"{stem}_low"], flat[f"{stem}_high"] = value or (None, None)
        else:
            flat[name] = value
    return flat
