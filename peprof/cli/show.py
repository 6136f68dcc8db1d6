"""``peprof show``: whose the memory of a run's training step was, and where time went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from peprof.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from peprof.reports.memory import Division
    from peprof.reports.memory_saved import SavedDivision
    from peprof.results.finding import FoundRun
    from peprof.results.record import RunRecord

DIVISIONS: tuple[Division, ...] = ("category", "module", "operator", "owner")
FORMATS = ("table", "json", "csv")


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option(
    "--results",
    "directories",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where RUN is looked for; results, unless given.",
)
@click.option(
    "--by",
    "divisions",
    multiple=True,
    type=click.Choice(DIVISIONS),
    help="Divide the peak by this; may be given several times.  [default: category, module]",
)
@click.option(
    "--phase", metavar="PHASE", help="The peak of forward, backward, clip or optimizer, not of the step."
)
@click.option(
    "--depth", type=click.IntRange(min=1), default=3, show_default=True, help="Levels of the module tree."
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="Rows of a table, and children of a module.  [default: 12, all categories]",
)
@click.option("--saved", is_flag=True, help="What is kept for backward instead of what the peak holds.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="json has all that is known; csv all rows of the divisions.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the step's timeline and the peak by module as .svg, .png or .html.",
)
def show(
    run: str | None,
    directories: tuple[Path, ...],
    divisions: tuple[Division, ...],
    phase: str | None,
    depth: int,
    top: int | None,
    saved: bool,
    output_format: str,
    plot: Path | None,
) -> None:
    """Show whose the memory of a run's training step was, and where the time of its full phase went.

    RUN is a run id or the beginning of one, a run's directory, or its memory.json; it may be left out where
    there is one run only.

    \b
    Examples:
      peprof show lora
      peprof show full --by operator --top 5 --phase backward
      peprof show lst --saved
      peprof show lora --plot lora.html
    """
    if saved and phase is not None:
        raise UsageError(
            "--saved and --phase don't go together",
            hint="What is kept for backward is looked at when backward begins: leave --phase out.",
        )
    # Imported here, so that 'peprof --help' doesn't pay for them.
    from peprof.results.finding import find_run

    if plot is not None:
        from peprof.reports.memory_plot import check_plot_file

        check_plot_file(plot)
    found = find_run(run, directories or (Path("results"),))
    if plot is not None:  # first, as the reader of a pipe may go before the end
        from peprof.reports.memory_plot import draw_memory

        draw_memory(found, plot)
        click.echo(f"Drawn: {plot}", err=True)
    if output_format == "json":
        from peprof.reports.memory_export import memory_as_json

        click.echo(memory_as_json(found))
    elif saved:
        _show_saved(found, _saved_divisions(divisions), top=top, as_csv=output_format == "csv")
    elif output_format == "csv":
        from peprof.reports.memory import moment_to_show
        from peprof.reports.memory_export import moment_as_csv

        moment = moment_to_show(found, phase, divisions)
        click.echo(moment_as_csv(moment, divisions or DIVISIONS), nl=False)
    else:
        _show_tables(found, divisions, phase=phase, depth=depth, top=top)


def _show_tables(
    found: FoundRun, divisions: tuple[Division, ...], *, phase: str | None, depth: int, top: int | None
) -> None:
    """Memory and time; time alone where memory was not looked at and nobody asks for a part of it."""
    from peprof.reports.energy import print_energy
    from peprof.reports.leaderboard import results_console
    from peprof.reports.memory import print_heading, print_memory
    from peprof.reports.predicted_table import print_predicted
    from peprof.reports.step_times import print_step_times
    from peprof.reports.time_spent import print_time_spent
    from peprof.results.spent import time_spent

    console = results_console()
    record = found.record
    spent = time_spent(record) if record is not None else None
    only_trained = spent is not None and record is not None and "short" not in record.spec.phases
    if (only_trained or _only_predicted(found)) and not divisions and phase is None:
        print_heading(console, found)
    else:
        by = divisions or ("category", "module")
        print_memory(console, found, by=by, phase=phase, depth=depth, top=top)
    if not divisions and phase is None:
        print_predicted(console, found)
    energy = record.short.energy if record is not None and record.short is not None else None
    if energy is not None:
        print_energy(console, energy)
    if record is not None and record.short is not None:
        print_step_times(console, record.short)
    if record is not None:
        _show_work(console, record)
    if spent is not None:
        print_time_spent(console, spent)


def _only_predicted(found: FoundRun) -> bool:
    """Whether a run ended before anybody could look whose its memory was, and what it needs is known."""
    record = found.record
    if record is None or record.failure is None or found.memory is not None:
        return False
    return record.failure.memory is None and record.estimate is not None and record.estimate.problem is None


def _show_work(console: Console, record: RunRecord) -> None:
    """Operations of a step and what using the model costs, where they were measured."""
    from peprof.reports.work_table import print_inference, print_work
    from peprof.results.work_figures import inference_figures, work_figures

    work = work_figures(record.short)
    if work is not None:
        print_work(console, work)
    used = inference_figures(record.short.inference if record.short is not None else None)
    if used:
        print_inference(console, used)


def _saved_divisions(divisions: tuple[Division, ...]) -> tuple[SavedDivision, ...]:
    chosen: list[SavedDivision] = []
    for division in divisions:
        if division not in ("module", "operator"):
            raise UsageError(
                f"what is kept for backward can't be divided by {division}",
                hint="With --saved, --by is module or operator.",
            )
        chosen.append(division)
    return tuple(chosen) or ("operator", "module")


def _show_saved(found: FoundRun, by: tuple[SavedDivision, ...], *, top: int | None, as_csv: bool) -> None:
    from peprof.reports.leaderboard import results_console
    from peprof.reports.memory import DEFAULT_TOP, print_heading, require_memory
    from peprof.reports.memory_export import saved_as_csv
    from peprof.reports.memory_saved import print_saved

    kept = require_memory(found).activations
    if as_csv:
        click.echo(saved_as_csv(kept), nl=False)
        return
    console = results_console()
    print_heading(console, found)
    print_saved(console, kept, by=by, top=top or DEFAULT_TOP)
