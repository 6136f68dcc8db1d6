"""``peprof run``: every method of a suite, measured; ends with the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from peprof.errors import RunFailedError

if TYPE_CHECKING:
    from rich.console import Console

    from peprof.reports.progress import RunProgress
    from peprof.results.estimates import Estimate
    from peprof.results.record import RunRecord
    from peprof.running.tasks import Prepared
    from peprof.suite.loading import LoadedSuite

GOES_ON = "Interrupted. Finished runs are kept; the same command goes on from there."


@click.command()
@click.argument("suite", metavar="SUITE")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value of the suite.")
@click.option(
    "--phase", "phases", multiple=True, type=click.Choice(["short", "full"]), help="Only this phase."
)
@click.option("--only", multiple=True, metavar="METHOD", help="Only this method (label or name).")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:N, or auto: a GPU where there is one.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where results are kept.",
)
@click.option(
    "--tensorboard/--no-tensorboard",
    default=True,
    show_default=True,
    help="Write curves, memory and times of each run for TensorBoard, beside its record.",
)
@click.option(
    "--tracker",
    "trackers",
    multiple=True,
    metavar="NAME",
    help="Follow the runs with this tracker too, which another distribution brings.",
)
@click.option("--retry/--no-retry", default=True, show_default=True, help="Repeat runs that failed before.")
@click.option("--dry-run", is_flag=True, help="Check everything, show the plan with its memory; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the leaderboard as JSON on stdout.")
def run(
    suite: str,
    overrides: tuple[str, ...],
    phases: tuple[str, ...],
    only: tuple[str, ...],
    device: str,
    results: Path,
    tensorboard: bool,
    trackers: tuple[str, ...],
    retry: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure every method of SUITE and show the leaderboard.

    SUITE is a TOML file, or the name of one that comes with peprof: quickstart, sst2, sst2-minilm,
    sst2-minilm-seeds, sst2-t5, glue, every-method, lst-table1, klst-table, billions, billions-t5,
    billions-nf4.

    Each run is done in a fresh process and recorded when it ends, whatever happens to it. Interrupted, the
    same command goes on where it stopped.

    \b
    Examples:
      peprof run quickstart
      peprof run suites/sst2.toml --only lora --only full --device cuda
      peprof run suites/sst2.toml --set train.batch_size=16 --set methods.lora.rank=4
    """
    from rich.console import Console

    from peprof.suite.loading import load_suite
    from peprof.tracking.registry import TENSORBOARD, check_trackers

    followed_by = check_trackers([*([TENSORBOARD] if tensorboard else []), *trackers])
    loaded = load_suite(suite, overrides=overrides, only=only, phases=phases)
    talk = Console(stderr=True)  # what is said on the way; stdout is for results
    if dry_run:
        _dry_run(loaded, device=device, results=results, talk=talk, as_json=as_json)
        return
    _run(
        loaded,
        device=device,
        results=results,
        trackers=followed_by,
        retry=retry,
        talk=talk,
        as_json=as_json,
    )


def _run(
    loaded: LoadedSuite,
    *,
    device: str,
    results: Path,
    trackers: tuple[str, ...],
    retry: bool,
    talk: Console,
    as_json: bool,
) -> None:
    from peprof.reports.export import to_json
    from peprof.reports.leaderboard import print_leaderboards, results_console
    from peprof.reports.progress import RunProgress
    from peprof.reports.terminal import print_tensorboard
    from peprof.results.comparison import leaderboards
    from peprof.running.runner import run_suite

    try:
        with RunProgress(talk) as progress:
            outcome = run_suite(
                loaded, results=results, device=device, observer=progress, trackers=trackers, retry=retry
            )
    except KeyboardInterrupt as stop:
        stop.args = (GOES_ON,)
        raise
    boards = leaderboards(outcome.records)
    if as_json:
        click.echo(to_json(boards))
    else:
        print_leaderboards(results_console(), boards)
        talk.print(f"Records: {outcome.store.directory}", style="dim", highlight=False, soft_wrap=True)
        if any(outcome.store.tensorboard_log(record.run_id) for record in outcome.records):
            print_tensorboard(talk, outcome.store.directory)
    _raise_failures(outcome.records, outcome.store.directory)
    if outcome.problems:
        raise outcome.problems[0]


def _raise_failures(records: tuple[RunRecord, ...], directory: Path) -> None:
    """Running out of memory and diverging are findings; failing and running out of time are not."""
    failed = [record for record in records if record.status in ("failed", "timeout")]
    if not failed:
        return
    lines = [f"{len(failed)} of {len(records)} runs failed"]
    for record in failed:
        assert record.failure is not None  # a record's status other than ok comes with its reason
        lines.append(f"  {record.run_id}: {record.failure.phase}: {record.failure.message}")
    raise RunFailedError(
        "\n".join(lines),
        hint=f"Tracebacks are in {directory}/runs/*/record.json; the same command tries these runs again.",
    )


def _dry_run(loaded: LoadedSuite, *, device: str, results: Path, talk: Console, as_json: bool) -> None:
    from peprof.reports.leaderboard import results_console
    from peprof.reports.plan import plan_as_json, print_plan
    from peprof.reports.progress import RunProgress
    from peprof.results.store import ResultStore
    from peprof.running.runner import prepare_suite

    store = ResultStore(results / loaded.suite.name)
    with RunProgress(talk) as progress:
        prepared = prepare_suite(loaded, device=device, observer=progress, fetch=False)
        specs = prepared.specs
        estimates = _estimates(loaded, prepared, progress)
    finished = {spec.run_id for spec in specs if store.finished(spec.run_id)}
    if as_json:
        click.echo(plan_as_json(specs, finished, estimates))
    else:
        from peprof.estimation.targets import memory_here

        print_plan(
            results_console(), specs, finished, estimates, memory_bytes=memory_here(specs[0].device, device)
        )


def _estimates(loaded: LoadedSuite, prepared: Prepared, progress: RunProgress) -> dict[str, Estimate]:
    """The memory of each run's step here, by run id; empty where a model has yet to be downloaded."""
    from peprof.errors import SuiteError
    from peprof.estimation.estimating import estimate_runs
    from peprof.estimation.pool_here import pool_here
    from peprof.estimation.targets import KINDS

    kind = KINDS[prepared.specs[0].device]
    pool = pool_here(kind, prepared.environment.device_name)
    try:
        found = estimate_runs(
            prepared.specs,
            kind,
            source=loaded.source,
            say=progress.progress,
            gpu=pool.gpu,
            settings=pool.settings,
        )
    except SuiteError:  # what is wrong was said before; here it is a model that isn't here
        return {}
    return {estimate.spec.run_id: estimate for estimate in found}
