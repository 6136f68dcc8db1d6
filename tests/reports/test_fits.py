"""What fits, as people and machines see it: whole outputs of values made by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from rich.console import Console

from peprof.reports.fits import Fits, fits_as_csv, fits_as_json, fits_as_markdown, print_fits
from peprof.results.estimates import Estimate, Fit
from tests.reports.profiles import MIB
from tests.reports.test_estimates import T4, checkpointed, estimate

ROOM = T4.total_bytes - T4.context_bytes


def sized(found: Estimate, *, batch: int = 32, length: int = 128) -> Estimate:
    """Of another size."""
    spec = found.spec
    train = spec.train.model_copy(update={"batch_size": batch})
    data = spec.data.model_copy(update={"max_length": length})
    return replace(found, spec=spec.model_copy(update={"train": train, "data": data}))


def fit_of(found: Estimate, dimension: str, largest: int | None, **values: object) -> Fit:
    made = {"dimension": dimension, "memory_bytes": ROOM, "largest": largest, "estimate": found, **values}
    return Fit(**made)  # type: ignore[arg-type]


def both(found: Estimate, batch: int | None, length: int) -> Fits:
    """Batches end with the memory; lengths with the 512 positions of the model, or before them."""
    return {
        "batch": fit_of(sized(found, batch=batch or 1), "batch", batch, beyond=found, cap=2**20),
        "length": fit_of(
            sized(found, length=length), "length", length, beyond=None if length == 512 else found, cap=512
        ),
    }


def examples() -> list[Fits]:
    lora = estimate("lora", device=T4, reserved_bytes=ROOM - MIB)
    full = estimate("full", device=T4, reserved_bytes=ROOM)
    broken = estimate("lst", profile=None, counts=None, problem="batch 9: no luck")  # a quick probe's
    return [
        both(full, None, 300),
        both(lora, 458, 512),
        both(checkpointed(lora), 1500, 512),
        {"batch": fit_of(broken, "batch", None), "length": fit_of(broken, "length", None)},
    ]


AT_80 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 13.5 GiB · batches at length 128 · lengths at batch 32 · float32 ·
 classification · adamw · sdpa attention · T4 of 14.0 GiB

                     largest     batch  longest
 method                batch     needs   length  bound by        would help
 ───────────────────────────────────────────────────────────────────────────────
 full                   none  13.5 GiB      300  activations     lora
                                                                 (checkpointed):
                                                                 batch 1500
 lora                    458  13.5 GiB      512  activations;    –
                                                 the model's
                                                 positions
 lora                   1500  13.5 GiB      512  activations;    –
 (checkpointed)                                  the model's
                                                 positions
 lst                       –         –        –  –               –

 Too narrow for: length needs. Widen the terminal, or use --format csv.
 lst: batch 9: no luck
 Verified: a step of each size fits into 13.5 GiB and one more doesn't, by what
 the simulated allocator holds. 13.5 GiB is the GPU's memory less what its
 context is assumed to take.
"""

AT_120 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 13.5 GiB · batches at length 128 · lengths at batch 32 · float32 · classification · adamw · sdpa attention · T4 of 14.0
 GiB

                      largest     batch  longest    length
 method                 batch     needs   length     needs  bound by                            would help
 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 full                    none  13.5 GiB      300  13.5 GiB  activations                         lora (checkpointed):
                                                                                                batch 1500
 lora                     458  13.5 GiB      512  13.5 GiB  activations; the model's positions  –
 lora (checkpointed)     1500  13.5 GiB      512  13.5 GiB  activations; the model's positions  –
 lst                        –         –        –         –  –                                   –

 lst: batch 9: no luck
 Verified: a step of each size fits into 13.5 GiB and one more doesn't, by what the simulated allocator holds. 13.5 GiB
 is the GPU's memory less what its context is assumed to take.
"""  # noqa: E501


def printed(found: list[Fits], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_fits(console, found)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in said.splitlines()) + "\n"


def test_a_table_for_terminals() -> None:
    assert printed(examples(), 80) == AT_80
    assert printed(examples(), 120) == AT_120
    narrow = printed(examples(), 46)
    assert "Too narrow for: length needs, batch needs, would help, bound by." in " ".join(narrow.split())


def test_each_dimension_has_a_remedy_of_its_own() -> None:
    """Where not even one example fits, another method is named; where lengths end with the model, nothing."""
    rows = json.loads(fits_as_json(examples()))
    assert [
        (row["method"], row["dimension"], row["limited_by_the_model"], row["remedy"]) for row in rows
    ] == [
        ("full", "batch", False, "lora (checkpointed): batch 1500"),
        ("full", "length", False, None),
        ("lora", "batch", False, None),
        ("lora", "length", True, None),
        ("lora", "batch", False, None),
        ("lora", "length", True, None),
        ("lst", "batch", False, None),
        ("lst", "length", False, None),
    ]
    turned = [dict(reversed(fits.items())) for fits in examples()]
    assert [row["remedy"] for row in json.loads(fits_as_json(turned))][:2] == [
        None,
        "lora (checkpointed): batch 1500",
    ]


def test_what_helps_batches_isnt_said_of_lengths() -> None:
    """Lengths end with the model, whatever is done; batches would grow, and another model's don't matter."""
    lora, full = estimate("lora"), estimate("full")
    model = full.spec.model.model_copy(update={"name": "bert-large"})
    large = replace(full, spec=full.spec.model_copy(update={"model": model}))
    fits = both(lora, 7, 512)
    helped = {**fits, "batch": replace(fits["batch"], remedies={"gradient checkpointing": 458})}
    rows = json.loads(fits_as_json([helped, both(large, None, 512)]))
    words = "batch with gradient checkpointing: 458"
    assert [row["remedy"] for row in rows] == [words, None, None, None]
    assert f"the model's positions | {words} |" in fits_as_markdown([helped])


def test_rows_for_machines_say_what_was_asked_for_and_what_is_held_fixed() -> None:
    rows = list(csv.DictReader(io.StringIO(fits_as_csv(examples()))))
    fixed = [(row["dimension"], row["fixed_batch_size"], row["fixed_max_length"]) for row in rows]
    assert fixed == [("batch", "", "128"), ("length", "32", "")] * 4
    asked = {
        "model": "bert-base", "dtype": "float32", "quantization": "", "attention": "sdpa", "autocast": "",
        "task": "classification", "optimizer": "adamw", "gradient_accumulation_steps": "1",
        "operators": "cuda", "device_name": "T4",
    }  # fmt: skip
    assert all(row | asked == row for row in rows)
    assert [row["gradient_checkpointing"] for row in rows] == ["False"] * 4 + ["True"] * 2 + ["False"] * 2
    assert [row["certainty"] for row in rows[:6]] == ["simulated"] * 6
    assert "label" not in rows[0]


def test_markdown_has_the_same_cells_and_says_for_which_gpu() -> None:
    lines = fits_as_markdown(examples()).splitlines()
    assert (
        "| lora (checkpointed) | 1500 | 13.5 GiB | 512 | 13.5 GiB | activations; the model's positions | – |"
        in lines
    )
    assert lines[2].startswith("13.5 GiB · batches at length 128 · lengths at batch 32 · float32")
    assert lines[2].endswith("sdpa attention · T4 of 14.0 GiB")
