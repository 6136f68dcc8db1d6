"""A full phase's seconds by what they were spent on, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from peprof.breakdown.sizes import bar, human_percent
from peprof.reports.formats import human_seconds
from peprof.reports.terminal import INDENT, is_plain, ruled_table, say
from peprof.results.spent import TimeSpent

_WIDEST_BAR = 28
_NARROWEST_BAR = 6
_TAKEN = 46  # by the other columns and what lies between them
_BAR_COLOR = "#0072b2"


def print_time_spent(console: Console, spent: TimeSpent) -> None:
    """Prints where the time of a training went: steps first, start-up apart.

    Args:
        console: where to.
        spent: seconds by what they were spent on.
    """
    plain = is_plain(console)
    width = min(max(console.width - _TAKEN, _NARROWEST_BAR), _WIDEST_BAR)
    table = ruled_table(console)
    table.add_column("part", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=width)
    for name, seconds in (
        ("training steps", spent.steps_s),
        ("evaluations", spent.evaluation_s),
        ("checkpoints", spent.checkpoint_s),
        ("waiting for batches", spent.waiting_s),
        ("other", spent.other_s),
    ):
        share = seconds / spent.wall_s
        drawn = bar(min(share, 1.0), width, plain=plain)
        cells = (human_seconds(seconds) if seconds else "0 s", f"{human_percent(share)} %")
        table.add_row(name, *cells, Text(drawn, style=_BAR_COLOR))
    console.print()
    say(console, f"Where the full phase's {human_seconds(spent.wall_s)} went", "bold")
    console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
    say(console, _beside(spent), "dim")


def _beside(spent: TimeSpent) -> str:
    """What the table's shares leave out."""
    share = f"Without evaluations, {human_percent(spent.steps_share_of_training)} % are training steps."
    if spent.setup_s is None:
        return share
    return f"{share} Before it, {human_seconds(spent.setup_s)} of set-up."
