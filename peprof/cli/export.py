"""``peprof export``: all results as one table in a file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to; .xlsx, .csv, .parquet, .md or .json. A file that is there is replaced.",
)
@click.option("--aggregate", is_flag=True, help="One row a method over its seeds, not one a run.")
@click.option(
    "--columns",
    metavar="COLUMN,...",
    help="Take these columns, or 'all'.  [default: all; for .md the most important]",
)
def export(directories: tuple[Path, ...], target: Path, aggregate: bool, columns: str | None) -> None:
    """Write the results in DIR (results, unless given) as one table.

    Each run has a row with all that is known of it, and links to its suite file, its record and its
    TensorBoard log. Links are relative to FILE: put it beside the results and both can be moved.

    Rows may be compared where the column 'conditions' has the same letter; 'differs' says why others may not.

    \b
    Examples:
      peprof export --to results/results.xlsx
      peprof export laptop/results cluster/results --to both.csv
      peprof export results/sst2 --to sst2.md --aggregate
    """
    # Imported here, so that 'peprof --help' doesn't pay for them.
    from peprof.cli.reading import nothing_found
    from peprof.reports.collection import collect, columns_named
    from peprof.reports.collection_file import FOR_PEOPLE, check_export_file, write_collection
    from peprof.results.located import load_located, without_copies

    check_export_file(target)
    chosen = None
    if columns is not None and columns.strip() != "all":
        chosen = [name.strip() for name in columns.split(",") if name.strip()]
    every = columns_named(chosen, aggregate=aggregate)  # a misspelt name is told before anything is read
    if columns is None and target.suffix.lower() in FOR_PEOPLE:
        chosen = [column.name for column in every if column.main]
    searched = directories or (Path("results"),)
    runs, problems = load_located(*searched)
    for problem in problems:
        click.echo(f"Warning: left out {problem.message}\n  {problem.hint}", err=True)
    if not runs:
        raise nothing_found(searched, damaged=len(problems))
    copies = len(runs) - len(list(without_copies(runs)))
    if copies:
        what = "they count once" if aggregate else "they are listed all the same"
        click.echo(f"Warning: {copies} of {len(runs)} runs are copies of others; {what}.", err=True)
    collection = collect(
        runs, aggregate=aggregate, columns=chosen, problems=[problem.message for problem in problems]
    )
    write_collection(collection, target)
    click.echo(
        _done(len(collection.table.rows), collection.table.name, len(collection.groups), target), err=True
    )


def _done(rows: int, name: str, groups: int, target: Path) -> str:
    counted = f"{rows} {name.removesuffix('s') if rows == 1 else name}"
    apart = f", in {groups} groups that can't be compared" if groups > 1 else ""
    return f"Exported {counted}{apart}: {target}"
