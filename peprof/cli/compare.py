"""``peprof compare``: stored results as a leaderboard."""

from __future__ import annotations

from pathlib import Path

import click

from peprof.errors import UsageError

FORMATS = ("rich", "markdown", "json", "csv")


@click.command()
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Order rows by a column, smallest first; a leading '-' turns that round: --sort=-samples.",
)
@click.option(
    "--columns",
    metavar="COLUMN,...",
    help="Show these columns: method, trainable, accuracy, metric, difference, memory, step, samples, "
    "train_time, time_to_target, status, exact_match, invalid, f1, macro_f1, matthews, pearson, spearman, "
    "pearson_spearman, mse, perplexity, steps_to_target, energy_to_target, step_interval, step_p90, "
    "step_p99, pass_step, wall_step, host_step, enqueue_step, rounds, forward, backward, clip, optimizer, "
    "tokens, run_peak, energy, sample_energy, step_energy, flops, flops_rate, mfu, inference, "
    "inference_merged, inference_memory, token, token_merged, reserved, checkpoint, epoch_time, "
    "evaluation_time, steps, outliers, seeds, run_ids. 'metric' is what the suite is judged by.",
)
@click.option(
    "--group-by",
    metavar="KEY",
    help="One table for each batch_size, data, device, dtype, max_length, method, model, seed or suite.",
)
@click.option(
    "--against",
    metavar="LABEL",
    help="Measure all others against this method, with a test whether they differ.  [default: full]",
)
@click.option(
    "--target",
    metavar="VALUE",
    type=float,
    help="Show how long it took to get as good as this, 0.88 say.  [default: the suite's train.target]",
)
@click.option(
    "--curves",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw how good methods became over training time, steps and energy as .svg, .png or .html.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="rich",
    show_default=True,
    help="markdown, json and csv go to standard output whole; json and csv have all columns by default.",
)
def compare(
    directories: tuple[Path, ...],
    sort: str | None,
    columns: str | None,
    group_by: str | None,
    against: str | None,
    target: float | None,
    curves: Path | None,
    output_format: str,
) -> None:
    """Shows the results in DIR (results, unless given) as leaderboards.

    A DIR is what 'peprof run --results' wrote, or a directory that holds several of those. Rows that were not
    measured under the same conditions stand in separate tables, with the reason.
    """
    # Imported here, so that 'peprof --help' doesn't pay for them.
    from peprof.reports.columns import columns_named, sort_rows
    from peprof.reports.export import to_csv, to_json, to_markdown
    from peprof.results.comparison import leaderboards
    from peprof.results.store import load_records

    chosen = [name for name in columns.split(",") if name.strip()] if columns is not None else None
    if chosen is not None:
        columns_named(chosen)  # a misspelt name is told before anything is read
    if curves is not None:
        from peprof.reports.memory_plot import check_plot_file

        check_plot_file(curves)
    searched = directories or (Path("results"),)
    contents = load_records(*searched)
    for problem in contents.problems:
        click.echo(f"Warning: left out {problem.message}\n  {problem.hint}", err=True)
    if not contents.records:
        raise nothing_found(searched, damaged=len(contents.problems))
    boards = leaderboards(contents.records, group_by=group_by, reference=against, target=target)
    if sort is not None:
        boards = [sort_rows(board, sort) for board in boards]
    if curves is not None:  # first, as the reader of a pipe may go before the end
        from peprof.reports.curves import draw_curves

        draw_curves(boards, curves)
        click.echo(f"Drawn: {curves}", err=True)
    if output_format == "markdown":
        click.echo(to_markdown(boards, columns=chosen), nl=False)
    elif output_format == "json":
        click.echo(to_json(boards, columns=chosen, problems=contents.problems))
    elif output_format == "csv":
        click.echo(to_csv(boards, columns=chosen), nl=False)
    else:
        from peprof.reports.leaderboard import print_leaderboards, results_console

        print_leaderboards(results_console(), boards, columns=chosen)


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
