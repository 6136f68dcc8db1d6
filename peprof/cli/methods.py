"""``peprof methods``: which methods there are, and what can be said of each in a suite."""

from __future__ import annotations

import click

from peprof.errors import UsageError

FORMATS = ("rich", "json")


@click.command()
@click.argument("name", required=False)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="rich",
    show_default=True,
    help="json goes to standard output whole.",
)
def methods(name: str | None, output_format: str) -> None:
    """Lists the methods that are installed, or the options of the one called NAME.

    Those of other distributions are found too, through the entry-point group 'peprof.methods'.
    """
    # Imported here, so that 'peprof --help' doesn't pay for them.
    from peprof.reports.methods import as_json, print_method, print_methods
    from peprof.suite.catalogue import known_methods
    from peprof.suite.describing import nearest
    from peprof.suite.library import library_tuners

    known = known_methods()
    if name is not None and name not in known:
        variant = known.variant_called(name)
        if variant is not None:
            raise UsageError(
                f"there is no method '{name}': {variant}",
                hint=f"'peprof methods {variant.method}' shows all of its options.",
            )
        near = nearest(name, known.names_beside(name))
        raise UsageError(
            f"there is no method '{name}'" + (f"; did you mean '{near}'?" if near else ""),
            hint="'peprof methods' lists them.",
        )
    chosen = list(known.values()) if name is None else [known[name]]
    if output_format == "json":
        click.echo(as_json(chosen))
        return
    from peprof.reports.leaderboard import results_console

    if name is None:
        print_methods(results_console(), chosen, tuners=library_tuners())
    else:
        print_method(results_console(), known[name])
