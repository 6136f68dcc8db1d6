"""``peprof compare``: stored results as a leaderboard, or one version against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from peprof.cli.reading import nothing_found, warned
from peprof.cli.versions import VersionOptions, show_versions
from peprof.errors import UsageError

FORMATS = ("rich", "markdown", "json", "csv")


@click.command()
@click.argument("directories", metavar="[DIR]... | BASE NEW", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--together", is_flag=True, help="Show two directories as leaderboards, as any other number of them."
)
@click.option(
    "--fail-on",
    metavar="METRIC:LIMIT,...",
    help="End with 1 if a metric of NEW is worse by as much and by more than noise: "
    "step_time:5%,peak_allocated:2%,accuracy:1pt. 'metric' is what the suite is judged by.",
)
@click.option(
    "--ignore",
    metavar="CONDITION,...",
    multiple=True,
    help="Let BASE and NEW differ in these: torch, transformers, driver, CUDA, threads, device name, "
    "options (of methods) ...",
)
@click.option("--only-changed", is_flag=True, help="Leave out the metrics of NEW that are as in BASE.")
@click.option(
    "--confidence",
    metavar="SHARE",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Of the intervals that BASE and NEW are compared by.  [default: 0.99]",
)
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Order rows by a column, smallest first; a leading '-' turns that round: --sort=-samples.",
)
@click.option(
    "--columns",
    metavar="COLUMN,...",
    help="Show these columns: method, trainable, accuracy, metric, difference, memory, predicted, counted, "
    "prediction_error, step, samples, train_time, time_to_target, within, status, exact_match, invalid, f1, "
    "macro_f1, matthews, pearson, spearman, pearson_spearman, mse, perplexity, steps_to_target, "
    "energy_to_target, step_interval, step_p90, step_p99, pass_step, wall_step, host_step, enqueue_step, "
    "rounds, forward, backward, clip, optimizer, tokens, run_peak, energy, sample_energy, step_energy, "
    "flops, flops_rate, mfu, inference, inference_merged, inference_memory, token, token_merged, reserved, "
    "predicted_reserved, reserved_error, predicted_device, checkpoint, epoch_time, evaluation_time, steps, "
    "outliers, seeds, run_ids. 'metric' is what the suite is judged by.",
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
    "--within",
    metavar="AMOUNT",
    help="Show how good methods had become within so much training: 60s, 500steps or 2kJ.",
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
    together: bool,
    fail_on: str | None,
    ignore: tuple[str, ...],
    only_changed: bool,
    confidence: float | None,
    sort: str | None,
    columns: str | None,
    group_by: str | None,
    against: str | None,
    target: float | None,
    within: str | None,
    curves: Path | None,
    output_format: str,
) -> int:
    """Shows the results in DIR (results, unless given) as leaderboards.

    A DIR is what 'peprof run --results' wrote, or a directory that holds several of those. Rows that were not
    measured under the same conditions stand in separate tables, with the reason.

    Exactly two, directories or record.json files, are two versions: each metric of NEW is held against that
    of BASE, method by method. The command then ends with 1 for a regression (see --fail-on), 3 for a run that
    failed in NEW and not in BASE, 4 for what can't be compared, and 0 otherwise.
    """
    from peprof.results.collecting import without_collecting

    options = VersionOptions(fail_on=fail_on, ignore=ignore, confidence=confidence, only_changed=only_changed)
    of_boards = {
        "--sort": sort, "--columns": columns, "--group-by": group_by, "--against": against,
        "--target": target, "--within": within, "--curves": curves,
    }  # fmt: skip
    with without_collecting():
        if len(directories) == 2 and not together:
            _refuse([name for name, value in of_boards.items() if value is not None], "leaderboards")
            return show_versions(*directories, options, output_format)
        _refuse(options.given, "two versions")
        _show_boards(directories, sort, columns, group_by, against, target, within, curves, output_format)
    return 0


def _refuse(names: Sequence[str], kind: str) -> None:
    """Says of options that they mean nothing here.

    Raises:
        UsageError: there are any.
    """
    if not names:
        return
    hint = (
        "Two directories are compared as versions: lay them together with --together."
        if kind == "leaderboards"
        else "Give exactly two directories or record files, BASE and NEW, without --together."
    )
    raise UsageError(f"{', '.join(names)}: only for {kind}", hint=hint)


def _show_boards(
    directories: tuple[Path, ...],
    sort: str | None,
    columns: str | None,
    group_by: str | None,
    against: str | None,
    target: float | None,
    within: str | None,
    curves: Path | None,
    output_format: str,
) -> None:
    # Imported here, so that 'peprof --help' doesn't pay for them.
    from peprof.reports.columns import columns_named, sort_rows
    from peprof.reports.export import to_csv, to_json, to_markdown
    from peprof.results.budgets import parse_budget
    from peprof.results.collecting import keep_to_the_end
    from peprof.results.comparison import leaderboards
    from peprof.results.store import load_records

    chosen = [name for name in columns.split(",") if name.strip()] if columns is not None else None
    if chosen is not None:
        columns_named(chosen)  # a misspelt name is told before anything is read
    budget = parse_budget(within) if within is not None else None
    if curves is not None:
        from peprof.reports.memory_plot import check_plot_file

        check_plot_file(curves)
    searched = directories or (Path("results"),)
    contents = warned(load_records(*searched))
    if not contents.records:
        raise nothing_found(searched, damaged=len(contents.problems))
    keep_to_the_end(contents)
    boards = leaderboards(
        contents.records, group_by=group_by, reference=against, target=target, budget=budget
    )
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
