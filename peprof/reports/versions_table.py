"""A comparison of two versions for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from peprof.reports import versions
from peprof.reports.narrow import GAP, that_fit, too_narrow_words
from peprof.reports.terminal import INDENT, is_plain, said, say
from peprof.reports.versions import HEADS, Shown
from peprof.results.versions import Mark, MethodChange

_GAP = " " * GAP
_LEFT = ("method", "metric", "mark")  # numbers stand to the right
_DROPPED_FIRST = ("interval", "difference", "ratio")  # where it is too narrow
_MARK_STYLES = {
    "better": Style.parse("bold green"),
    "worse": Style.parse("bold red"),
    "unclear": Style.parse("yellow"),
}
_VERDICT_STYLES = {0: "bold green", 1: "bold red", 3: "bold red", 4: "bold yellow"}


def print_versions(console: Console, shown: Shown) -> None:
    """Prints what came out of it, the table, and what a reader must know beside it.

    Where the console is narrow, columns are left out and named below.
    """
    comparison = shown.comparison
    say(console, f"base {shown.base}{_GAP}new {shown.new}", "bold")
    say(console, versions.headline(shown), _VERDICT_STYLES[shown.verdict.exit_code])
    if shown.verdict.exit_code or shown.verdict.thresholds:
        say(console, f"{versions.counted(comparison)}.", "dim")
    left_out = _print_table(console, shown)
    for text in versions.apart(comparison):
        say(console, text, "yellow")
    for text in versions.footnotes(comparison):
        say(console, text, "dim")
    if left_out:
        say(console, too_narrow_words(left_out), "dim")
    for text in versions.failures(comparison):
        say(console, text, "red")


def _print_table(console: Console, shown: Shown) -> list[str]:
    lines = [line for method in shown.comparison.compared for line in _of_method(shown, method)]
    if not lines:
        console.print()
        say(console, "Nothing changed beyond noise." if shown.comparison.compared else "Nothing to show.", "")
        return []
    heads = versions.heads(shown.comparison)
    table = [tuple(said(console, cell) for cell in cells) for cells in (heads, *(line for line, _ in lines))]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    places, left_out = that_fit(HEADS, widths, console.width - INDENT, _DROPPED_FIRST)
    rule = "-" if is_plain(console) else "─"
    width = sum(widths[place] for place in places) + len(_GAP) * (len(places) - 1)
    # Laid out here and printed as it is: a table of rich's takes a second for a thousand lines.
    segments = [
        Segment("\n"),
        Segment(_line(table[0], widths, places), Style.parse("bold")),
        Segment(f"{' ' * INDENT}{rule * width}\n"),
    ]
    for cells, (_, mark) in zip(table[1:], lines, strict=True):
        segments.append(Segment(_line(cells, widths, places), _MARK_STYLES.get(mark)))
    console.print(Segments([*segments, Segment("\n")]), end="")
    return left_out


def _of_method(shown: Shown, method: MethodChange) -> list[tuple[tuple[str, ...], Mark]]:
    """The lines of a method with their marks; its name stands in the first alone."""
    return [
        (versions.cells("" if place else method.pair.name, change), change.mark)
        for place, change in enumerate(shown.changes(method))
    ]


def _line(cells: Sequence[str], widths: Sequence[int], places: Sequence[int]) -> str:
    parts = []
    for place in places:
        blanks = " " * (widths[place] - cell_len(cells[place]))
        parts.append(cells[place] + blanks if HEADS[place] in _LEFT else blanks + cells[place])
    return f"{' ' * INDENT}{_GAP.join(parts).rstrip()}\n"
