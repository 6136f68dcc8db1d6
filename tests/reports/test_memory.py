import csv
import io
import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from peprof.breakdown.tree import branches
from peprof.breakdown.values import PoolMemory, PoolMoment, RanOut, StepProfile
from peprof.errors import UsageError
from peprof.reports.memory import moment_to_show, print_memory
from peprof.reports.memory_categories import color_of, stacked
from peprof.reports.memory_export import memory_as_json, moment_as_csv, saved_as_csv
from peprof.reports.memory_saved import print_saved
from peprof.results.finding import FoundRun
from peprof.results.record import Failure, OutOfMemory
from tests.reports.profiles import MIB, moment, peak_tree, profile, start
from tests.results.factory import make_dead_record, make_record

BARE = FoundRun(name="step.json", record=None, memory=profile())


def printed(show, width=80, encoding=None):
    """What a terminal shows, blanks at the ends of lines left out."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding) if encoding else io.StringIO()
    show(Console(file=file, width=width))
    file.seek(0)
    text = file.read()
    assert all(len(line) <= width for line in text.splitlines())
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_the_peak_by_category_and_module():
    assert (
        printed(lambda console: print_memory(console, BARE, depth=2))
        == """\
 step.json on cpu
 Peak 80.0 MiB (83,886,080 B) in backward, in aten.mm of bert.encoder.layer.1
 Unattributed: 2.00 MiB (2.5 %) that no parameter, batch or saved tensor owns.

 Phases
 phase         peak  at its end
 ────────────────────────────────────────────────────────────
 forward   28.0 MiB    28.0 MiB  █████████▊
 backward  80.0 MiB    40.0 MiB  ████████████████████████████

 At the peak, by category
 category                  size   share
 ────────────────────────────────────────────────────────────────────
 activations           50.0 MiB  62.5 %  █████████████████▌
 parameters.frozen     20.0 MiB  25.0 %  ███████
 inputs                4.00 MiB   5.0 %  █▍
 gradients             2.00 MiB   2.5 %  ▊
 parameters.trainable  2.00 MiB   2.5 %  ▊
 unattributed          2.00 MiB   2.5 %  ▊

 At the peak, by module
 module                  total       own    share
 ──────────────────────────────────────────────────────────────────────────────
 (all)                80.0 MiB       0 B  100.0 %  ████████████████████████████
 bert                 72.0 MiB       0 B   90.0 %  █████████████████████████▎
 ├─ encoder.layer     70.0 MiB       0 B   87.5 %  ████████████████████████▌
 └─ pooler            2.00 MiB  2.00 MiB    2.5 %  ▊
 (outside the model)  6.00 MiB  6.00 MiB    7.5 %  ██▏
 head                 2.00 MiB  2.00 MiB    2.5 %  ▊
"""
    )


def test_a_console_that_knows_ascii_alone():
    text = printed(lambda console: print_memory(console, BARE, by=["module"]), encoding="ascii")
    assert text.isascii()
    assert "\n |- encoder.layer     70.0 MiB       0 B   87.5 %  ########################\n |  |- 1 " in text


def test_a_phase_is_divided_and_what_is_cut_off_is_summed_but_the_residual_stays():
    text = printed(lambda console: print_memory(console, BARE, by=["category"], top=1))
    rows = [line.split() for line in text.partition("by category")[2].splitlines()[3:]]
    assert [row[:4] for row in rows] == [
        ["activations", "50.0", "MiB", "62.5"],
        ["unattributed", "2.00", "MiB", "2.5"],
        ["(4", "more)", "28.0", "MiB"],
    ]
    text = printed(lambda console: print_memory(console, BARE, by=["owner"], phase="forward"))
    assert "Peak of forward: 28.0 MiB (29,360,128 B)\n" in text
    assert "Unattributed" not in text
    assert [line.split()[:4] for line in text.partition("by owner")[2].splitlines()[3:]] == [
        ["backbone", "20.0", "MiB", "71.4"],
        ["(nobody)", "6.00", "MiB", "21.4"],
        ["head", "2.00", "MiB", "7.1"],
    ]


def test_what_is_kept_for_backward_with_layers_that_are_alike_as_one():
    assert (
        printed(lambda console: print_saved(console, profile().activations))
        == """\

 Kept for backward: 50.5 MiB in 4 storages
 Checkpoints save 20.0 MiB more while they run forward again, not all at once.

 Kept, by operator that saved it
 operator               count      size   share
 ────────────────────────────────────────────────────────────────────────────
 aten.addmm                 2  30.0 MiB  59.4 %  ████████████████▋
   8×64×32 bfloat16         2  30.0 MiB  59.4 %  ████████████████▋
 aten.gelu                  1  20.0 MiB  39.6 %  ███████████▏
   8×64×128 bfloat16        1  20.0 MiB  39.6 %  ███████████▏
 aten.nll_loss_forward      1   512 KiB   1.0 %  ▎
   one number bfloat16      1   512 KiB   1.0 %  ▎

 Kept, by module that saved it
 module                                       count      size   share
 ──────────────────────────────────────────────────────────────────────────────
 bert.encoder.layer.*                             3  50.0 MiB  99.0 %  ███████▉
   aten.addmm 8×64×32 bfloat16                    2  30.0 MiB  59.4 %  ████▊
   aten.gelu 8×64×128 bfloat16                    1  20.0 MiB  39.6 %  ███▏
 (outside the model)                              1   512 KiB   1.0 %  ▏
   aten.nll_loss_forward one number bfloat16      1   512 KiB   1.0 %  ▏

 Checkpoints
 module                   keeps  recomputes
 ────────────────────────────────────────────────────────────────────────
 bert.encoder.layer.0  15.0 MiB    20.0 MiB  ████████████████████████████
"""
    )


def test_a_run_that_ran_out_of_memory_says_what_was_alive():
    alive = OutOfMemory(
        phase="backward",
        operator="aten.mm",
        module="head",
        live_bytes=3 * MIB,
        categories={"inputs": 3 * MIB},
    )
    failure = Failure(
        phase="short: warm-up",
        kind="OutOfMemoryError",
        message="no room",
        requested_bytes=64 * MIB,
        memory=alive,
    )
    record = make_record("full", status="oom", failure=failure)
    text = printed(lambda console: print_memory(console, FoundRun(name="full", record=record, memory=None)))
    assert "Out of memory in 'short: warm-up', asked for 64.0 MiB: no room\n" in text
    assert " 3.00 MiB (3,145,728 B) were alive when memory ran out in backward, in aten.mm" in text
    assert "When memory ran out, by category" in text and "inputs    3.00 MiB  100.0 %" in text


def test_a_step_that_ran_out_of_memory_is_divided_where_it_did():
    ran_out = RanOut(operator="aten.bmm", module=None, requested_bytes=64 * MIB, live=start())
    run = FoundRun(name="step.json", record=None, memory=replace(profile(), ran_out=ran_out))
    text = printed(lambda console: print_memory(console, run))
    words = "28.0 MiB (29,360,128 B) were alive when memory ran out in forward, in aten.bmm outside the model"
    assert words in " ".join(text.split())
    assert "When memory ran out, by module" in text and "At the peak" not in text
    assert "At the peak of backward" in printed(lambda console: print_memory(console, run, phase="backward"))


def test_what_the_pool_counts_stands_below_the_categories():
    counted = {"activations": 50 * MIB, "workspace:aten.mm": 8 * MIB, "rounding": 6 * MIB}
    requested = PoolMoment(total_bytes=0, phase=None, operator=None, categories={}, residual_bytes=0)
    allocated = PoolMoment(
        total_bytes=64 * MIB, phase="backward", operator="aten.mm", categories=counted, residual_bytes=0
    )
    pool = PoolMemory(requested=requested, allocated=allocated, unmatched_storages=0)
    run = FoundRun(name="step.json", record=None, memory=replace(profile(), pool=pool))
    text = printed(lambda console: print_memory(console, run, by=["category"]))
    rows = text.partition("At the pool's peak of allocated bytes in backward, by category\n")[2].splitlines()
    assert [line.split()[:5] for line in rows[2:]] == [
        ["activations", "50.0", "MiB", "78.1", "%"],
        ["workspace:aten.mm", "8.00", "MiB", "12.5", "%"],
        ["rounding", "6.00", "MiB", "9.4", "%"],
    ]


def test_a_run_without_a_profile_says_why():
    dead = FoundRun(name="full-s0", record=make_dead_record("full"), memory=None)
    with pytest.raises(UsageError, match="whose the memory of 'full-s0' was isn't known") as error:
        moment_to_show(dead, None, ())
    assert "Out of memory in 'short: warm-up', asked for 2.00 GiB: out of memory" in error.value.hint


def test_wrong_phases_and_owners_are_errors():
    with pytest.raises(UsageError, match="no phase 'warmup'") as error:
        moment_to_show(BARE, "warmup", ())
    assert error.value.hint == "Its phases are forward, backward."
    nobody = FoundRun(name="x", record=None, memory=replace(profile(), peak=moment(owners={})))
    with pytest.raises(UsageError, match="owners"):
        moment_to_show(nobody, None, ("owner",))


def test_json_holds_the_whole_profile():
    content = json.loads(memory_as_json(BARE))
    assert TypeAdapter(StepProfile).validate_python(content["memory"]) == profile()
    assert content["record"] is None and content["json_version"] == 1


def test_csv_of_a_division_adds_up_to_the_peak():
    by = ("category", "module", "operator", "owner")
    rows = list(csv.DictReader(io.StringIO(moment_as_csv(moment(), by))))
    for division in by:
        assert sum(int(row["own_bytes"]) for row in rows if row["division"] == division) == 80 * MIB
    assert {row["name"]: row["bytes"] for row in rows if row["division"] == "module"}["bert.encoder"] == str(
        70 * MIB
    )
    assert rows[0] == {
        "division": "category",
        "name": "activations",
        "bytes": "52428800",
        "own_bytes": "52428800",
        "share": "0.625",
    }


def test_csv_of_what_is_kept_has_a_row_a_storage():
    assert saved_as_csv(profile().activations).splitlines() == [
        "when,module,operator,made_in,made_by,shape,dtype,bytes",
        "kept,bert.encoder.layer.0,aten.addmm,bert.encoder.layer.0,aten.addmm,8x64x32,bfloat16,15728640",
        "kept,bert.encoder.layer.1,aten.addmm,bert.encoder.layer.1,aten.addmm,8x64x32,bfloat16,15728640",
        "kept,bert.encoder.layer.1,aten.gelu,bert.encoder.layer.1,aten.gelu,8x64x128,bfloat16,20971520",
        "kept,,aten.nll_loss_forward,,aten.nll_loss_forward,,bfloat16,524288",
        "recomputed,bert.encoder.layer.0,aten.gelu,bert.encoder.layer.0,aten.gelu,8x64x128,bfloat16,20971520",
    ]


def test_the_tree_draws_chains_together_and_sums_what_is_cut_off():
    lines = [
        (line.label, line.guides, line.total_bytes // MIB) for line in branches(peak_tree(), depth=3, top=1)
    ]
    assert lines == [
        ("(all)", (), 80),
        ("bert", (False,), 72),
        ("encoder.layer", (False, False), 70),
        ("1", (False, False, False), 40),
        ("(1 more)", (False, False, True), 30),
        ("(1 more)", (False, True), 2),
        ("(2 more)", (True,), 8),
    ]


def test_categories_are_stacked_in_one_order_and_unknown_ones_too():
    assert stacked(["unattributed", "workspace:aten.mm", "novel", "activations", "parameters.frozen"]) == [
        "parameters.frozen",
        "activations",
        "workspace:aten.mm",
        "unattributed",
        "novel",
    ]
    assert color_of("temporaries.my phase") == color_of("temporaries.other") != color_of("novel")
