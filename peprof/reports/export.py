"""Leaderboards for other programs and documents: markdown, JSON, CSV."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from peprof.errors import PeprofError
from peprof.reports import notes
from peprof.reports.cells import Cell, Column
from peprof.reports.columns import COLUMNS, columns_named, default_columns
from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.markdown_rows import escaped, markdown_row
from peprof.results.comparison import Leaderboard
from peprof.results.rows import Row

#: Of the layout of what ``to_json`` gives.
JSON_VERSION = 1


def to_markdown(boards: Sequence[Leaderboard], *, columns: Sequence[str] | None = None) -> str:
    """Tables as GitHub renders them: best values bold, notes as a list.

    Args:
        boards: in order.
        columns: keys of the columns; the usual ones unless given.

    Raises:
        UsageError: there is no such column.
    """
    chosen = columns_named(columns) if columns is not None else None
    parts = [
        _markdown_board(board, chosen or default_columns(board), number, len(boards))
        for number, board in enumerate(boards, start=1)
    ]
    return "\n".join(parts)


def _markdown_board(board: Leaderboard, columns: Sequence[Column], number: int, count: int) -> str:
    reason = notes.reason(board)
    loud = [*notes.alerts(board), *([reason] if reason else [])]
    quiet = [*notes.footnotes(board, shown=[column.key for column in columns]), *notes.failures(board)]
    return "\n".join(
        [
            f"### {escaped(notes.heading(board, number, count))}",
            "",
            escaped(notes.SEPARATOR.join(notes.main_conditions(board))),
            "",
            *(line for text in loud for line in (f"> **{escaped(text)}**", "")),
            markdown_row(" ".join(column.heading(board)) for column in columns),
            markdown_row("---:" if column.numeric else "---" for column in columns),
            *(
                markdown_row(_markdown_cell(column.cell(row, board)) for column in columns)
                for row in board.rows
            ),
            "",
            *(f"- {escaped(text)}" for text in quiet),
            "",
        ]
    )


def _markdown_cell(cell: Cell) -> str:
    if not cell.best:
        return escaped(cell.text)
    best, *others = (escaped(part.strip()) for part in cell.parts)
    return " ".join([f"**{best}**", *others])


def to_json(
    boards: Sequence[Leaderboard],
    *,
    columns: Sequence[str] | None = None,
    problems: Sequence[PeprofError] = (),
) -> str:
    """All tables as one JSON object: bytes, seconds and shares; ``null`` is what was not measured.

    Args:
        boards: in order.
        columns: keys of the columns; all of them unless given.
        problems: results that could not be read.

    Raises:
        UsageError: there is no such column.
    """
    chosen = _all_or(columns)
    content = {
        "version": JSON_VERSION,
        "leaderboards": [
            {
                "title": board.title,
                "group": board.group,
                "conditions": dict(board.conditions),
                "differences": [dataclasses.asdict(difference) for difference in board.differences],
                "suites": list(board.suites),
                "metric": board.metric.name,
                "reference": board.reference,
                "target": board.target,
                "pairs_tested": board.doubts.pairs,
                "tests": sorted(board.doubts.tests),
                "synthetic_data": board.synthetic_data,
                "synthetic_weights": board.synthetic_weights,
                "offline_reasons": list(board.offline_reasons),
                "rows": [_raw(row, chosen) for row in board.rows],
            }
            for board in boards
        ],
        "problems": [problem.message for problem in problems],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def to_csv(boards: Sequence[Leaderboard], *, columns: Sequence[str] | None = None) -> str:
    """All rows of all tables as CSV; the field ``table`` says which may be compared; empty is not measured.

    Args:
        boards: in order.
        columns: keys of the columns; all of them unless given.

    Raises:
        UsageError: there is no such column.
    """
    chosen = _all_or(columns)
    conditions = list(dict.fromkeys(name for board in boards for name in board.conditions))
    rows = [
        {
            "table": number,
            "group": board.group,
            **{name: _flat(value) for name, value in _raw(row, chosen).items()},
            **{name.replace(" ", "_"): board.conditions.get(name) for name in conditions},
        }
        for number, board in enumerate(boards, start=1)
        for row in board.rows
    ]
    return rows_as_csv(rows)


def _flat(value: object) -> object:
    if isinstance(value, list):
        return "; ".join(str(item) for item in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _all_or(columns: Sequence[str] | None) -> Sequence[Column]:
    return columns_named(columns) if columns is not None else tuple(COLUMNS.values())


def _raw(row: Row, columns: Sequence[Column]) -> dict[str, object]:
    return {name: value for column in columns for name, value in column.raw(row).items()}
