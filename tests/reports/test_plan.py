"""The plan of a dry run as people see it: what runs have in common once, and what each has alone."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from peprof.reports.plan import print_plan
from peprof.results.estimates import Estimate
from peprof.suite.loading import suite_of_tables
from peprof.suite.planning import RunSpec, plan
from tests.reports.profiles import MIB
from tests.reports.test_estimates import estimate


def specs_of(*methods: dict[str, Any], **train: Any) -> tuple[RunSpec, ...]:
    tables = {
        "name": "t",
        "model": {"name": "distilbert-base-uncased"},
        "data": {"name": "stanfordnlp/sst2"},
        "train": {"batch_size": 16, **train},
        "methods": list(methods),
    }
    return plan(suite_of_tables(tables, name="a suite").suite, device="cpu")


def shown(specs: tuple[RunSpec, ...], *finished: str, width: int = 80, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_plan(console, specs, finished, **options)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_what_all_have_stands_above_and_options_are_those_that_were_chosen() -> None:
    specs = specs_of(
        {"name": "full", "label": "full", "learning_rate": 2e-5},
        {"name": "lora", "label": "lora", "rank": 4, "alpha": 16.0},
        {"name": "lora", "label": "lora-ckpt", "gradient_checkpointing": True},
    )
    lines = shown(specs, specs[1].run_id)
    assert lines[:3] == [
        " t: 3 runs, 2 to do",
        " model distilbert-base-uncased · data stanfordnlp/sst2 · phases short, full ·",
        " batch 16 · length 128 · seed 0",
    ]
    rows = [line.split() for line in lines[4:] if line]
    assert rows[0] == ["method", "options", "rate", "state"]
    assert rows[2:] == [
        ["full", "–", "2e-05", "to", "do"],
        ["lora", "rank=4", "5e-05", "done"],  # alpha is the method's own
        ["lora-ckpt", "gradient_checkpointing=True", "5e-05", "to", "do"],
    ]


def test_seeds_have_a_column_where_they_differ() -> None:
    lines = shown(specs_of({"name": "full", "label": "full"}, seeds=[0, 1]))
    assert [line.split()[2:] for line in lines if line.startswith(" full")] == [
        ["0", "to", "do"],
        ["1", "to", "do"],
    ]
    assert "seed" in lines[4] and "seed" not in lines[2]


def estimates(specs: tuple[RunSpec, ...], *found: Estimate) -> dict[str, Estimate]:
    return {spec.run_id: replace(one, spec=spec) for spec, one in zip(specs, found, strict=True)}


def test_what_wont_fit_or_cant_be_told_is_said_below() -> None:
    specs = specs_of({"name": "full", "label": "full"}, {"name": "head", "label": "head"})
    broken = estimate("head", profile=None, problem="no kernel for meta")
    found = estimates(specs, estimate("full"), broken)
    lines = shown(specs, estimates=found, memory_bytes=79 * MIB)
    assert lines[-3:] == [
        " estimate: all tensors of a training step, to the byte; an allocator needs more.",
        " full, seed 0, won't fit: 80.0 MiB of 79.0 MiB.",
        " head: no estimate: no kernel for meta",
    ]
    assert "won't fit" not in " ".join(shown(specs, estimates=found, memory_bytes=80 * MIB))


def test_for_a_known_gpu_its_simulated_pool_is_what_has_to_fit() -> None:
    specs = specs_of({"name": "full", "label": "full"})
    found = estimates(specs, estimate("full", reserved_bytes=96 * MIB))
    lines = shown(specs, estimates=found, memory_bytes=90 * MIB)
    assert "96.0 MiB" in lines[6] and lines[-1] == " full, seed 0, won't fit: 96.0 MiB of 90.0 MiB."
    assert any("allocator would hold" in line for line in lines)
