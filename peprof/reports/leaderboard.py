"""Leaderboards for a terminal: the table that people look at."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from peprof.errors import PeprofError
from peprof.reports import notes
from peprof.reports.columns import Cell, Column, columns_named, default_columns
from peprof.results.comparison import Leaderboard

_GAP = 2  # one from the table's padding, one from its (blank) lines between columns
_INDENT = 1
_LONGEST_NAME = 28  # a longer name of a method is folded, where the table would be too wide
_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")  # only a line below the header

_TONES = {"plain": "", "missing": "dim", "bad": "red", "doubtful": "yellow"}
_BEST = "bold green"

# For terminals and files whose encoding lacks them.
_PLAIN = str.maketrans(
    {"–": "-", "±": "+-", "◆": "*", "≈": "~", "×": "x", "·": "|", "→": "->", "µ": "u", "─": "-"}
)


def print_leaderboards(
    console: Console,
    boards: Sequence[Leaderboard],
    *,
    columns: Sequence[str] | None = None,
    problems: Sequence[PeprofError] = (),
) -> None:
    """Prints tables as wide as the console allows.

    Without a choice of columns, those that matter least are left out where the console is narrow, and named
    below. Chosen columns are all shown, in several blocks if need be.

    Args:
        console: where to.
        boards: in order.
        columns: keys of the columns; the usual ones unless given.
        problems: results that could not be read.

    Raises:
        UsageError: there is no such column.
    """
    chosen = columns_named(columns) if columns is not None else None
    for number, board in enumerate(boards, start=1):
        if number > 1:
            console.print()
        _print_board(console, board, chosen, number, len(boards))
    if problems:
        console.print()
        for problem in problems:
            _say(console, f"Left out: {problem.message}", "yellow")


def _print_board(
    console: Console, board: Leaderboard, chosen: Sequence[Column] | None, number: int, count: int
) -> None:
    _say(console, notes.heading(board, number, count), "bold")
    for line in _packed(notes.main_conditions(board), console.width - 2 * _INDENT):
        _say(console, line, "dim")
    for alert in notes.alerts(board):
        _say(console, alert, "bold yellow")
    reason = notes.reason(board)
    if reason:
        _say(console, reason, "yellow")
    room = console.width - 2 * _INDENT
    if chosen is None:
        shown, left_out = _most_important(default_columns(), board, room)
        blocks, keys = [shown], [column.key for column in default_columns()]
    else:
        blocks, left_out = _blocks(chosen, board, room), []
        keys = [column.key for column in chosen]
    for block in blocks:
        console.print()
        table = _table(block, board, room, _is_plain(console))
        console.print(Padding(table, (0, 0, 0, _INDENT), expand=False))
    console.print()
    for note in notes.footnotes(board, shown=keys):
        _say(console, note, "dim")
    if left_out:
        names = ", ".join(column.key for column in left_out)
        _say(console, f"Too narrow for: {names}. Widen the terminal, or choose with --columns.", "dim")
    for failure in notes.failures(board):
        _say(console, failure, "red")


def _is_plain(console: Console) -> bool:
    return console.options.ascii_only


def _say(console: Console, text: str, style: str) -> None:
    if _is_plain(console):
        text = text.translate(_PLAIN)
    console.print(Padding(Text(text, style=style), (0, 0, 0, _INDENT), expand=False))


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


def _most_important(
    columns: Sequence[Column], board: Leaderboard, room: int
) -> tuple[list[Column], list[Column]]:
    """The columns that fit, and those left out though they have values; one without any goes before all."""
    empty = {column.key for column in columns if _is_empty(column, board)}
    by_importance = sorted(
        columns, key=lambda column: (column.key not in empty, column.importance or 0), reverse=True
    )
    chosen: set[str] = set()
    used = -_GAP
    for column in by_importance:
        needed = _GAP + _width(column, board)
        if used + needed <= room or not chosen:
            chosen.add(column.key)
            used += needed
    shown = [column for column in columns if column.key in chosen]
    return shown, [column for column in columns if column.key not in chosen | empty]


def _is_empty(column: Column, board: Leaderboard) -> bool:
    return all(column.cell(row, board).tone == "missing" for row in board.rows)


def _blocks(columns: Sequence[Column], board: Leaderboard, room: int) -> list[list[Column]]:
    """The columns in as many blocks as the width demands, the method's name in each of them."""
    name, *others = columns
    blocks = [[name]]
    used = _width(name, board)
    for column in others:
        needed = _width(column, board) + _GAP
        if used + needed > room and len(blocks[-1]) > 1:
            blocks.append([name])
            used = _width(name, board)
        blocks[-1].append(column)
        used += needed
    return blocks


def _width(column: Column, board: Leaderboard) -> int:
    cells = [column.cell(row, board) for row in board.rows]
    widest = sum(_part_widths(cells)) + max((len(cell.parts) for cell in cells), default=1) - 1
    if column.key == "method":
        widest = min(widest, _LONGEST_NAME)
    return max(widest, *(cell_len(line) for line in column.header))


def _part_widths(cells: Sequence[Cell]) -> list[int]:
    """Of each part the widest among all rows."""
    count = max((len(cell.parts) for cell in cells), default=0)
    return [
        max((cell_len(cell.parts[part]) for cell in cells if part < len(cell.parts)), default=0)
        for part in range(count)
    ]


def _table(columns: Sequence[Column], board: Leaderboard, room: int, plain: bool) -> Table:
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    lines = max(len(column.header) for column in columns)
    natural = sum(_width(column, board) for column in columns) + _GAP * (len(columns) - 1)
    rendered = []
    for column in columns:
        cells = [column.cell(row, board) for row in board.rows]
        widths = _part_widths(cells)
        rendered.append([_text(cell, widths, column, plain) for cell in cells])
        last_resort = column.key == "method" or natural > room
        table.add_column(
            Text("\n" * (lines - len(column.header)) + "\n".join(column.header)),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=not last_resort,
        )
    for row in zip(*rendered, strict=True):
        table.add_row(*row)
    return table


def _text(cell: Cell, widths: Sequence[int], column: Column, plain: bool) -> Text:
    """The parts of a cell, each as wide as the widest above and below it, so that they line up."""
    text = Text(style=Style.parse(_TONES[cell.tone]) if _TONES[cell.tone] else "")
    for place, width in enumerate(widths):
        part = cell.parts[place] if place < len(cell.parts) else ""
        fill = " " * (width - cell_len(part))
        if place:
            text.append(" ")
        is_mark = column.key == "method" and len(widths) > 1 and place == 0
        style = _part_style(cell, place, column, is_mark)
        text.append(fill) if column.numeric else None
        text.append(part.translate(_PLAIN) if plain else part, style=style)
        text.append(fill) if not column.numeric else None
    if not column.numeric:
        text.rstrip()
    return text


def _part_style(cell: Cell, place: int, column: Column, is_mark: bool) -> str:
    if is_mark:
        return "cyan"
    if cell.best and place == 0:
        return _BEST
    return "dim" if place and column.numeric and column.key != "trainable" else ""
