"""Tables of bytes for a terminal: names, sizes, shares, and bars that fill the width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from peprof.breakdown.sizes import bar, human_bytes, human_percent
from peprof.reports.memory_categories import color_of
from peprof.reports.terminal import INDENT, is_plain, ruled_table, said, say

_WIDEST_BAR = 28
_NARROWEST_BAR = 6
_BAR_COLOR = "#0072b2"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table of bytes.

    Args:
        name: what they belong to.
        sizes: bytes; the first is what the share and the bar are of.
        categories: the first size by category, for the bar's colours; empty where there is one colour.
        style: of the name.
        count: things that it stands for.
    """

    name: str
    sizes: tuple[int, ...]
    categories: Mapping[str, int]
    style: str = ""
    count: int = 1


def print_lines(
    console: Console,
    heading: str,
    heads: tuple[str, ...],
    lines: Sequence[Line],
    total: int,
    *,
    counted: bool = False,
    shares: bool = True,
) -> None:
    """Prints a table of bytes with bars that fill the width.

    Args:
        console: where to.
        heading: above the table.
        heads: of the name and of each size.
        lines: rows.
        total: what the shares are of.
        counted: whether to have a column of how many things a row stands for.
        shares: whether to have a column of them.
    """
    plain = is_plain(console)
    rows = []
    for line in lines:
        share = line.sizes[0] / total if total else 0.0
        cells = [str(line.count)] if counted else []
        cells += [human_bytes(size) for size in line.sizes]
        rows.append((line, [*cells, f"{human_percent(share)} %"] if shares else cells, share))
    columns = [*(["count"] if counted else []), *heads[1:], *(["share"] if shares else [])]
    taken = sum(
        2 + max([len(head), *(len(cells[place]) for _, cells, _ in rows)])
        for place, head in enumerate(columns)
    )
    names = max([len(heads[0]), *(len(line.name) for line in lines)])
    room = console.width - 2 * INDENT - taken - names - 2
    width = min(max(room, _NARROWEST_BAR), _WIDEST_BAR)
    table = ruled_table(console)
    table.add_column(heads[0], overflow="fold")
    for head in columns:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=width)
    for line, cells, share in rows:
        name = Text(said(console, line.name), style=line.style)
        table.add_row(name, *cells, _bar(line, min(share, 1.0), width, plain=plain))
    console.print()
    say(console, heading, "bold")
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))


def _bar(line: Line, share: float, width: int, *, plain: bool) -> Text:
    """The bar, each character in the colour of the category that lies there."""
    drawn = bar(share, width, plain=plain)
    if not line.categories:
        return Text(drawn, style=_BAR_COLOR)
    text = Text()
    total = sum(line.categories.values())
    for place, character in enumerate(drawn):
        wanted = (place + 0.5) / max(width * share, 1) * total
        text.append(character, style=color_of(_category_at(line.categories, wanted)))
    return text


def _category_at(categories: Mapping[str, int], wanted: float) -> str:
    reached = 0
    for name, count in categories.items():
        reached += count
        if wanted <= reached:
            return name
    return next(reversed(list(categories)))
