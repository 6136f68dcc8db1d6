"""``peprof fit``: the largest batch and the longest length that fit into so much memory."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from peprof.cli.estimate import (
    checked,
    loaded_suite,
    named_by_options,
    planned,
    raise_if_nothing_is_known,
)
from peprof.cli.showing import show_as
from peprof.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    help="What torch's pool may hold: 24GB, 16GiB.  [default: what the named GPU has less its context, or "
    "what is free on the one here]",
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
        _fit_estimated(suite, memory, device, dimensions, full, output_format, named)
        return
    from peprof.cli.fit_measured import fit_measured

    if full:
        raise UsageError(
            "--no-padding goes with estimates: real examples hold what they hold",
            hint="Leave it out, or say --estimated.",
        )
    if named["labels"] is not None:
        raise UsageError(
            "--labels goes with estimates: what is trained on here has two classes",
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


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is estimated, and how."""

    loaded: LoadedSuite
    target: Target
    memory_bytes: int
    dimensions: tuple[Dimension, ...]
    padded: bool
    num_labels: int | None


def _fit_estimated(
    suite: str | None,
    memory: str | None,
    device: str | None,
    dimensions: tuple[Dimension, ...],
    full: bool,
    output_format: str,
    named: dict[str, Any],
) -> None:
    """Estimates borders and shows them; what was found also when interrupted.

    Raises:
        PeprofError: an unknown device, a model that isn't known here, or what is asked for can't be had.
        RunFailedError: nothing could be told of any method.
    """
    from peprof.estimation.targets import find_target

    target = find_target(device or "cuda")  # before torch is imported: a wrong name is told at once
    memory_bytes = _memory_bytes(memory, device, target)
    loaded = loaded_suite(suite, named, "fit")
    asked = _Asked(
        loaded=loaded,
        target=target,
        memory_bytes=memory_bytes,
        dimensions=dimensions or DIMENSIONS,
        padded=not full,
        num_labels=named["labels"],
    )
    found: list[Fits] = []
    try:
        _find(asked, found)
    except KeyboardInterrupt as stop:
        if found:
            _show(found, output_format)
        stop.args = (_interrupted_words(asked, found),)
        raise
    _show(found, output_format)
    raise_if_nothing_is_known([fit.estimate.problem for fits in found for fit in fits.values()])


def _memory_bytes(memory: str | None, device: str | None, target: Target) -> int:
    """What the pool may hold: what was said, or what the named GPU has less its context.

    Raises:
        UsageError: neither is known, or a GPU is named that hasn't so much.
    """
    from peprof.estimation.targets import read_bytes
    from peprof.reports.formats import human_bytes

    if memory is None:
        if target.memory_bytes is not None:
            return target.memory_bytes
        what = "there is" if device is None else f"'{device}' has"
        raise UsageError(
            f"how much memory {what} isn't known",
            hint="Say it, for example with --memory 24GB; or name a GPU, for example with --device rtx4090.",
        )
    memory_bytes = read_bytes(memory)
    if target.gpu is not None and memory_bytes > target.gpu.total.nbytes:
        raise UsageError(
            f"--memory asks for {human_bytes(memory_bytes)}; of a {target.name}'s memory torch sees "
            f"{human_bytes(target.gpu.total.nbytes)}",
            hint="Leave --memory out, for what it has less its context; or ask for less.",
        )
    return memory_bytes


def _find(asked: _Asked, found: list[Fits]) -> None:
    """Fills ``found``, in which each method's borders lie as soon as they are known.

    Raises:
        PeprofError: a model isn't known here, or what is asked for can't be had.
    """
    from rich.console import Console

    from peprof.events import Progress
    from peprof.reports.progress import RunProgress

    begin = time.monotonic()
    with RunProgress(Console(stderr=True)) as progress:
        from peprof.estimation.building import known_data
        from peprof.estimation.fitting import find_fits

        specs = checked(asked.loaded, asked.target.kind)
        for number, spec in enumerate(specs):
            left = (time.monotonic() - begin) / number * (len(specs) - number) if number else None
            at = Progress(
                phase=f"fitting {spec.method.label}", step=number, total=len(specs), seconds_left=left
            )
            progress.progress(at)

            def tell(words: str, at: Progress = at) -> None:
                progress.progress(replace(at, phase=f"{at.phase}: {words}"))

            source = asked.loaded.source
            known = known_data(spec.data, source=source, num_labels=asked.num_labels)
            found.append(
                find_fits(
                    spec,
                    known,
                    asked.target.kind,
                    asked.dimensions,
                    asked.memory_bytes,
                    source=source,
                    padded=asked.padded,
                    gpu=asked.target.gpu,
                    say=tell,
                )
            )


def _show(found: Sequence[Fits], output_format: str) -> None:
    from peprof.reports import fits as reports

    show_as(
        output_format,
        found,
        table=reports.print_fits,
        json=reports.fits_as_json,
        csv=reports.fits_as_csv,
        markdown=reports.fits_as_markdown,
    )


def _interrupted_words(asked: _Asked, found: Sequence[Fits]) -> str:
    if not found:
        return "Interrupted before anything was found."
    missing = planned(asked.loaded, asked.target.kind)[len(found) :]
    labels = dict.fromkeys(spec.method.label for spec in missing)
    return f"Interrupted. Not known yet: {', '.join(labels) or 'nothing'}."
