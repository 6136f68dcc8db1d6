"""``peprof compare BASE NEW``: two versions' results, and whether the new one passes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peprof.errors import PeprofError

if TYPE_CHECKING:
    from peprof.reports.versions import Shown
    from peprof.results.store import StoreContents


@dataclass(frozen=True, kw_only=True)
class VersionOptions:
    """What two versions are compared by.

    Args:
        fail_on: thresholds, as a user writes them; ``None`` for none.
        ignore: names of conditions, as a user writes them.
        confidence: of intervals; ``None`` for the usual one.
        only_changed: leave out metrics that are the same.
    """

    fail_on: str | None
    ignore: Sequence[str]
    confidence: float | None
    only_changed: bool

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are called."""
        values = {
            "--fail-on": self.fail_on is not None,
            "--ignore": bool(self.ignore),
            "--confidence": self.confidence is not None,
            "--only-changed": self.only_changed,
        }
        return [name for name, is_given in values.items() if is_given]


def show_versions(base: Path, new: Path, options: VersionOptions, output_format: str) -> int:
    """Compares two versions and says what came out of it.

    Returns:
        the exit code.
    """
    from peprof.reports.versions import Shown
    from peprof.results.collecting import keep_to_the_end
    from peprof.results.gate import judge, parse_thresholds
    from peprof.results.pairing import ignored_conditions
    from peprof.results.versions import CONFIDENCE, compare_versions

    thresholds = parse_thresholds(options.fail_on) if options.fail_on is not None else ()
    ignore = ignored_conditions(name for text in options.ignore for name in text.split(","))
    contents = [_load(place) for place in (base, new)]
    keep_to_the_end(contents)
    comparison = compare_versions(
        contents[0].records, contents[1].records, ignore=ignore, confidence=options.confidence or CONFIDENCE
    )
    problems = [problem for part in contents for problem in part.problems]
    verdict = judge(comparison, thresholds, unreadable=len(problems))
    shown = Shown(
        base=base, new=new, comparison=comparison, verdict=verdict, only_changed=options.only_changed
    )
    _without_reader(lambda: _show(shown, output_format, problems))
    return verdict.exit_code


def _load(place: Path) -> StoreContents:
    """The records of a directory, or that of a file."""
    from peprof.cli.reading import nothing_found, warned
    from peprof.results.store import StoreContents, load_records, read_record

    if place.is_file():
        record = read_record(place)
        return StoreContents(records=(record,) if record is not None else (), problems=())
    contents = warned(load_records(place))
    if not contents.records:
        raise nothing_found((place,), damaged=len(contents.problems))
    return contents


def _show(shown: Shown, output_format: str, problems: Sequence[PeprofError]) -> None:
    from peprof.reports.versions_export import to_csv, to_json, to_markdown

    if output_format == "markdown":
        click.echo(to_markdown(shown), nl=False)
    elif output_format == "json":
        click.echo(to_json(shown, problems=problems))
    elif output_format == "csv":
        click.echo(to_csv(shown), nl=False)
    else:
        from peprof.reports.leaderboard import results_console
        from peprof.reports.versions_table import print_versions

        print_versions(results_console(), shown)


def _without_reader(show: Callable[[], None]) -> None:
    """Shows it to whoever reads; that a pipe's reader has seen enough doesn't change what came out of it."""
    try:
        show()
    except BrokenPipeError:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit:  # so rich says the same, having done as much
        pass
