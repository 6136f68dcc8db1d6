"""``peprof methods``: the table and the page of one method, on made entries and on those installed."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from rich.console import Console

from peprof.cli.methods import methods
from peprof.errors import UsageError
from peprof.reports.methods import FAMILY_ORDER, as_json, print_method, print_methods
from peprof.suite.catalogue import MethodEntry, MethodFacts, OptionEntry, known_methods


def entry(name: str, **facts: object) -> MethodEntry:
    option = OptionEntry(
        name="rank",
        annotation="int",
        type=int,
        required=False,
        default=8,
        default_known=True,
        meaning="of the ``B A`` update.",
    )
    return MethodEntry(
        name=name,
        value=f"made.{name}:Made",
        distribution="made",
        summary="A low-rank update.",
        description="First paragraph.\nSecond one.",
        facts=MethodFacts(**facts),  # type: ignore[arg-type]
        options=(option,),
        complete=True,
    )


def printed(call: object, *arguments: object, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False, record=True, file=None)
    with console.capture() as capture:
        call(console, *arguments)  # type: ignore[operator]
    return capture.get()


def test_the_table_groups_by_family_in_a_fixed_order_and_says_what_is_refused() -> None:
    entries = [
        entry("a-ladder", family="side network", trains="a side network", unsupported={"t5": "no"}),
        entry("b-lora", family="low rank", trains="two matrices", merges=True, paper="Hu et al. 2021"),
        entry("c-own", trains=""),
        entry("d-head", trains="h", unsupported={"LlamaForCausalLM": "x", "MistralForCausalLM": "x"}),
    ]
    lines = [line.split() for line in printed(print_methods, entries).splitlines() if line.strip()]
    firsts = [words[0] for words in lines]
    assert [w for w in firsts if w in ("low", "b-lora", "side", "a-ladder", "other", "c-own")] == [
        "low", "b-lora", "side", "a-ladder", "other", "c-own",
    ]  # fmt: skip
    rows = {words[0]: words[1:] for words in lines}
    assert rows["b-lora"] == ["two", "matrices", "yes", "Hu", "et", "al.", "2021"]
    assert rows["a-ladder"] == ["a", "side", "network", "no", "T5"]
    assert rows["d-head"] == ["h", "no", "language", "models"]
    assert rows["c-own"] == ["A", "low-rank", "update.", "no"]


def test_the_page_of_a_method_has_all_that_is_known_of_it() -> None:
    page = printed(print_method, entry("x", paper="P 2020", trains="T", unsupported={"llama": "has no bias"}))
    for part in ("A low-rank update.", "First paragraph.", "Second one.", "P 2020", "Llama: has no bias"):
        assert part in page
    assert page.splitlines()[-2 if not page.splitlines()[-1] else -1]
    row = next(line.split() for line in page.splitlines() if line.split()[:1] == ["rank"])
    assert row == ["rank", "8", "of", "the", "B", "A", "update."]
    assert "gradient_checkpointing" in page


def with_option(annotation: Any, meaning: str) -> MethodEntry:
    plain = entry("x")
    changed = {"type": annotation, "meaning": meaning, "default": None}
    return replace(plain, options=(replace(plain.options[0], **changed),))


@pytest.mark.parametrize(
    ("annotation", "meaning", "shown"),
    [
        (Literal["up", "down"], "where to.", "where to. (of up, down)"),
        (Literal["up", "down"], "``up``, or ``down`` for the other way.", "up, or down for the other way."),
        (tuple[Literal["a.b", "c"], ...], "a.bc or c", "a.bc or c (of a.b, c)"),
        (Literal["up"] | None, "``None`` for nowhere", "none for nowhere (of up)"),
        (int | None, "``None`` for all", "none for all"),
    ],
)
def test_what_an_option_may_be_is_said_once(annotation: Any, meaning: str, shown: str) -> None:
    page = printed(print_method, with_option(annotation, meaning))
    row = next(line.split() for line in page.splitlines() if line.split()[:1] == ["rank"])
    assert " ".join(row) == f"rank none {shown}"


def test_what_only_the_library_knows_is_said_so() -> None:
    depends = entry("peft:X", merges=None)
    assert "merges:  where the library can" in printed(print_method, depends)
    row = next(line for line in printed(print_methods, [depends]).splitlines() if "peft:X" in line)
    assert "depends" in row
    assert json.loads(as_json([depends]))[0]["merges"] is None


def test_the_table_names_the_librarys_tuners_or_how_to_get_them() -> None:
    def ending(tuners: list[str]) -> str:
        console = Console(width=100, force_terminal=False, record=True, file=None)
        with console.capture() as capture:
            print_methods(console, [entry("x")], tuners=tuners)
        return capture.get().splitlines()[-3].strip()

    assert ending(["OFT", "BOFT"]) == "Any tuner of the peft library, as peft:NAME: BOFT, OFT"
    assert ending([]).endswith("as peft:NAME: (not installed: pip install 'peprof[peft]')")


def test_a_method_that_cannot_be_used_says_why() -> None:
    page = printed(print_method, replace(entry("x"), problem="it needs what a suite can't give"))
    assert page.split("\n")[:2] == [" x", " It can't be used: it needs what a suite can't give"]


def test_json_has_everything_and_can_be_read_back() -> None:
    (read,) = json.loads(as_json([entry("x", unsupported={"t5": "why"}, merges=True)]))
    assert read["options"] == [
        {"name": "rank", "type": "int", "required": False, "default": 8, "meaning": "of the ``B A`` update."}
    ]
    assert (read["unsupported"], read["merges"], read["class"]) == ({"t5": "why"}, True, "made.x:Made")


def test_the_command_lists_what_is_installed_and_suggests_the_nearest_name() -> None:
    listed = CliRunner().invoke(methods, [], env={"COLUMNS": "100"})
    assert listed.exit_code == 0
    assert all(f"  {name}" in listed.output for name in known_methods())
    wrong = CliRunner().invoke(methods, ["lorra"])
    assert isinstance(wrong.exception, UsageError)
    assert wrong.exception.message == "there is no method 'lorra'; did you mean 'lora'?"


NAMED = ("rsLoRA", "LoRA+", "k-LST", "SHiRA", "FISH mask", "PaFi", "Compacter++")


def test_what_is_known_by_another_name_is_listed_with_its_options_and_paper() -> None:
    listed = CliRunner().invoke(methods, [], env={"COLUMNS": "180"}).output
    rows = {line[4:].split("  ")[0].strip(): line for line in listed.splitlines() if line.startswith("     ")}
    assert set(NAMED) <= set(rows)
    assert 'scaling = "rank_stabilized"' in rows["rsLoRA"] and "arXiv:2312.03732" in rows["rsLoRA"]
    page = " ".join(CliRunner().invoke(methods, ["lst"], env={"COLUMNS": "180"}).output.split())
    assert 'k-LST: with fusion = "window", dropout = 0.2, Say' in page
    (read,) = json.loads(CliRunner().invoke(methods, ["compacter", "--format=json"]).output)
    assert read["variants"]["Compacter++"]["options"] == 'places = ["feedforward.down"]'


@pytest.mark.parametrize("name", NAMED)
def test_the_options_of_each_such_name_are_those_of_the_method(name: str) -> None:
    known = known_methods()
    variant = known.variant_called(name)
    assert variant is not None
    table = tomllib.loads("\n".join(variant.options.split(", ")))
    assert known[variant.method].check(table, prefix="m")[1] == []


@pytest.mark.parametrize("written", ["shira", "SHIRA", "k_lst", "lora-plus", "LoRA+", "fish_mask", "rslora"])
def test_another_name_leads_to_the_method_however_it_is_written(written: str) -> None:
    refused = CliRunner().invoke(methods, [written]).exception
    assert isinstance(refused, UsageError)
    assert refused.message.startswith(f"there is no method '{written}': ")
    assert " is " in refused.message and " with " in refused.message


@pytest.mark.parametrize("name", [n for n, e in known_methods().items() if e.distribution == "peprof"])
def test_each_method_says_what_it_is(name: str) -> None:
    facts = known_methods()[name].facts
    assert facts.family in FAMILY_ORDER
    assert 0 < len(facts.trains) <= 60
    assert all(option.meaning for option in known_methods()[name].options)
    assert all(reason for reason in facts.unsupported.values())
