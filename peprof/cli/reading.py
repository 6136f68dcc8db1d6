"""What commands that read results say of those that they can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from peprof.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from peprof.results.store import StoreContents


def warned(contents: StoreContents) -> StoreContents:
    """The same, after a warning for each record that is left out."""
    for problem in contents.problems:
        click.echo(f"Warning: left out {problem.message}\n  {problem.hint}", err=True)
    return contents


def nothing_found(searched: tuple[Path, ...], *, damaged: int) -> UsageError:
    """What to say where there is no result to show."""
    places = ", ".join(f"'{place}'" for place in searched)
    if damaged:
        message = f"none of the {damaged} results in {places} can be read"
        return UsageError(message, hint="The warnings above say why.")
    return UsageError(
        f"there are no results in {places}",
        hint="Measure something first: 'peprof run quickstart --results results'; or name another directory.",
    )
