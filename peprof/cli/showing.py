"""What a command has found, in the format that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

Found = TypeVar("Found")


def show_as(
    output_format: str,
    found: Found,
    *,
    table: Callable[[Console, Found], None],
    json: Callable[[Found], str],
    csv: Callable[[Found], str],
    markdown: Callable[[Found], str],
) -> None:
    """Prints it as a table or writes it to standard output.

    Args:
        output_format: ``table``, ``json``, ``csv`` or ``markdown``.
        found: to be shown.
        table, json, csv, markdown: what does it in each of them; only a CSV ends its last line itself.
    """
    if output_format == "table":
        from peprof.reports.leaderboard import results_console

        table(results_console(), found)
        return
    written = {"json": json, "csv": csv, "markdown": markdown}
    click.echo(written[output_format](found), nl=output_format != "csv")
