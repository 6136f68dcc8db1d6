"""Collected runs as a spreadsheet: the table, what its rows' conditions are, what its columns mean."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from openpyxl import Workbook
from openpyxl.cell import Cell, WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter

from peprof.reports.collection import CollectedTable, Collection, with_links_from
from peprof.reports.collection_text import finite, link_target
from peprof.results.frame_columns import FrameColumn, Kind
from peprof.results.located import ConditionsGroup

MIB = 1024 * 1024

_Sheet = Any  # the types of openpyxl don't know all of a sheet that is only written

_LONGEST_TEXT = 32_767
"""Characters that a cell of a spreadsheet may have."""
_MOST_LINKS = 65_530
"""That a sheet may have; further rows have the paths alone."""
_WIDEST = 44
_FROZEN_AFTER = "label"

_FORMATS: Mapping[Kind, str] = {
    "bytes": "#,##0",
    "count": "#,##0",
    "seconds": "[<1]0.00000;[<100]0.000;#,##0.0",
    "share": "0.0000",
}
_MIB_FORMAT = "#,##0.0"
_HEADER_FONT = Font(bold=True, color="FFFFFF")
_HEADER_FILL = PatternFill("solid", fgColor="34495E")
_LINK_FONT = Font(color="0563C1", underline="single")


def as_spreadsheet(collection: Collection, start: Path) -> bytes:
    """A workbook in Excel's format.

    Sizes stand twice: in MiB, and in exact bytes in a column beside that, folded away. Links are relative to
    the directory, so that it can be moved as a whole. Columns without any value are left out.

    Args:
        collection: what to write.
        start: the directory that the file will lie in.
    """
    book = Workbook(write_only=True)
    for table in (collection.table, collection.runs):
        if table is not None:
            _add_table(book.create_sheet(table.name), table, start)
    _add_conditions(book.create_sheet("conditions"), collection.groups)
    _add_columns(book.create_sheet("columns"), collection)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def _add_table(sheet: _Sheet, table: CollectedTable, start: Path) -> None:
    columns = _laid_out(table.filled())
    rows = with_links_from(table, start)
    frozen = next((at for at, (name, _) in enumerate(columns, start=1) if name == _FROZEN_AFTER), 0)
    sheet.freeze_panes = f"{get_column_letter(frozen + 1)}2"
    sheet.auto_filter.ref = f"A1:{get_column_letter(max(len(columns), 1))}{len(rows) + 1}"
    for at, (name, column) in enumerate(columns, start=1):
        dimension = sheet.column_dimensions[get_column_letter(at)]
        dimension.width = _width(name, column, rows)
        if column.kind == "bytes":  # the exact ones fold into the MiB at their left
            exact = name == column.name
            dimension.collapsed, dimension.hidden, dimension.outlineLevel = not exact, exact, int(exact)
    sheet.sheet_properties.outlinePr.summaryRight = False
    sheet.append([_header(sheet, name) for name, _ in columns])
    links_a_row = sum(column.kind == "link" for _, column in columns)
    for number, row in enumerate(rows, start=1):
        linked = number * links_a_row <= _MOST_LINKS
        sheet.append(
            [_cell(sheet, name, column, row[column.name], linked=linked) for name, column in columns]
        )


def _laid_out(columns: Iterable[FrameColumn]) -> list[tuple[str, FrameColumn]]:
    """Names of the sheet's columns; bytes come after the same in MiB."""
    names: list[tuple[str, FrameColumn]] = []
    for column in columns:
        if column.kind == "bytes":
            names.append((_in_mib(column.name), column))
        names.append((column.name, column))
    return names


def _in_mib(name: str) -> str:
    return f"{name.removesuffix('_bytes')}_mib"


def _width(name: str, column: FrameColumn, rows: Sequence[Mapping[str, Any]]) -> float:
    if column.kind in ("text", "json", "time"):
        longest = max((len(str(row[column.name])) for row in rows if row[column.name] is not None), default=0)
    else:
        longest = 12
    # The button of the filter takes some of the header's room.
    return min(max(len(name) + 4, longest + 2), _WIDEST)


def _header(sheet: _Sheet, text: str) -> Cell:
    cell = _text(sheet, text)
    cell.font, cell.fill = _HEADER_FONT, _HEADER_FILL
    return cell


def _text(sheet: _Sheet, text: str) -> Cell:
    """A cell with a text that is never taken for a formula."""
    cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("\N{REPLACEMENT CHARACTER}", text)[:_LONGEST_TEXT])
    cell.data_type = "s"
    return cell


def _cell(sheet: _Sheet, name: str, column: FrameColumn, value: Any, *, linked: bool) -> Cell | None:
    value = finite(value)
    if value is None:
        return None
    if column.kind == "link" and linked:
        cell = _text(sheet, PurePosixPath(value).name)
        cell.hyperlink, cell.font = link_target(value), _LINK_FONT
        return cell
    if isinstance(value, str):
        return _text(sheet, value)
    in_mib = column.kind == "bytes" and name != column.name
    cell = WriteOnlyCell(sheet, value / MIB if in_mib else value)
    if in_mib:
        cell.number_format = _MIB_FORMAT
    elif column.kind in _FORMATS and column.name != "seed":
        cell.number_format = _FORMATS[column.kind]
    return cell


def _add_conditions(sheet: _Sheet, groups: Sequence[ConditionsGroup]) -> None:
    """One column a group, one row a condition: those that differ stand out."""
    sheet.freeze_panes = "B2"
    sheet.column_dimensions["A"].width = 24
    for at in range(len(groups)):
        sheet.column_dimensions[get_column_letter(at + 2)].width = _WIDEST
    sheet.append([_header(sheet, text) for text in ("conditions", *(group.letter for group in groups))])
    sheet.append([_text(sheet, "runs"), *(len(group.runs) for group in groups)])
    sheet.append([_text(sheet, "differs"), *(_wrapped(sheet, group.differs or "–") for group in groups)])
    for name in dict.fromkeys(name for group in groups for name in group.conditions):
        values = [group.conditions.get(name) for group in groups]
        cells: list[Cell | None] = [None if value is None else _wrapped(sheet, value) for value in values]
        if len({value for value in values if value is not None}) > 1:
            for cell in cells:
                if cell is not None:
                    cell.font = Font(bold=True)
        sheet.append([_text(sheet, name), *cells])


def _wrapped(sheet: _Sheet, text: str) -> Cell:
    cell = _text(sheet, text)
    cell.alignment = Alignment(wrap_text=True, vertical="top")
    return cell


def _add_columns(sheet: _Sheet, collection: Collection) -> None:
    sheet.freeze_panes = "A2"
    for letter, width in zip("ABCDE", (12, 30, 18, 80, 12), strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.append([_header(sheet, text) for text in ("sheet", "column", "unit", "meaning", "has values")])
    for table in (collection.table, collection.runs):
        if table is None:
            continue
        filled = {column.name for column in table.filled()}
        for name, column in _laid_out(table.columns):
            unit = "MiB" if name != column.name else column.unit
            words = (table.name, name, unit, column.meaning, "yes" if column.name in filled else "no")
            sheet.append([_text(sheet, word) for word in words])
