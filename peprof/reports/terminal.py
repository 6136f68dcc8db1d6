"""What all reports for a terminal share: the line below heads, and plain letters where others are unknown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

INDENT = 1

# Only a line below the header.
_RULE = Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
_PLAIN_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)

#: For terminals and files whose encoding lacks them.
PLAIN = str.maketrans(
    {"–": "-", "±": "+-", "◆": "*", "≈": "~", "×": "x", "·": "|", "→": "->", "−": "-", "µ": "u", "─": "-"}
    | {"├": "|", "└": "`", "│": "|"}
)


def is_plain(console: Console) -> bool:
    """Whether a console knows ASCII alone."""
    return console.options.ascii_only


def rule_of(console: Console) -> Box:
    """The box of a table: a line below its heads, nothing else."""
    return _PLAIN_RULE if is_plain(console) else _RULE


def said(console: Console, text: str) -> str:
    """The text in letters that the console knows."""
    return text.translate(PLAIN) if is_plain(console) else text


def say(console: Console, text: str, style: str) -> None:
    """Prints a paragraph."""
    console.print(Padding(Text(said(console, text), style=style), (0, 0, 0, INDENT), expand=False))


def ruled_table(console: Console) -> Table:
    """A table of a run, still without columns."""
    return Table(
        box=rule_of(console),
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        border_style="dim",
    )


def print_table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table of a run under its title; words to the left, numbers to the right.

    Args:
        console: where to.
        title: above it.
        heads: of the columns that are needed.
        rows: as many cells of each as there are heads are printed.
    """
    table = ruled_table(console)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*(said(console, cell) for cell in cells[: len(heads)]))
    console.print()
    say(console, title, "bold")
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))


def print_tensorboard(console: Console, directory: Path, *, indent: int = 0) -> None:
    """Prints the command that shows what lies in a directory, in one line to be copied; the path is a link.

    Args:
        console: where to.
        directory: of a log, or of all results of a suite, whose runs TensorBoard then lays together.
        indent: blanks before it.
    """
    there = Style(dim=True, link=directory.absolute().as_uri())
    text = Text(" " * indent + "TensorBoard: ", style=Style(dim=True))
    text.append(f"tensorboard --logdir {shlex.quote(str(directory))}", there)
    console.print(text, highlight=False, soft_wrap=True)
