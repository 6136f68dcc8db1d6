"""The methods that are installed, as a table, and one of them with all of its options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from peprof.reports.terminal import INDENT, rule_of, said, say
from peprof.suite.catalogue import MethodEntry, OptionEntry

FAMILY_ORDER = (
    "whole model",
    "parts of the model",
    "low rank",
    "scaling",
    "side network",
    "inserted",
    "prompt",
    "selected entries",
    "library",
)
OTHER_FAMILY = "other"
ARCHITECTURES = {
    "distilbert": "DistilBERT",
    "bert": "BERT",
    "roberta": "RoBERTa",
    "t5": "T5",
    "llama": "Llama",
    "T5ForConditionalGeneration": "T5 that generates",
    "T5ForSequenceClassification": "T5 that classifies",
}


def print_methods(console: Console, entries: Sequence[MethodEntry], *, tuners: Iterable[str] = ()) -> None:
    """Prints a table: a row a method, and one each of its variants, in the order of their families.

    Args:
        console: where to.
        entries: in any order.
        tuners: of the ``peft`` library, which are methods too; none where it isn't installed.
    """
    table = Table(box=rule_of(console), pad_edge=True, header_style="bold", show_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("what is trained", overflow="fold", ratio=3)
    table.add_column("merges", no_wrap=True)
    table.add_column("not on", overflow="fold", ratio=1)
    table.add_column("paper", overflow="fold", ratio=2)
    ordered = sorted(entries, key=lambda entry: (_rank(entry), entry.name))
    for family, group in groupby(ordered, key=_family):
        table.add_row(said(console, family), "", "", "", "", style="bold cyan")
        for entry in group:
            problem = entry.problem is not None
            table.add_row(
                f"  {entry.name}",
                said(console, entry.problem or entry.facts.trains or _prose(entry.summary)),
                "" if problem else _MERGES[entry.facts.merges],
                said(console, ", ".join(dict.fromkeys(map(_architecture, entry.facts.unsupported)))),
                said(console, entry.facts.paper),
                style="red" if problem else "",
            )
            for name, (options, paper) in entry.facts.variants.items():
                table.add_row(
                    f"    {name}", said(console, options), "", "", said(console, paper), style="dim"
                )
    console.print(Padding(table, (0, 0, 0, INDENT - 1)))
    console.print()
    names = ", ".join(sorted(tuners)) or "(not installed: pip install 'peprof[peft]')"
    say(console, f"Any tuner of the peft library, as peft:NAME: {names}", "")
    console.print()
    say(console, "Options and meanings: peprof methods NAME", "dim")


def print_method(console: Console, entry: MethodEntry) -> None:
    """Prints all that is known of one method: what it is, where it works, its options."""
    say(console, entry.name, "bold")
    if entry.problem is not None:
        say(console, f"It can't be used: {entry.problem}", "red")
        return
    say(console, _prose(entry.summary), "")
    for paragraph in entry.description.splitlines():
        console.print()
        say(console, _prose(paragraph), "")
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for head, text in _facts(entry):
        facts.add_row(f"{head}:", said(console, text))
    console.print(Padding(facts, (0, 0, 0, INDENT)))
    console.print()
    if not entry.options:
        say(console, "It has no options.", "dim")
    else:
        table = Table(box=rule_of(console), pad_edge=True, header_style="bold", show_edge=False)
        table.add_column("option", no_wrap=True)
        table.add_column("default", overflow="fold", ratio=1)
        table.add_column("meaning", overflow="fold", ratio=3)
        for option in entry.options:
            table.add_row(option.name, _default(option), said(console, _meaning(option)))
        console.print(Padding(table, (0, 0, 0, INDENT - 1)))
    console.print()
    say(console, "In a suite, each method may also have: " + _EVERY_METHOD, "dim")


_MERGES = {True: "yes", False: "no", None: "depends"}
_EVERY_METHOD = "label, learning_rate, weight_decay, gradient_checkpointing, published."


def as_json(entries: Iterable[MethodEntry]) -> str:
    """A list of methods with their facts and options."""
    return json.dumps([_plain(entry) for entry in entries], indent=2)


def _plain(entry: MethodEntry) -> dict[str, Any]:
    options = [
        {
            "name": option.name,
            "type": option.annotation,
            "required": option.required,
            "default": option.default if option.default_known else None,
            "meaning": option.meaning,
        }
        for option in entry.options
    ]
    variants = {
        name: {"options": options, "paper": paper} for name, (options, paper) in entry.facts.variants.items()
    }
    facts = {**asdict(entry.facts), "unsupported": dict(entry.facts.unsupported), "variants": variants}
    return {
        "name": entry.name,
        "class": entry.value,
        "distribution": entry.distribution,
        "summary": entry.summary,
        "description": entry.description,
        **facts,
        "options": options,
        "problem": entry.problem,
    }


def _facts(entry: MethodEntry) -> Iterable[tuple[str, str]]:
    facts = entry.facts
    if facts.paper:
        yield "paper", facts.paper
    if facts.trains:
        yield "trains", facts.trains
    merges = {True: "yes, for inference at no extra cost", False: "no", None: "where the library can"}
    yield "merges", merges[facts.merges]
    for name, (options, paper) in facts.variants.items():
        yield name, ", ".join(filter(None, (f"with {options}", paper)))
    reasons = {f"{_architecture(name)}: {reason}" for name, reason in facts.unsupported.items()}
    for reason in sorted(reasons):
        yield "not on", reason
    yield "from", f"{entry.distribution or 'an unknown distribution'} ({entry.value})"


def _family(entry: MethodEntry) -> str:
    return entry.facts.family or OTHER_FAMILY


def _rank(entry: MethodEntry) -> tuple[int, str]:
    family = _family(entry)
    return (FAMILY_ORDER.index(family) if family in FAMILY_ORDER else len(FAMILY_ORDER)), family


def _architecture(name: str) -> str:
    if name.endswith("ForCausalLM"):
        return "language models"
    return ARCHITECTURES.get(name, name)


def _default(option: OptionEntry) -> str:
    if option.required:
        return "(required)"
    if not option.default_known:
        return "(known when it runs)"
    value = option.default
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "(empty)"
    return str(value)


def _meaning(option: OptionEntry) -> str:
    """What it means, and what it may be where that doesn't say so."""
    meaning = _prose(option.meaning)
    choices = dict.fromkeys(map(str, _choices(option.type)))
    unsaid = [word for word in choices if not re.search(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\w)", meaning)]
    if not unsaid:
        return meaning
    return " ".join(part for part in (meaning, f"(of {', '.join(choices)})") if part)


def _choices(annotation: Any) -> Iterator[Any]:
    """The values of the literal types in an annotation."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _choices(part)


def _prose(text: str) -> str:
    """A docstring's text without its marks for code, and as suites write it."""
    return text.replace("``None``", "none").replace("``", "")
