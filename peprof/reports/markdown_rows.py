"""Tables as GitHub renders them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def escaped(text: str) -> str:
    """Text in which nothing is taken for markup, in one line."""
    for special in "\\|*`<":
        text = text.replace(special, f"\\{special}")
    return text.replace("\n", " ")


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a table, of cells whose markup is meant."""
    return f"| {' | '.join(cells)} |"


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str] = ()
) -> str:
    """A table of plain text.

    Args:
        heads: of the columns.
        rows: cells by column.
        numbers: heads of the columns that stand to the right.
    """
    edges = ("---:" if head in numbers else "---" for head in heads)
    lines = [map(escaped, heads), edges, *(map(escaped, row) for row in rows)]
    return "\n".join(markdown_row(line) for line in lines)
