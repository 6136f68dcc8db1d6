"""Estimates and fits as people and machines see them: whole outputs of values made by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from peprof.reports.estimates import (
    estimates_as_csv,
    estimates_as_json,
    estimates_as_markdown,
    print_estimates,
)
from peprof.reports.fits import fits_as_markdown
from peprof.results.estimates import (
    GROUPS,
    DeviceMemory,
    Estimate,
    Fit,
    Published,
    grouped_bytes,
    with_published,
)
from peprof.results.record import ParameterCounts
from peprof.suite.planning import plan
from peprof.suite.schema import PublishedConfig, Suite
from tests.reports.profiles import MIB, profile


def estimate(method: str, **changes: object) -> Estimate:
    suite = Suite.model_validate(
        {
            "name": "t",
            "phases": ("short",),
            "model": {"name": "bert-base"},
            "data": {"name": "any/data"},
            "methods": ({"name": method, "label": method},),
        }
    )
    values: dict[str, object] = {
        "spec": plan(suite, device="cuda")[0],
        "kind": "cuda",
        "profile": profile(),
        "counts": ParameterCounts(backbone=109_000_000, head=0, trainable_backbone=9, trainable_head=1),
        "architecture": "BertForSequenceClassification",
        **changes,
    }
    return Estimate(**values)  # type: ignore[arg-type]


def test_the_groups_of_a_peak_add_up_to_it() -> None:
    peak = profile().peak
    groups = grouped_bytes(peak.categories)
    assert groups == {
        "parameters": 22 * MIB, "gradients": 2 * MIB, "optimizer": 0, "activations": 50 * MIB,
        "temporaries": 0, "other": 6 * MIB,
    }  # fmt: skip
    assert sum(groups.values()) == peak.total_bytes
    assert set(groups) == {*GROUPS, "other"}


TABLE = """\
 bert-base: 109M parameters, BertForSequenceClassification
 batch 32 · length 128 · float32 · classification · adamw · sdpa attention

 method      peak  in        parameters  gradients  optimizer  activations  temporaries     other  of full
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────
 full    80.0 MiB  backward    22.0 MiB   2.00 MiB        0 B     50.0 MiB          0 B  6.00 MiB  100.0 %
 lst            –  –                  –          –          –            –            –         –        –

 lst: it is too narrow
 Assumed: 2 classes.

 Exact: the bytes of all tensors, as the ledger counts them in a step without data on a GPU's operators. Not in it: what
 an allocator rounds up and keeps, libraries' workspaces, the device's context.
"""  # noqa: E501


def printed(found: Sequence[Estimate], width: int) -> str:
    """What a console of that width shows, without blanks at lines' ends."""
    console = Console(file=io.StringIO(), width=width)
    print_estimates(console, found)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in said.splitlines()) + "\n"


def test_a_table_for_a_terminal() -> None:
    found = [
        estimate("full", assumptions=("2 classes",)),
        estimate("lst", profile=None, counts=None, architecture=None, problem="it is too narrow"),
    ]
    assert printed(found, 120) == TABLE


T4 = DeviceMemory(
    name="T4", total_bytes=14 * 1024 * MIB, context_bytes=512 * MIB, workspace_bytes=8 * MIB + 128 * 1024
)


def checkpointed(found: Estimate) -> Estimate:
    """The same method, with gradient checkpointing, under the same label."""
    method = found.spec.method.model_copy(update={"gradient_checkpointing": True})
    return replace(found, spec=found.spec.model_copy(update={"method": method}))


def on_a_gpu() -> list[Estimate]:
    """Of four: one is a byte too large, one just fits, and one can't be told."""
    room = T4.total_bytes - T4.context_bytes
    lora = estimate("lora", device=T4, reserved_bytes=room, device_bytes=T4.total_bytes)
    return [
        estimate("full", device=T4, reserved_bytes=room + 1, device_bytes=T4.total_bytes + 1),
        lora,
        checkpointed(lora),
        estimate("lst", device=T4, profile=None, counts=None, problem="it is too narrow"),
    ]


AT_80 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 batch 32 · length 128 · float32 · classification · adamw · sdpa attention · T4
 of 14.0 GiB

 method                   peak  activations  of full  reserved    device  fits
 ─────────────────────────────────────────────────────────────────────────────
 full                 80.0 MiB     50.0 MiB  100.0 %  13.5 GiB  14.0 GiB  no
 lora                 80.0 MiB     50.0 MiB  100.0 %  13.5 GiB  14.0 GiB  yes
 lora (checkpointed)  80.0 MiB     50.0 MiB  100.0 %  13.5 GiB  14.0 GiB  yes
 lst                         –            –        –         –         –  –

 Too narrow for: in, other, temporaries, gradients, optimizer, parameters. Widen
 the terminal, or use --format csv.
 lst: it is too narrow
 Too large for T4 of 14.0 GiB: full.

 Exact: the bytes of all tensors, as the ledger counts them in a step without
 data on a GPU's operators. Not in it: what an allocator rounds up and keeps,
 libraries' workspaces, the device's context.
 Reserved: simulated, what the caching allocator would hold, libraries'
 workspaces included. Device: with a context of 512 MiB as seen elsewhere, an
 assumption. Fits: into 14.0 GiB, the least that torch was seen to say of such a
 GPU.
"""

AT_120 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 batch 32 · length 128 · float32 · classification · adamw · sdpa attention · T4 of 14.0 GiB

 method              peak  parameters  gradients  optimizer  activations  temporaries  of full  reserved    device  fits
 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 full            80.0 MiB    22.0 MiB   2.00 MiB        0 B     50.0 MiB          0 B  100.0 %  13.5 GiB  14.0 GiB  no
 lora            80.0 MiB    22.0 MiB   2.00 MiB        0 B     50.0 MiB          0 B  100.0 %  13.5 GiB  14.0 GiB  yes
 lora            80.0 MiB    22.0 MiB   2.00 MiB        0 B     50.0 MiB          0 B  100.0 %  13.5 GiB  14.0 GiB  yes
 (checkpointed)
 lst                    –           –          –          –            –            –        –         –         –  –

 Too narrow for: in, other. Widen the terminal, or use --format csv.
 lst: it is too narrow
 Too large for T4 of 14.0 GiB: full.

 Exact: the bytes of all tensors, as the ledger counts them in a step without data on a GPU's operators. Not in it: what
 an allocator rounds up and keeps, libraries' workspaces, the device's context.
 Reserved: simulated, what the caching allocator would hold, libraries' workspaces included. Device: with a context of
 512 MiB as seen elsewhere, an assumption. Fits: into 14.0 GiB, the least that torch was seen to say of such a GPU.
"""  # noqa: E501


def test_a_narrow_table_of_a_gpu_leaves_out_what_matters_least_and_never_breaks_a_name() -> None:
    assert printed(on_a_gpu(), 80) == AT_80
    assert printed(on_a_gpu(), 120) == AT_120
    lines = [line.split() for line in printed(on_a_gpu(), 200).splitlines()]
    heads = ["method", "peak", "in", *GROUPS, "other", "of", "full", "reserved", "device", "fits"]
    assert heads in lines
    lines = [line.split() for line in printed(on_a_gpu(), 41).splitlines()]
    assert ["method", "peak", "device", "fits"] in lines


def test_nothing_is_said_of_figures_where_none_could_be_told() -> None:
    broken = [estimate("lst", device=T4, profile=None, counts=None, problem="it is too narrow")]
    for text in (printed(broken, 80), estimates_as_markdown(broken)):
        assert "lst: it is too narrow" in text and "Exact" not in text and "Reserved" not in text
    fit = Fit(dimension="batch", memory_bytes=100 * MIB, largest=None, estimate=broken[0])
    text = fits_as_markdown([{"batch": fit}])
    assert "lst: it is too narrow" in text and "Verified" not in text


def test_markdown_says_of_a_gpu_what_a_terminal_says() -> None:
    lines = estimates_as_markdown(on_a_gpu()).splitlines()
    shown = " ".join(printed(on_a_gpu(), 80).split())
    assert lines[2] == (
        "batch 32 · length 128 · float32 · classification · adamw · sdpa attention · T4 of 14.0 GiB"
    )
    assert [line.split(" | ")[-3:] for line in lines if line.startswith("| l")] == [
        ["13.5 GiB", "14.0 GiB", "yes |"], ["13.5 GiB", "14.0 GiB", "yes |"], ["–", "–", "– |"],
    ]  # fmt: skip
    assert "Too large for T4 of 14.0 GiB: full." in lines
    assert lines[-1].startswith("Reserved: simulated") and lines[-1] in shown


def test_markdown_and_csv() -> None:
    row = "| full | 80.0 MiB | backward | 22.0 MiB | 2.00 MiB | 0 B | 50.0 MiB | 0 B | 6.00 MiB | 100.0 % |"
    assert row in estimates_as_markdown([estimate("full")]).splitlines()
    head, line = estimates_as_csv([estimate("full")]).splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    assert cells["peak_bytes"] == str(80 * MIB) and cells["certainty"] == "exact"
    asked = ("method", "model", "dtype", "quantization", "attention", "task", "optimizer", "autocast",
             "gradient_accumulation_steps", "gradient_checkpointing", "batch_size", "max_length")  # fmt: skip
    assert [cells[name] for name in asked] == [
        "full", "bert-base", "float32", "", "sdpa", "classification", "adamw", "", "1", "False", "32", "128",
    ]  # fmt: skip
    assert cells["device_name"] == cells["fits"] == cells["workspace_bytes"] == ""


def test_machines_are_told_of_the_gpu_and_whether_it_has_room() -> None:
    rows = list(csv.DictReader(io.StringIO(estimates_as_csv(on_a_gpu()))))
    assert [(row["fits"], row["gradient_checkpointing"]) for row in rows] == [
        ("False", "False"), ("True", "False"), ("True", "True"), ("", "False"),
    ]  # fmt: skip
    names = ("device_name", "device_total_bytes_assumed", "context_bytes_assumed", "workspace_bytes")
    gpu = {name: json.loads(estimates_as_json(on_a_gpu()))[3][name] for name in names}
    assert list(gpu.values()) == ["T4", 14 * 2**30, 2**29, 8519680]


def test_a_label_that_says_it_is_checkpointed_isnt_marked_once_more() -> None:
    named = checkpointed(estimate("lora-Checkpointing"))
    assert "| lora-Checkpointing |" in estimates_as_markdown([named])
    assert "| lora (checkpointed) |" in estimates_as_markdown([checkpointed(estimate("lora"))])


def published(share: float | None, **said: object) -> Published:
    return Published(said=PublishedConfig(source="a paper", **said), share_of_full=share)  # type: ignore[arg-type]


def with_shares() -> list[Estimate]:
    """Full fine-tuning, and a method of the same size that was published with a third of it."""
    return [
        estimate("full", published=published(1.0, peak_gb=12.0)),
        estimate("lst", published=published(1 / 3, accuracy_percent=94.1)),
        estimate("lora"),
    ]


def test_published_shares_stand_beside_ours() -> None:
    lines = estimates_as_markdown(with_shares()).splitlines()
    assert [line.split(" | ")[-3:] for line in lines if line.startswith("|")] == [
        ["of full", "published", "points |"],
        ["---:", "---:", "---: |"],
        ["100.0 %", "100.0 %", "0.0 |"],
        ["100.0 %", "33.3 %", "+66.7 |"],
        ["100.0 %", "–", "– |"],
    ]
    note = "Published: of full fine-tuning's memory in a paper, under conditions of its own."
    assert any(line.startswith(note) for line in lines)
    said = printed(with_shares(), 160)
    assert "published  points" in said and note in said
    assert "Published" not in estimates_as_markdown([estimate("full")])


def test_published_shares_for_machines() -> None:
    rows = list(csv.DictReader(io.StringIO(estimates_as_csv(with_shares()))))
    keys = ("share_of_full", "published_share_of_full", "points_above_published")
    assert [[row[key] for key in keys] for row in rows] == [
        ["1.0", "1.0", "0.0"],
        ["1.0", str(1 / 3), str(100 * (1 - 1 / 3))],
        ["1.0", "", ""],
    ]
    full, lst, lora = json.loads(estimates_as_json(with_shares()))
    assert full["published"]["peak_gb"] == 12 and full["published"]["source"] == "a paper"
    assert lst["published"]["accuracy_percent"] == 94.1 and lst["published"]["peak_gb"] is None
    assert lora["published"] is None
    [alone] = json.loads(estimates_as_json([estimate("lst", published=published(0.3))]))
    assert alone["share_of_full"] is None and alone["points_above_published"] is None


def test_a_share_is_what_is_said_of_it_or_one_peak_by_that_of_full() -> None:
    """3 GB of 12; 40 % where that is printed; nothing of a method without a peak, or without full's."""
    methods = [
        {"name": "full", "label": "full"},
        {"name": "lst", "label": "lst"},
        {"name": "lora", "label": "lora"},
        {"name": "ia3", "label": "ia3"},
    ]
    said = {
        "full": {"source": "a", "peak_gb": 12.0},
        "lst": {"source": "a", "peak_gb": 3.0},
        "lora": {"source": "a", "peak_gb": 3.0, "share_of_full": 0.4},
        "ia3": {"source": "a", "accuracy_percent": 90.0},
    }
    tables = {"name": "t", "model": {"name": "bert-base"}, "data": {"name": "any/data"}}

    def shares(*labels: str, methods: Sequence[dict[str, str]] = methods) -> list[float | None]:
        suite = Suite.model_validate(
            {**tables, "methods": tuple(methods), "published": {label: said[label] for label in labels}}
        )
        found = with_published([estimate(str(method["name"])) for method in methods], suite)
        return [item.published and item.published.share_of_full for item in found]

    assert shares("full", "lst", "lora", "ia3") == [1, 0.25, 0.4, None]
    assert shares("lst", "lora") == [None, None, 0.4, None]
    assert shares("full", "lst", "lora", "ia3", methods=methods[1:2]) == [0.25], "full was not asked for"


def test_it_is_said_where_the_published_suite_was_changed() -> None:
    said = {"full": {"source": "a", "peak_gb": 12.0}}
    suite = Suite.model_validate(
        {
            "name": "t",
            "model": {"name": "bert-base"},
            "data": {"name": "any/data"},
            "methods": ({"name": "full", "label": "full"},),
            "published": said,
        }
    )

    def notes(*keys: str) -> list[str]:
        text = estimates_as_markdown(with_published([estimate("full")], suite, set_keys=keys))
        return [line for line in text.splitlines() if "is of the suite as it is" in line]

    assert notes("train.seeds", "train.learning_rate", "short.repeats") == notes() == []
    assert notes("train.seeds", "train.batch_size", "methods.full.gradient_checkpointing") == [
        "What was published is of the suite as it is: here train.batch_size, "
        "methods.full.gradient_checkpointing was set."
    ]


@pytest.mark.parametrize("fits", [True, False])
def test_what_fits_names_what_binds_and_what_helps(fits: bool) -> None:
    found = estimate("full")
    fit = Fit(
        dimension="batch",
        memory_bytes=100 * MIB,
        largest=7 if fits else None,
        estimate=found,
        beyond=found,
        remedies={"gradient checkpointing": 12, "weights in nf4": 9},
    )
    rows = fits_as_markdown([{"batch": fit}]).splitlines()
    number = "7" if fits else "none"
    words = "batch with gradient checkpointing: 12, weights in nf4: 9"
    assert f"| full | {number} | 80.0 MiB | – | – | activations | {words} |" in rows


def test_what_fits_of_two_models_stands_in_two_tables() -> None:
    small, large = estimate("full"), estimate("full")
    model = large.spec.model.model_copy(update={"name": "bert-large"})
    large = replace(large, spec=large.spec.model_copy(update={"model": model}))
    found = [
        {"batch": Fit(dimension="batch", memory_bytes=100 * MIB, largest=size, cap=2**20, estimate=of)}
        for of, size in ((small, 7), (large, 2**20))
    ]
    text = fits_as_markdown(found)
    assert text.count("| method | largest batch |") == 2 and "**bert-large: " in text
    assert "| full | 1048576 | 80.0 MiB | – | – | nothing up to 1048576 | – |" in text
    broken = replace(small, profile=None, problem="batch 9: no luck")
    found = [{"batch": replace(found[0]["batch"], largest=None, estimate=broken)}]
    assert "full: batch 9: no luck" in fits_as_markdown(found)
