"""Measured borders as people and machines see them: whole outputs of values made by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from rich.console import Console

from peprof.reports.measured_fits import (
    measured_fits_as_csv,
    measured_fits_as_json,
    measured_fits_as_markdown,
    missing_words,
    print_measured_fits,
    trial_words,
)
from peprof.results.estimates import Estimate, Fit
from peprof.results.measured_fits import Ended, MeasuredFit, Trial
from tests.reports.profiles import MIB
from tests.reports.test_estimates import estimate


def trial(size: int, ended: Ended = "fits", **values: object) -> Trial:
    return Trial(size=size, ended=ended, seconds=1.5, **values)  # type: ignore[arg-type]


def fit_of(found: Estimate, largest: int | None, **values: object) -> Fit:
    made = {"dimension": "batch", "memory_bytes": 100 * MIB, "largest": largest, "estimate": found, **values}
    return Fit(**made)  # type: ignore[arg-type]


def measured(found: Estimate, *trials: Trial, **values: object) -> MeasuredFit:
    made = {
        "spec": found.spec,
        "dimension": "batch",
        "device": "cuda:0",
        "device_name": "NVIDIA Fake 100",
        "memory_bytes": 100 * MIB,
        "cap": 2**20,
        "trials": trials,
        "estimated": fit_of(found, 40),
        **values,
    }
    return MeasuredFit(**made)  # type: ignore[arg-type]


def examples() -> list[MeasuredFit]:
    full, lora, head = estimate("full"), estimate("lora"), estimate("head", profile=None, problem="no luck")
    beside = {"reserved_bytes": 98 * MIB, "unowned_bytes": 500 * MIB, "alloc_retries": 2}
    return [
        measured(
            full,
            trial(40, "oom", phase="backward of step 1 of 2", message="OutOfMemoryError: Tried too much"),
            trial(36, peak_bytes=84 * MIB, **beside),
            trial(37, "killed", phase="step 2 of 2", message="killed by SIGKILL"),
            there=fit_of(full, 36, beyond=full),
        ),
        measured(lora, trial(40, peak_bytes=64 * MIB), trial(80, "died", message="exit code 7")),
        measured(
            head, trial(40, peak_bytes=16 * MIB), dimension="length", cap=40, estimated=fit_of(head, None)
        ),
        measured(full, dimension="length", estimated=None),
    ]


AT_80 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 100 MiB · batches at length 128 · lengths at batch 32 · float32 ·
 classification · adamw · sdpa attention

         looked                                    estimate
 method  for         largest  estimated      peak     there  bound by
 ───────────────────────────────────────────────────────────────────────────────
 full    batch            36         40  84.0 MiB    −4.8 %  activations
 lora    batch   at least 40         40  64.0 MiB         –  –
 head    length           40          –  16.0 MiB         –  the model's
                                                             positions
 full    length            –          –         –         –  –

 Too narrow for: tried, reserved, one more. Widen the terminal, or use --format
 csv.
 full, batch 37: killed by SIGKILL; counts as not fitting.
 full, batch 36: the pool had to be emptied to find room: steps would be faster
 with a smaller one.
 lora, batch 80: died: exit code 7
 head, length: no estimate: no luck
 Measured on NVIDIA Fake 100: two training steps of each size tried, in a
 process of their own, whose pool of memory was kept to 100 MiB. Context and
 libraries took up to 500 MiB beside it: leave room for them.
"""

AT_120 = """\
 bert-base: 109M parameters, BertForSequenceClassification
 100 MiB · batches at length 128 · lengths at batch 32 · float32 · classification · adamw · sdpa attention

         looked                                              estimate  one
 method  for         largest  estimated      peak  reserved     there  more    bound by               tried
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────
 full    batch            36         40  84.0 MiB  98.0 MiB    −4.8 %  killed  activations                3
 lora    batch   at least 40         40  64.0 MiB         –         –  –       –                          2
 head    length           40          –  16.0 MiB         –         –  –       the model's positions      1
 full    length            –          –         –         –         –  –       –                          0

 full, batch 37: killed by SIGKILL; counts as not fitting.
 full, batch 36: the pool had to be emptied to find room: steps would be faster with a smaller one.
 lora, batch 80: died: exit code 7
 head, length: no estimate: no luck
 Measured on NVIDIA Fake 100: two training steps of each size tried, in a process of their own, whose pool of memory was
 kept to 100 MiB. Context and libraries took up to 500 MiB beside it: leave room for them.
"""  # noqa: E501


def printed(found: list[MeasuredFit], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_measured_fits(console, found)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in said.splitlines()) + "\n"


def test_a_table_for_terminals() -> None:
    assert printed(examples(), 80) == AT_80
    assert printed(examples(), 120) == AT_120


def test_markdown_has_the_same_cells_and_remarks() -> None:
    lines = measured_fits_as_markdown(examples()).splitlines()
    assert "| full | batch | 36 | 40 | 84.0 MiB | 98.0 MiB | −4.8 % | killed | activations | 3 |" in lines
    assert "lora, batch 80: died: exit code 7" in lines and lines[-1].startswith("Measured on NVIDIA")


def test_machines_get_every_figure_and_json_every_try() -> None:
    found = examples()
    rows = list(csv.DictReader(io.StringIO(measured_fits_as_csv(found))))
    full = rows[0]
    assert (full["largest"], full["estimated_largest"], full["beyond"], full["tried"]) == (
        "36",
        "40",
        "37",
        "3",
    )
    assert (full["peak_bytes"], full["reserved_bytes"]) == (str(84 * MIB), str(98 * MIB))
    assert float(full["estimate_error"]) == 80 / 84 - 1 and full["certainty"] == "measured"
    assert (full["optimizer"], full["task"], full["gradient_checkpointing"]) == (
        "adamw",
        "classification",
        "False",
    )
    assert [(row["fixed_batch_size"], row["fixed_max_length"]) for row in rows] == [
        ("", "128"), ("", "128"), ("32", ""), ("32", ""),
    ]  # fmt: skip
    assert (full["verified"], full["beyond_ended"], full["seconds"]) == ("True", "killed", "4.5")
    assert [row["verified"] for row in rows] == ["True", "False", "True", "False"]
    plain = json.loads(measured_fits_as_json(found))
    assert [one["ended"] for one in plain[0]["tries"]] == ["oom", "fits", "killed"]
    assert plain[0]["tries"][0]["message"] == "OutOfMemoryError: Tried too much"
    assert plain[3]["largest"] is None and plain[3]["tries"] == []
    assert plain[1]["problem"] == "exit code 7" and plain[2]["estimate_problem"] == "no luck"


def test_a_processor_has_a_note_of_its_own_and_what_is_missing_is_named() -> None:
    found = examples()
    assert missing_words(found) == "lora batch (at least 40), full length"
    here = measured(estimate("full"), trial(40, "over", peak_bytes=101 * MIB), device="cpu", smallest=40)
    text = measured_fits_as_markdown([here])
    assert "| full | batch | none | 40 | – | – | 101 MiB | – | 1 |" in text
    assert "second one's peak is within 100 MiB" in text


def test_all_that_was_free_needs_no_room_besides_and_the_rest_of_the_environment_is_said() -> None:
    free = measured(
        estimate("full"),
        trial(40, peak_bytes=84 * MIB, unowned_bytes=500 * MIB),
        limit="free",
        assumptions=("nothing of the allocator",),
    )
    note = measured_fits_as_markdown([free]).splitlines()[-1]
    assert (
        "all that was free: 100 MiB beside a bare context. Context and libraries took up to 500 MiB" in note
    )
    assert "leave room" not in note and note.endswith(
        "Estimated on the assumption of nothing of the allocator."
    )
    assert json.loads(measured_fits_as_json([free]))[0]["memory_limit"] == "free"


def test_other_models_and_lengths_have_tables_of_their_own() -> None:
    full, lora = measured(estimate("full"), trial(40)), measured(estimate("lora"), trial(41))
    data = lora.spec.data.model_copy(update={"max_length": 64})
    longer = replace(lora, spec=lora.spec.model_copy(update={"data": data}))
    assert measured_fits_as_markdown([full, lora]).count("| method |") == 1
    text = measured_fits_as_markdown([full, longer])
    assert text.count("| method |") == 2 and "batches at length 64" in text


def test_a_limit_that_is_neither_memory_nor_the_model_is_named() -> None:
    everything = measured(estimate("full"), trial(2**20, peak_bytes=84 * MIB))
    assert everything.verified and not everything.at_models_end
    assert "| nothing up to 1048576 | 1 |" in measured_fits_as_markdown([everything])
    assert json.loads(measured_fits_as_json([everything]))[0]["limited_by_the_model"] is False


def test_a_try_is_a_line() -> None:
    full = examples()[0]
    assert [trial_words(full, one) for one in full.trials] == [
        "full, batch 40: out of memory in backward of step 1 of 2 (1.50 s)",
        "full, batch 36: fits, peak 84.0 MiB (1.50 s)",
        "full, batch 37: killed in step 2 of 2 (1.50 s)",
    ]
