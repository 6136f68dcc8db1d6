"""``peprof fit``: the largest batch and the longest length that fit into so much memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from peprof.cli.estimate import loaded_suite, named_by_options, planned
from peprof.errors import UsageError

if TYPE_CHECKING:
    from peprof.estimation.fitting import Dimension
    from peprof.estimation.targets import Target
    from peprof.reports.fits import Fits
    from peprof.suite.loading import LoadedSuite

DIMENSIONS: tuple[Dimension, ...] = ("batch", "length")


@click.command()
@click.argument("suite", metavar="[SUITE]", required=False)
@click.option(
    "--memory", metavar="SIZE", help="What there is: 24GB, 16GiB.  [default: what the named GPU has]"
)
@click.option(
    "--device",
    default="cuda",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, or a GPU: H100, A100-40, rtx4090.",
)
@click.option(
    "--largest",
    "dimensions",
    multiple=True,
    type=click.Choice(DIMENSIONS),
    help="Look for this alone.  [default: batch and length]",
)
@named_by_options
def fit(
    suite: str | None,
    memory: str | None,
    device: str,
    dimensions: tuple[Dimension, ...],
    full: bool,
    output_format: str,
    **named: Any,
) -> None:
    """Find the largest batch, and the longest length, that fit into a device's memory.

    Each method of SUITE, or of --model, is tried on tensors without data; no device is needed. The border is
    verified: it fits, and one more doesn't.

    \b
    Examples:
      peprof fit --model Llama-3.1-8B --method lora --method full --dtype bfloat16 --memory 24GiB
      peprof fit suites/sst2.toml --memory 8GB --largest batch
    """
    from peprof.estimation.targets import find_target, read_bytes
    from peprof.reports import fits as reports
    from peprof.reports.leaderboard import results_console

    target = find_target(device)
    memory_bytes = read_bytes(memory) if memory is not None else target.memory_bytes
    if memory_bytes is None:
        raise UsageError(
            f"how much memory '{device}' has isn't known", hint="Say it, for example with --memory 24GB."
        )
    loaded = loaded_suite(suite, named, "fit")
    found = _found(loaded, target, memory_bytes, dimensions or DIMENSIONS, padded=not full)
    if output_format == "table":
        reports.print_fits(results_console(), found)
        return
    written = {
        "json": reports.fits_as_json,
        "csv": reports.fits_as_csv,
        "markdown": reports.fits_as_markdown,
    }
    click.echo(written[output_format](found), nl=output_format != "csv")


def _found(
    loaded: LoadedSuite,
    target: Target,
    memory_bytes: int,
    dimensions: tuple[Dimension, ...],
    *,
    padded: bool,
) -> list[Fits]:
    from rich.console import Console

    from peprof.estimation.building import known_data
    from peprof.estimation.fitting import find_fits, pool_bytes, tensor_bytes
    from peprof.events import Progress
    from peprof.reports.progress import RunProgress

    specs = planned(loaded, target.kind)
    found: list[Fits] = []
    begin = time.monotonic()
    with RunProgress(Console(stderr=True)) as progress:
        for number, spec in enumerate(specs):
            left = (time.monotonic() - begin) / number * (len(specs) - number) if number else None
            phase = f"fitting {spec.method.label}"
            progress.progress(Progress(phase=phase, step=number, total=len(specs), seconds_left=left))
            known = known_data(spec.data, source=loaded.source)
            found.append(
                find_fits(
                    spec,
                    known,
                    target.kind,
                    dimensions,
                    memory_bytes,
                    source=loaded.source,
                    need=tensor_bytes if target.gpu is None else pool_bytes,
                    padded=padded,
                    gpu=target.gpu,
                )
            )
    return found
