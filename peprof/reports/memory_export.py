"""A run's memory for other programs: all of it as JSON, any division of it as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from peprof.breakdown.values import ActivationBreakdown, Moment
from peprof.results.finding import FoundRun

#: Of the layout of what ``memory_as_json`` gives.
JSON_VERSION = 1

_Row = tuple[object, ...]


def memory_as_json(run: FoundRun) -> str:
    """All that is known: ``memory`` is ``StepProfile.to_dict()``, ``record`` what the run says of itself."""
    record = run.record
    content: dict[str, Any] = {
        "json_version": JSON_VERSION,
        "name": run.name,
        "record": record.model_dump(mode="json") if record else None,
        "memory": run.memory.to_dict() if run.memory else None,
    }
    return json.dumps(content, indent=2)


def moment_as_csv(moment: Moment, by: Sequence[str]) -> str:
    """A row for each part: division, name, bytes with all below, bytes of its own, share of the moment.

    Within one division the own bytes add up to the moment's.

    Args:
        moment: the peak.
        by: ``category``, ``module``, ``operator``, ``owner``, in order.
    """
    total = max(moment.total_bytes, 1)
    rows = (
        (division, name, whole, own, whole / total)
        for division in by
        for name, whole, own in _parts(moment, division)
    )
    return _csv(("division", "name", "bytes", "own_bytes", "share"), rows)


def _parts(moment: Moment, division: str) -> Iterator[tuple[str, int, int]]:
    if division == "module":
        for module in moment.modules.walk():
            yield module.name, module.total_bytes, module.own_bytes
        return
    divisions = {"category": moment.categories, "operator": moment.operators, "owner": moment.owners}
    for name, count in divisions[division].items():
        yield name, count, count


def saved_as_csv(kept: ActivationBreakdown) -> str:
    """A row for each storage that is kept, or saved again by a checkpoint in backward."""
    rows = (
        (
            when,
            item.module,
            item.operator,
            item.made_in,
            item.made_by,
            "x".join(map(str, item.shape)),
            item.dtype,
            item.nbytes,
        )
        for when, items in (("kept", kept.saved), ("recomputed", kept.recomputed))
        for item in items
    )
    heads = ("when", "module", "operator", "made_in", "made_by", "shape", "dtype", "bytes")
    return _csv(heads, rows)


def _csv(heads: Sequence[str], rows: Iterable[_Row]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return file.getvalue()
