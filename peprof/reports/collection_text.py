"""Collected runs as text: CSV and JSON for machines, markdown for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from peprof.reports.collection import CollectedTable, Collection, with_links_from
from peprof.reports.formats import MISSING, human_bytes, human_seconds, significant
from peprof.reports.markdown_rows import markdown_row
from peprof.results.frame_columns import FrameColumn
from peprof.results.located import ConditionsGroup

#: Of the layout of what ``as_json`` gives.
JSON_VERSION = 1


def as_csv(collection: Collection, start: Path) -> str:
    """The table as CSV; empty is what was not measured.

    Args:
        collection: what to write.
        start: the directory from which links are seen.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in collection.table.columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(with_links_from(collection.table, start))
    return text.getvalue()


def as_json(collection: Collection, start: Path) -> str:
    """All of it as one JSON object; ``null`` is what was not measured, numbers that JSON hasn't are words.

    Args:
        collection: what to write.
        start: the directory from which links are seen.
    """
    content: dict[str, Any] = {
        "version": JSON_VERSION,
        collection.table.name: _json_rows(collection.table, start),
    }
    if collection.runs is not None:
        content[collection.runs.name] = _json_rows(collection.runs, start)
    content["conditions"] = [
        {
            "group": group.letter,
            "runs": len(group.runs),
            "differs": group.differs or None,
            "conditions": group.conditions,
        }
        for group in collection.groups
    ]
    content["columns"] = [
        {"name": column.name, "unit": column.unit or None, "meaning": column.meaning}
        for column in collection.table.columns
    ]
    content["problems"] = list(collection.problems)
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _json_rows(table: CollectedTable, start: Path) -> list[dict[str, Any]]:
    kinds = {column.name: column.kind for column in table.columns}
    return [
        {
            name: json.loads(value) if kinds[name] == "json" and value is not None else finite(value)
            for name, value in row.items()
        }
        for row in with_links_from(table, start)
    ]


def finite(value: Any) -> Any:
    """A value, or the word for a number that isn't one: ``NaN``, ``Infinity``, ``-Infinity``."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def as_markdown(collection: Collection, start: Path) -> str:
    """A table as GitHub renders it, and what its rows' conditions are.

    Columns without any value are left out. Numbers are rounded; the other formats have them whole.

    Args:
        collection: what to write.
        start: the directory from which links are seen.
    """
    columns = collection.table.filled()
    rows = with_links_from(collection.table, start)
    lines = [
        markdown_row(_header(column) for column in columns),
        markdown_row(
            "---" if column.kind in ("text", "json", "link", "time", "flag") else "---:" for column in columns
        ),
        *(markdown_row(_cell(column, row[column.name]) for column in columns) for row in rows),
        "",
        *_conditions(collection.groups),
    ]
    return "\n".join(lines) + "\n"


def _conditions(groups: Iterable[ConditionsGroup]) -> list[str]:
    known = list(groups)
    lines = []
    if len(known) > 1:
        lines += ["Only rows with the same letter under conditions can be compared.", ""]
    for group in known:
        what = f"not as A: {group.differs}" if group.differs else None
        if what is None:
            what = "; ".join(f"{name} {value}" for name, value in group.conditions.items())
        lines.append(f"- {group.letter}: {_escaped(what)}")
    return lines


def _header(column: FrameColumn) -> str:
    name = column.name
    if column.kind in ("bytes", "seconds"):
        name = name.removesuffix("_bytes").replace("_s_", "_").removesuffix("_s")
    return name.replace("_", " ")


def _cell(column: FrameColumn, value: Any) -> str:
    if value is None:
        return MISSING
    if column.kind == "link":
        return f"[{_escaped(PurePosixPath(value).name)}]({link_target(value)})"
    return _escaped(_words(column, finite(value)))


def _words(column: FrameColumn, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or column.name == "seed":
        return str(value)
    if column.kind == "bytes":
        return human_bytes(value)
    if column.kind == "seconds":
        return human_seconds(value)
    if column.kind == "count":
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 1 and value and abs(value) >= 1e-3 else _short(value)


def _short(value: float) -> str:
    return significant(value) if abs(value) >= 1 else f"{value:.3g}"


def link_target(path: str) -> str:
    """A path as the target of a link: percent-encoded, absolute ones as ``file:`` addresses."""
    if Path(path).is_absolute():
        return Path(path).as_uri()
    return quote(path, safe="/")


def _escaped(text: str) -> str:
    for special in "\\|*`<[]_":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split("\n"))
