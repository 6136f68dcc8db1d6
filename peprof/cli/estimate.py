"""``peprof estimate``: the memory of training steps, without the device and without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peprof.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peprof.results.estimates import Estimate
    from peprof.suite.loading import LoadedSuite
    from peprof.suite.planning import RunSpec

COMMAND_LINE = "the command line"
TRAINED_DATA = {"name": "peprof/reviews", "train_rows": 512, "validation_rows": 8}
"""Rows are taken again where a batch has more; nothing is validated."""
FORMATS = ("table", "json", "csv", "markdown")
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("nf4", "nf4-single", "int8")
TASKS = ("classification", "regression", "text-to-text", "language-modelling")


def named_by_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is estimated where no suite does; ``estimate`` and ``fit`` have them."""
    options = (
        click.option("--model", metavar="NAME", help="A usual name, or a directory with config.json."),
        click.option("--method", "methods", multiple=True, metavar="NAME", help="[default: all]"),
        click.option("--batch", type=click.IntRange(min=1), help="Examples a step.  [default: 8]"),
        click.option("--length", type=click.IntRange(min=4), help="Tokens an example.  [default: 512]"),
        click.option("--dtype", type=click.Choice(DTYPES), help="Of the parameters.  [default: float32]"),
        click.option(
            "--quantization", type=click.Choice(QUANTIZATIONS), help="Of linear layers.  [default: none]"
        ),
        click.option("--task", type=click.Choice(TASKS), help="[default: what the model is mostly used for]"),
        click.option("--checkpointing", is_flag=True, help="With gradient checkpointing."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in a suite."),
        click.option(
            "--no-padding", "full", is_flag=True, help="Examples fill the length: attention needs no mask."
        ),
        click.option(
            "--format", "output_format", type=click.Choice(FORMATS), default="table", show_default=True,
            help="json has all that is known.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("suite", metavar="[SUITE]", required=False)
@click.option(
    "--device",
    default="cuda",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda, or a GPU: H100, A100-40, rtx4090.",
)
@click.option(
    "--breakdown", metavar="METHOD", help="Show whose the memory of this method's step is, in full."
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw each method's peak, or what it uses on the GPU that --device names, against the batch size as "
    ".svg, .png or .html.",
)
@named_by_options
def estimate(
    suite: str | None,
    device: str,
    breakdown: str | None,
    plot: Path | None,
    full: bool,
    output_format: str,
    **named: Any,
) -> None:
    """Tell the memory of each method's training step, to the byte, without the device.

    The step runs on tensors without data, with the model's known geometry: nothing is downloaded, and a model
    of 70 billion parameters takes seconds.

    \b
    Examples:
      peprof estimate --model Llama-3.1-8B --method lora --batch 4 --length 2048 --dtype bfloat16
      peprof estimate --model Llama-3.1-8B --method lora --quantization nf4 --dtype bfloat16 --batch 1
      peprof estimate suites/sst2.toml --set train.batch_size=64
      peprof estimate --model roberta-large --breakdown lora
      peprof estimate --model roberta-large --method full --method lora --device T4 --batch 32
      peprof estimate --model bert-base --method full --method lora --plot bert.svg
    """
    from peprof.reports.leaderboard import results_console

    if plot is not None:
        from peprof.reports.memory_plot import check_plot_file

        check_plot_file(plot)
    loaded = loaded_suite(suite, named, "estimate")
    if plot is None:
        found = estimated(loaded, device, padded=not full)
    else:
        found = drawn(loaded, device, plot, padded=not full)
        click.echo(f"Drawn: {plot}", err=True)
    if breakdown is not None:
        show_breakdown(found, breakdown)
    elif output_format == "table":
        from peprof.reports.estimates import print_estimates

        print_estimates(results_console(), found)
    else:
        from peprof.reports import estimates as reports

        written = {
            "json": reports.estimates_as_json,
            "csv": reports.estimates_as_csv,
            "markdown": reports.estimates_as_markdown,
        }
        click.echo(written[output_format](found), nl=output_format != "csv")


def loaded_suite(
    suite: str | None, named: dict[str, Any], command: str, *, trained: bool = False
) -> LoadedSuite:
    """The suite that is meant, or one made of what the options name.

    Args:
        suite: a file or a name.
        named: values of ``named_by_options``.
        command: for the message.
        trained: whether steps of it are really run: a model that is named then has random weights, which
            need as much as any and are never downloaded, and generated sentences to train on.

    Raises:
        UsageError: neither is given, or both.
        SuiteError: the suite has faults.
    """
    from peprof.suite.loading import load_suite, suite_of_tables

    if (suite is None) == (named["model"] is None):
        raise UsageError(
            f"peprof {command} takes a suite, or a model by --model",
            hint=f"For example: peprof {command} sst2, or peprof {command} --model roberta-large.",
        )
    if suite is None:
        tables = _tables(named)
        if trained:
            tables["model"]["weights"] = "random"
            tables["data"] |= TRAINED_DATA
        return suite_of_tables(tables, name=COMMAND_LINE, overrides=named["overrides"])
    for option in ("task", "dtype", "quantization", "batch", "length", "checkpointing"):
        if named[option]:
            raise UsageError(
                f"--{option} goes with --model; a suite says it itself",
                hint="Lay it over the suite with --set, for example --set train.batch_size=16.",
            )
    return load_suite(suite, overrides=named["overrides"], only=named["methods"])


def _tables(named: dict[str, Any]) -> dict[str, Any]:
    """The tables of a suite."""
    from peprof.suite.catalogue import known_methods

    methods = named["methods"] or [
        n for n, entry in known_methods().items() if entry.distribution == "peprof"
    ]
    task = named["task"] or _usual_task(named["model"])
    data: dict[str, Any] = {"name": "any/data", "task": task, "max_length": named["length"] or 512}
    if task == "text-to-text":
        data["verbalizers"] = ["no", "yes"]
    checkpointing = {"gradient_checkpointing": True} if named["checkpointing"] else {}
    return {
        "name": "estimate",
        "phases": ["short"],
        "model": {
            "name": named["model"],
            "dtype": named["dtype"] or "float32",
            "quantization": named["quantization"] or "none",
        },
        "data": data,
        "train": {"batch_size": named["batch"] or 8},
        "methods": [{"name": name, **checkpointing} for name in methods],
    }


def _usual_task(model: str) -> str:
    from peprof.estimation.building import without_download
    from peprof.suite.schema import ModelConfig
    from peprof.training.backbone import usual_task

    return usual_task(without_download(ModelConfig(name=model), source=COMMAND_LINE), source=COMMAND_LINE)


def planned(loaded: LoadedSuite, kind: str) -> tuple[RunSpec, ...]:
    """The runs of a suite, one a method and point of the matrix: seeds need the same memory."""
    from peprof.suite.planning import plan

    return plan(loaded.suite.model_copy(update={"phases": ("short",)}), device=kind)


def estimated(loaded: LoadedSuite, device: str, *, padded: bool) -> Sequence[Estimate]:
    """The estimates of a suite, with progress on stderr.

    Raises:
        PeprofError: an unknown device, or a model that isn't known here.
    """
    from rich.console import Console

    from peprof.estimation.targets import find_target
    from peprof.reports.progress import RunProgress
    from peprof.results.estimates import with_published

    target = find_target(device)
    with RunProgress(Console(stderr=True)) as progress:
        from peprof.estimation.estimating import estimate_runs

        specs = planned(loaded, target.kind)
        found = estimate_runs(
            specs, target.kind, source=loaded.source, say=progress.progress, padded=padded, gpu=target.gpu
        )
    return with_published(found, loaded.suite, set_keys=loaded.set_keys)


def drawn(loaded: LoadedSuite, device: str, path: Path, *, padded: bool) -> Sequence[Estimate]:
    """The estimates of a suite; memory by batch size, each point estimated by itself, goes into a picture.

    It is that of tensors; for a GPU's name, what would be used on it.

    Raises:
        UsageError: the suite has more than one model or shape, or nothing is known of any method.
        PeprofError: an unknown device, or a model that isn't known here.
    """
    from rich.console import Console

    from peprof.estimation.batches import estimate_batches, one_a_method
    from peprof.estimation.targets import find_target
    from peprof.reports.batch_memory import draw_batch_memory
    from peprof.reports.estimate_notes import device_of, drawn_words
    from peprof.reports.estimates import circumstances, heading
    from peprof.reports.progress import RunProgress
    from peprof.reports.spec_columns import method_words

    target = find_target(device)
    specs = one_a_method(planned(loaded, target.kind))
    found = estimated(loaded, device, padded=padded)
    with RunProgress(Console(stderr=True)) as progress:
        points = estimate_batches(
            specs,
            target.kind,
            source=loaded.source,
            say=progress.progress,
            padded=padded,
            gpu=target.gpu,
            done=found,
        )
    draw_batch_memory(
        {method_words(spec): points[spec.method.label] for spec in specs},
        path,
        title=heading(specs[0], found),
        subtitle=f"{circumstances(specs[0], batch=False)} · {drawn_words(found)}",
        device=device_of(found),
    )
    return found


def show_breakdown(found: Sequence[Estimate], method: str) -> None:
    """One method's step as ``peprof show`` shows that of a run.

    Raises:
        UsageError: no method has that label, or its step can't be told.
    """
    from peprof.reports.leaderboard import results_console
    from peprof.reports.memory import print_memory
    from peprof.results.finding import FoundRun
    from peprof.suite.describing import nearest

    chosen = [item for item in found if method in (item.label, item.spec.method.name)]
    if not chosen:
        labels = [item.label for item in found]
        near = nearest(method, labels)
        meant = f" Did you mean '{near}'?" if near else ""
        raise UsageError(
            f"--breakdown {method}: no such method.{meant}", hint=f"There are: {', '.join(labels)}."
        )
    for item in chosen:
        if item.profile is None:
            raise UsageError(f"{item.label}: {item.problem}")
        name = f"{item.label} on {item.spec.model.name}, estimated"
        print_memory(results_console(), FoundRun(name=name, record=None, memory=item.profile))
