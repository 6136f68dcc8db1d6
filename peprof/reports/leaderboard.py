"""Leaderboards for a terminal: the table that people look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from peprof.reports import notes
from peprof.reports.cells import Cell, Column
from peprof.reports.columns import columns_named, default_columns
from peprof.reports.narrow import too_narrow_words
from peprof.reports.terminal import INDENT, PLAIN, is_plain, rule_of, say
from peprof.results.comparison import Leaderboard

_GAP = 2  # one from the table's padding, one from its (blank) lines between columns
_WIDTH_OF_A_FILE = 140
_LONGEST_NAME = 28  # a longer name of a method is folded, where the table would be too wide
_TONES = {"plain": "", "missing": "dim", "bad": "red", "doubtful": "yellow"}
_BEST = "bold green"
_MARK = "cyan"


def results_console() -> Console:
    """Standard output: as wide as the terminal; where there is none, wide enough for all usual columns."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=_WIDTH_OF_A_FILE)


def print_leaderboards(
    console: Console,
    boards: Sequence[Leaderboard],
    *,
    columns: Sequence[str] | None = None,
) -> None:
    """Prints tables as wide as the console allows.

    Without a choice of columns, those that matter least are left out where the console is narrow, and named
    below. Chosen columns are all shown, in several blocks if need be.

    Args:
        console: where to.
        boards: in order.
        columns: keys of the columns; the usual ones unless given.

    Raises:
        UsageError: there is no such column.
    """
    chosen = columns_named(columns) if columns is not None else None
    for number, board in enumerate(boards, start=1):
        if number > 1:
            console.print()
        _print_board(console, board, chosen, number, len(boards))


def _print_board(
    console: Console, board: Leaderboard, chosen: Sequence[Column] | None, number: int, count: int
) -> None:
    room = console.width - INDENT
    say(console, notes.heading(board, number, count), "bold")
    for line in _packed(notes.main_conditions(board), room):
        say(console, line, "dim")
    for alert in notes.alerts(board):
        say(console, alert, "bold yellow")
    reason = notes.reason(board)
    if reason:
        say(console, reason, "yellow")
    columns = default_columns(board) if chosen is None else chosen
    filled = [_fill(column, board, plain=is_plain(console)) for column in columns]
    left_out: list[_Filled] = []
    if chosen is None:
        shown, left_out = _most_important(filled, room)
        blocks = [shown]
    else:
        blocks = _blocks(filled, room)
    for block in blocks:
        console.print()
        console.print(Padding(_table(block, room, rule_of(console)), (0, 0, 0, INDENT), expand=False))
    console.print()
    for note in notes.footnotes(board, shown=[column.key for column in columns]):
        say(console, note, "dim")
    if left_out:
        keys = [one.column.key for one in left_out]
        say(console, too_narrow_words(keys, ", or choose with --columns"), "dim")
    for failure in notes.failures(board):
        say(console, failure, "red")


def _packed(parts: Sequence[str], room: int) -> list[str]:
    """The parts in as many lines as they need, none of them broken apart."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}{notes.SEPARATOR}{part}" if lines else part
        if lines and cell_len(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """A column with its cells, and how wide these want to be.

    Args:
        column: what it is.
        header: of it.
        cells: from top to bottom.
        part_widths: of each part the widest of all cells.
        width: of the whole column.
        is_empty: no cell has a value.
    """

    column: Column
    header: tuple[str, ...]
    cells: tuple[Cell, ...]
    part_widths: tuple[int, ...]
    width: int
    is_empty: bool


def _fill(column: Column, board: Leaderboard, *, plain: bool) -> _Filled:
    cells = [column.cell(row, board) for row in board.rows]
    if plain:
        cells = [replace(cell, parts=tuple(part.translate(PLAIN) for part in cell.parts)) for cell in cells]
    count = max((len(cell.parts) for cell in cells), default=0)
    part_widths = tuple(
        max((cell_len(cell.parts[place]) for cell in cells if place < len(cell.parts)), default=0)
        for place in range(count)
    )
    width = sum(part_widths) + max(count - 1, 0)
    if column.key == "method":
        width = min(width, _LONGEST_NAME)
    header = column.heading(board)
    return _Filled(
        column=column,
        header=header,
        cells=tuple(cells),
        part_widths=part_widths,
        width=max(width, *(cell_len(line) for line in header)),
        is_empty=all(cell.tone == "missing" for cell in cells),
    )


def _most_important(filled: Sequence[_Filled], room: int) -> tuple[list[_Filled], list[_Filled]]:
    """The columns that fit, and those left out though they have values; those without any yield first."""
    by_importance = sorted(
        filled, key=lambda one: (not one.is_empty, one.column.importance or 0), reverse=True
    )
    shown: set[str] = set()
    used = -_GAP
    for one in by_importance:
        if used + _GAP + one.width <= room or not shown:
            shown.add(one.column.key)
            used += _GAP + one.width
    left_out = [one for one in filled if one.column.key not in shown and not one.is_empty]
    return [one for one in filled if one.column.key in shown], left_out


def _blocks(filled: Sequence[_Filled], room: int) -> list[list[_Filled]]:
    """The columns in as many blocks as the width demands, the method's name in each of them."""
    name, *others = filled
    blocks = [[name]]
    used = name.width
    for one in others:
        needed = _GAP + one.width
        if used + needed > room and len(blocks[-1]) > 1:
            blocks.append([name])
            used = name.width
        blocks[-1].append(one)
        used += needed
    return blocks


def _table(filled: Sequence[_Filled], room: int, rule: Box) -> Table:
    table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold")
    too_wide = sum(one.width for one in filled) + _GAP * (len(filled) - 1) > room
    lines = max(len(one.header) for one in filled)
    for one in filled:
        header = one.header
        table.add_column(
            Text("\n" * (lines - len(header)) + "\n".join(header)),
            justify="right" if one.column.numeric else "left",
            overflow="fold",
            no_wrap=not (too_wide or one.column.key == "method"),
        )
    for cells in zip(*([_text(cell, one) for cell in one.cells] for one in filled), strict=True):
        table.add_row(*cells)
    return table


def _text(cell: Cell, filled: _Filled) -> Text:
    """The parts of a cell, each as wide as the widest above and below it, so that they line up."""
    numeric = filled.column.numeric
    text = Text(style=_TONES[cell.tone])
    for place, width in enumerate(filled.part_widths):
        part = cell.parts[place] if place < len(cell.parts) else ""
        fill = " " * (width - cell_len(part))
        text.append(" " if place else "")
        text.append(fill if numeric else "")
        text.append(part, style=_part_style(cell, place, filled))
        text.append("" if numeric else fill)
    if not numeric:
        text.rstrip()
    return text


def _part_style(cell: Cell, place: int, filled: _Filled) -> str:
    if filled.column.key == "method":
        return _MARK if place == 0 and len(filled.part_widths) > 1 else ""
    if place == 0:
        return _BEST if cell.best else ""
    return "dim" if filled.column.numeric and filled.column.key != "trainable" else ""
