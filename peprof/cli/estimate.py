"""``peprof estimate``: the memory of training steps, without the device and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peprof.cli.showing import show_as
from peprof.errors import RunFailedError, SuiteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peprof.estimation.targets import Target
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
LARGEST_SIZE = 2**20
"""As ``peprof.results.estimates.SEARCH_END``, for which a command's help needn't wait."""
IN_A_SUITE = {
    "task": "data.task={}",
    "dtype": "model.dtype={}",
    "quantization": "model.quantization={}",
    "batch": "train.batch_size={}",
    "length": "data.max_length={}",
    "checkpointing": "methods.LABEL.gradient_checkpointing=true",
    "labels": "data.path=DIR",
}
"""What a suite calls each of the options that go with a model."""


class Size(click.IntRange):
    """A whole number, which is what messages call it."""

    name = "whole number"


def named_by_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is estimated where no suite does; ``estimate`` and ``fit`` have them."""
    options = (
        click.option("--model", metavar="NAME", help="A usual name, or a directory with config.json."),
        click.option("--method", "methods", multiple=True, metavar="NAME", help="[default: all]"),
        click.option(
            "--batch", type=Size(1, LARGEST_SIZE), metavar="N", help="Examples a step.  [default: 8]"
        ),
        click.option(
            "--length", type=Size(4, LARGEST_SIZE), metavar="N", help="Tokens an example.  [default: 512]"
        ),
        click.option("--dtype", type=click.Choice(DTYPES), help="Of the parameters.  [default: float32]"),
        click.option(
            "--quantization", type=click.Choice(QUANTIZATIONS), help="Of linear layers.  [default: none]"
        ),
        click.option("--task", type=click.Choice(TASKS), help="[default: what the model is mostly used for]"),
        click.option(
            "--labels", type=Size(2, LARGEST_SIZE), metavar="N", help="Of a classifier.  [default: 2]"
        ),
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
    from peprof.estimation.targets import find_target

    if plot is not None:
        from peprof.reports.memory_plot import check_plot_file

        check_plot_file(plot)
    target = find_target(device)  # before torch is imported: a wrong name is told at once
    loaded = loaded_suite(suite, named, "estimate")
    found: list[Estimate] = []
    try:
        asked = _Asked(loaded=loaded, target=target, padded=not full, num_labels=named["labels"])
        _find(asked, plot, found)
    except KeyboardInterrupt as stop:
        if found:
            _show(published(found, loaded), None, output_format)
        stop.args = (_interrupted_words(loaded, target, found, plot),)
        raise
    _show(published(found, loaded), breakdown, output_format)
    raise_if_nothing_is_known([item.problem for item in found])


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is estimated, and how."""

    loaded: LoadedSuite
    target: Target
    padded: bool
    num_labels: int | None


def _show(found: Sequence[Estimate], breakdown: str | None, output_format: str) -> None:
    from peprof.reports import estimates as reports

    if breakdown is not None:
        show_breakdown(found, breakdown)
        return
    show_as(
        output_format,
        found,
        table=reports.print_estimates,
        json=reports.estimates_as_json,
        csv=reports.estimates_as_csv,
        markdown=reports.estimates_as_markdown,
    )


def _interrupted_words(
    loaded: LoadedSuite, target: Target, found: Sequence[Estimate], plot: Path | None
) -> str:
    if not found:
        return "Interrupted before anything was estimated."
    missing = missing_labels(planned(loaded, target.kind), [item.spec for item in found])
    return f"Interrupted. Not known yet: {', '.join(missing) or plot or 'nothing'}."


def missing_labels(specs: Sequence[RunSpec], done: Sequence[RunSpec]) -> list[str]:
    """The methods of runs of which nothing is known yet, each once."""
    known = {spec.run_id for spec in done}
    return list(dict.fromkeys(spec.method.label for spec in specs if spec.run_id not in known))


def raise_if_nothing_is_known(problems: Sequence[str | None]) -> None:
    """A row that can't be told is a finding; where none can be, the command has failed.

    Args:
        problems: of each row; ``None`` where it is known.

    Raises:
        RunFailedError: no row is known.
    """
    if any(problem is None for problem in problems):
        return
    reasons = list(dict.fromkeys(problems))
    why = reasons[0] if len(reasons) == 1 else f"{len(reasons)} reasons are said above"
    raise RunFailedError(f"nothing could be told of any method: {why}")


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
        raise _which(suite, named["model"], command)
    if suite is None:
        _check_model_name(named["model"])
        tables = _tables(named)
        if trained:
            tables["model"]["weights"] = "random"
            tables["data"] |= TRAINED_DATA
        return suite_of_tables(tables, name=COMMAND_LINE, overrides=named["overrides"])
    for option, setting in IN_A_SUITE.items():
        if named[option]:
            raise UsageError(
                f"--{option} goes with --model; a suite says it itself",
                hint=f"Lay it over the suite: --set {setting.format(named[option])}.",
            )
    return load_suite(suite, overrides=named["overrides"], only=named["methods"], only_option="--method")


def _which(suite: str | None, model: str | None, command: str) -> UsageError:
    """Neither or both of a suite and a model are named."""
    if suite is None:
        return UsageError(
            f"peprof {command} takes a suite, or a model by --model",
            hint=f"For example: peprof {command} sst2, or peprof {command} --model roberta-large.",
        )
    return UsageError(
        f"both a suite ({suite}) and a model (--model {model}) are named; peprof {command} takes one of them",
        hint=f"For the suite with that model: peprof {command} {suite} --set model.name={model}.",
    )


def _check_model_name(name: str) -> None:
    """What can be seen of a model's name before anything is imported.

    Raises:
        UsageError, SuiteError: it can be none.
    """
    from peprof.suite.local_paths import model_directory

    if not name.strip():
        raise UsageError(
            "--model names no model: it is empty", hint="For example --model roberta-large, or a directory."
        )
    faults = model_directory(name, roots=(Path.cwd(),), key="--model")[1]
    if faults:
        raise SuiteError(COMMAND_LINE, faults)


def _tables(named: dict[str, Any]) -> dict[str, Any]:
    """The tables of a suite.

    Raises:
        UsageError: classes are asked for where there are none.
        SuiteError: the model isn't known here.
    """
    from peprof.estimation.building import NO_DATA
    from peprof.suite.catalogue import known_methods

    methods = named["methods"] or [
        n for n, entry in known_methods().items() if entry.distribution == "peprof"
    ]
    task = named["task"] or _usual_task(named["model"])
    if named["labels"] is not None and task != "classification":
        raise UsageError(
            f"--labels: {task} has no classes", hint="Leave it out, or say --task classification."
        )
    data: dict[str, Any] = {"name": NO_DATA, "task": task, "max_length": named["length"] or 512}
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


def checked(loaded: LoadedSuite, kind: str) -> tuple[RunSpec, ...]:
    """The same, where they are ones that a run could have.

    Raises:
        SuiteError: they aren't.
    """
    from peprof.estimation.asked import check_runs

    specs = planned(loaded, kind)
    check_runs(specs, source=loaded.source)
    return specs


def published(found: Sequence[Estimate], loaded: LoadedSuite) -> Sequence[Estimate]:
    """With what the suite says was published of its methods."""
    from peprof.results.estimates import with_published

    return with_published(found, loaded.suite, set_keys=loaded.set_keys)


def _find(asked: _Asked, plot: Path | None, found: list[Estimate]) -> None:
    """Fills ``found``, in which each estimate lies as soon as it is there; draws it where that is asked for.

    Raises:
        PeprofError: a model isn't known here, or what is asked for can't be had.
        UsageError: a picture is asked for of more than one model or shape, or nothing is known of any method.
    """
    from rich.console import Console

    from peprof.reports.progress import RunProgress

    with RunProgress(Console(stderr=True)) as progress:
        from peprof.estimation.batches import one_a_method
        from peprof.estimation.estimating import estimate_runs

        specs = checked(asked.loaded, asked.target.kind)
        drawn = one_a_method(specs) if plot is not None else ()
        estimate_runs(
            specs,
            asked.target.kind,
            source=asked.loaded.source,
            say=progress.progress,
            padded=asked.padded,
            gpu=asked.target.gpu,
            num_labels=asked.num_labels,
            tell=found.append,
        )
    if plot is not None:
        _draw(asked, plot, drawn, found)
        click.echo(f"Drawn: {plot}", err=True)


def _draw(asked: _Asked, path: Path, specs: Sequence[RunSpec], found: Sequence[Estimate]) -> None:
    """Memory by batch size, each point estimated by itself, goes into a picture.

    It is that of tensors; for a GPU's name, what would be used on it.

    Raises:
        UsageError: nothing is known of any method.
    """
    from rich.console import Console

    from peprof.estimation.batches import estimate_batches
    from peprof.reports.batch_memory import draw_batch_memory
    from peprof.reports.estimate_notes import device_of, drawn_words
    from peprof.reports.estimates import circumstances, heading
    from peprof.reports.progress import RunProgress
    from peprof.reports.spec_columns import method_words

    with RunProgress(Console(stderr=True)) as progress:
        points = estimate_batches(
            specs,
            asked.target.kind,
            source=asked.loaded.source,
            say=progress.progress,
            padded=asked.padded,
            gpu=asked.target.gpu,
            done=found,
            num_labels=asked.num_labels,
        )
    draw_batch_memory(
        {method_words(spec): points[spec.method.label] for spec in specs},
        path,
        title=heading(specs[0], found),
        subtitle=f"{circumstances(specs[0], batch=False)} · {drawn_words(found)}",
        device=device_of(found),
    )


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
