"""Tables for consoles of any width: what matters least is left out, words are not broken apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from peprof.reports.terminal import INDENT, rule_of, said

GAP = 2  # between columns
_LONGEST_WORD = 28  # a longer one, as a name may be, is broken apart where the table would be too wide
_LEAST = 14  # characters of a column that folds


def that_fit(
    heads: Sequence[str], widths: Sequence[int], room: int, dropped_first: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Places of the columns that fit, in order, and the heads of those that don't.

    Args:
        heads: of the columns, each once.
        widths: of the columns.
        room: for all of them.
        dropped_first: heads of those that may be left out, the least important first.

    Example:
        >>> that_fit(("a", "b", "c"), (10, 10, 10), 25, ("b", "c"))
        ([0, 2], ['b'])
    """
    places, left_out = list(range(len(widths))), list[str]()
    for head in dropped_first:
        if sum(widths[place] for place in places) + GAP * (len(places) - 1) <= room:
            break
        if head in heads:
            places.remove(heads.index(head))
            left_out.append(head)
    return places, left_out


def too_narrow_words(left_out: Sequence[str], otherwise: str = "") -> str:
    """What to say of columns that were left out.

    Args:
        left_out: at least one head.
        otherwise: what shows them whatever the width: ``, or use --format csv``.
    """
    return f"Too narrow for: {', '.join(left_out)}. Widen the terminal{otherwise}."


def print_that_fits(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str],
    folded: Collection[str],
    dropped_first: Sequence[str],
) -> list[str]:
    """Prints a table as wide as the console allows.

    Args:
        console: where to.
        heads: of the columns, each once; those of words wider than what is below them have a line a word.
        rows: cells by column.
        numbers: heads of the columns that stand to the right.
        folded: heads of the columns whose cells may have several lines, between words.
        dropped_first: heads of those that may be left out, the least important first.

    Returns:
        The heads of what was left out.
    """
    room = console.width - INDENT
    cells = [[said(console, cell) for cell in column] for column in zip(*rows, strict=True)]
    shown = [_head(head, column) for head, column in zip(heads, cells, strict=True)]
    wide = [_width((head, *column)) for head, column in zip(shown, cells, strict=True)]
    least = [
        min(width, max(_LEAST, _longest_word((head, *column)))) if name in folded else width
        for name, head, column, width in zip(heads, shown, cells, wide, strict=True)
    ]
    places, left_out = that_fit(heads, least, room, dropped_first)
    widths = _widened([least[place] for place in places], [wide[place] for place in places], room)
    table = Table(box=rule_of(console), show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    lines = max(shown[place].count("\n") for place in places)
    for place, width in zip(places, widths, strict=True):
        head = "\n" * (lines - shown[place].count("\n")) + shown[place]
        justify = "right" if heads[place] in numbers else "left"
        table.add_column(Text(head, style="bold"), justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
    for row in zip(*(cells[place] for place in places), strict=True):
        table.add_row(*map(Text, row))
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
    return left_out


def _head(head: str, cells: Sequence[str]) -> str:
    """A word a line where it would otherwise be what makes the column wide."""
    return head.replace(" ", "\n") if cell_len(head) > _width(cells) else head


def _width(cells: Sequence[str]) -> int:
    return max((cell_len(line) for cell in cells for line in cell.split("\n")), default=0)


def _longest_word(cells: Sequence[str]) -> int:
    """Of the cells, as far as names are shown without a break."""
    return min(_LONGEST_WORD, max((cell_len(word) for cell in cells for word in cell.split()), default=0))


def _widened(least: Sequence[int], wide: Sequence[int], room: int) -> list[int]:
    """The widths with what room is left, the first column first."""
    left = room - sum(least) - GAP * (len(least) - 1)
    widths = []
    for low, high in zip(least, wide, strict=True):
        more = max(0, min(high - low, left))
        widths.append(low + more)
        left -= more
    return widths
