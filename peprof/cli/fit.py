"""``peprof fit``: the largest batch and the longest length that fit into so much memory."""

from __future__ import annotations

import re
import time
from dataclasses import replace
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
    "--memory",
    metavar="SIZE",
    help="What there is: 24GB, 16GiB.  [default: what the named GPU has, or what is free on the one here]",
)
@click.option(
    "--device",
    metavar="NAME",
    help="Estimated for: cpu, or a GPU: H100, A100-40, rtx4090. Measured on: cuda, cuda:N, which is here.  "
    "[default: a GPU's operators, estimated]",
)
@click.option(
    "--measured/--estimated",
    "measured",
    default=None,
    help="Try sizes on the device, cpu too; or don't, with --device cuda.",
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
    device: str | None,
    measured: bool | None,
    dimensions: tuple[Dimension, ...],
    full: bool,
    output_format: str,
    **named: Any,
) -> None:
    """Find the largest batch, and the longest length, that fit into a device's memory.

    Each method of SUITE, or of --model, is tried on tensors without data; no device is needed. With --device
    cuda it is tried on the GPU that is here: training steps in processes that may run out of memory, from the
    estimate on. The border is verified: it fits, and one more doesn't.

    \b
    Examples:
      peprof fit --model Llama-3.1-8B --method lora --method full --dtype bfloat16 --memory 24GiB
      peprof fit suites/sst2.toml --memory 8GB --largest batch
      peprof fit suites/sst2.toml --device cuda --method lora --method full
      peprof fit suites/sst2.toml --device cpu --measured --memory 4GiB
    """
    here = _device_here(device, measured)
    if here is None:
        _fit_estimated(suite, memory, device or "cuda", dimensions, full, output_format, named)
        return
    from peprof.cli.fit_measured import fit_measured

    if full:
        raise UsageError(
            "--no-padding goes with estimates: real examples hold what they hold",
            hint="Leave it out, or say --estimated.",
        )
    loaded = loaded_suite(suite, named, "fit", trained=True)
    fit_measured(
        loaded,
        device=here,
        memory=memory,
        dimensions=dimensions or DIMENSIONS,
        output_format=output_format,
        leave_out=suite is None and not named["methods"],
    )


def _device_here(device: str | None, measured: bool | None) -> str | None:
    """The device that sizes are tried on; ``None`` where they are estimated.

    Raises:
        UsageError: sizes are to be tried on a device that is only known by its name.
    """
    name = device.strip().lower() if device is not None else None
    is_here = name is None or re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is not None
    if measured is None:
        measured = name is not None and is_here and name != "cpu"
    if not measured:
        return None
    if not is_here:
        raise UsageError(
            f"--measured tries sizes on a device that is here; '{device}' is a name to estimate for",
            hint="Say --device cuda, cuda:N or cpu; or leave --measured out.",
        )
    return name or "auto"


def _fit_estimated(
    suite: str | None,
    memory: str | None,
    device: str,
    dimensions: tuple[Dimension, ...],
    full: bool,
    output_format: str,
    named: dict[str, Any],
) -> None:
    from peprof.estimation.targets import find_target, read_bytes
    from peprof.reports import fits as reports
    from peprof.reports.leaderboard import results_console

    target = find_target(re.sub(r"^(auto|cuda:\d+)$", "cuda", device.strip(), flags=re.IGNORECASE))
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
    from peprof.estimation.fitting import find_fits
    from peprof.events import Progress
    from peprof.reports.progress import RunProgress

    specs = planned(loaded, target.kind)
    found: list[Fits] = []
    begin = time.monotonic()
    with RunProgress(Console(stderr=True)) as progress:
        for number, spec in enumerate(specs):
            left = (time.monotonic() - begin) / number * (len(specs) - number) if number else None
            at = Progress(
                phase=f"fitting {spec.method.label}", step=number, total=len(specs), seconds_left=left
            )
            progress.progress(at)

            def tell(words: str, at: Progress = at) -> None:
                progress.progress(replace(at, phase=f"{at.phase}: {words}"))

            known = known_data(spec.data, source=loaded.source)
            found.append(
                find_fits(
                    spec,
                    known,
                    target.kind,
                    dimensions,
                    memory_bytes,
                    source=loaded.source,
                    padded=padded,
                    gpu=target.gpu,
                    say=tell,
                )
            )
    return found
