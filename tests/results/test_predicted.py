"""Predicted beside measured: each error is what arithmetic by hand says."""

from __future__ import annotations

import json
import math

import pytest

from peprof.results.comparison import leaderboards
from peprof.results.flat_rows import flat_row
from peprof.results.frame import to_frame
from peprof.results.predicted import accuracy, by_phase, prediction_of, row_predictions
from peprof.results.record import EstimatedMemory, RunRecord
from tests.reports.profiles import profile
from tests.results.factory import MIB, make_record, make_short
from tests.results.predictions import (
    GPU,
    counted_by_allocator,
    counted_by_ledger,
    make_estimate,
    on_a_gpu,
    predicted,
    ran_out,
)


@pytest.mark.parametrize(
    ("predicted_mib", "counted_mib", "error"),
    [(100, 100, 0.0), (100, 80, 0.25), (100, 125, -0.2), (0.5, 100, -0.995)],
)
def test_tensors_are_held_against_the_ledger_on_a_cpu(
    predicted_mib: float, counted_mib: float, error: float
) -> None:
    record = predicted("lora", make_estimate(predicted_mib), counted_by_ledger(counted_mib, counter_mib=999))
    found = prediction_of(record)
    assert found is not None and found.against == "ledger"
    held = found.held["peak"]
    assert (held.predicted_bytes, held.measured_bytes) == (int(predicted_mib * MIB), int(counted_mib * MIB))
    assert found.error("peak") == pytest.approx(error)
    assert (found.error("peak") == 0) == (error == 0), "equal bytes have no error at all"
    assert found.error("reserved") is None and set(found.held) == {"peak"}


def test_tensors_are_held_against_the_allocator_on_a_gpu_and_the_pool_against_the_pool() -> None:
    short = counted_by_allocator(128, 200, device_mib=800)
    found = prediction_of(predicted("lora", on_a_gpu(96, 250), short, environment=GPU, device="cuda"))
    assert found is not None and found.against == "allocator"
    errors = [found.error(figure) for figure in ("peak", "reserved", "device")]  # type: ignore[arg-type]
    assert errors == [-0.25, 0.25, pytest.approx((250 + 512) / 800 - 1)]


def test_a_pool_that_had_to_be_emptied_says_nothing_of_what_was_wanted() -> None:
    short = counted_by_allocator(128, 200, retries=1, device_mib=800)
    found = prediction_of(predicted("lora", on_a_gpu(96, 250), short))
    assert found is not None
    assert found.error("peak") == -0.25
    assert found.error("reserved") is None and found.error("device") is None


def test_a_device_that_others_use_too_says_nothing_of_this_run() -> None:
    short = counted_by_allocator(128, 200, device_mib=800)
    assert short.memory is not None
    shared = short.memory.model_copy(update={"device_bytes_of": "device"})
    found = prediction_of(predicted("lora", on_a_gpu(96, 250), short.model_copy(update={"memory": shared})))
    assert found is not None and found.held["device"].measured_bytes is None
    assert found.error("reserved") == 0.25


def test_what_is_missing_is_none() -> None:
    assert prediction_of(make_record("lora", short=make_short())) is None
    unmeasured = prediction_of(predicted("lora", make_estimate(), None))
    assert unmeasured is not None and unmeasured.error("peak") is None
    uncounted = prediction_of(predicted("lora", make_estimate(), make_short()))
    assert uncounted is not None and uncounted.error("peak") is None, "the CPU's own counter isn't the like"
    untold = prediction_of(predicted("lora", make_estimate(None, problem="why"), counted_by_ledger(80)))
    assert untold is not None and (untold.held, untold.problem) == ({}, "why")
    assert untold.error("peak") is None


def test_over_seeds_medians_are_told() -> None:
    records = [
        predicted("lora", make_estimate(100), counted_by_ledger(counted), seed=seed)
        for seed, counted in enumerate([100, 80, 125])
    ]
    row = row_predictions([*records, make_record("lora", short=make_short(), seed=3)])
    assert row is not None and len(row.runs) == 3
    assert row.predicted_bytes("peak") == row.measured_bytes("peak") == 100 * MIB
    assert row.errors("peak") == [0.0, 0.25, pytest.approx(-0.2)]
    assert row.error("peak") == 0.0
    assert row.predicted_bytes("reserved") is row.measured_bytes("reserved") is row.error("reserved") is None
    assert row_predictions([make_record("lora")]) is None


def test_seeds_without_a_measurement_say_nothing_of_those_that_have_one() -> None:
    ran = [predicted("lora", make_estimate(100), counted_by_ledger(125), seed=seed) for seed in (0, 1)]
    others = [ran_out("lora", make_estimate(300), seed=seed) for seed in (2, 3, 4)]
    row = row_predictions([*ran, *others])
    assert row is not None
    assert (row.predicted_bytes("peak"), row.measured_bytes("peak")) == (100 * MIB, 125 * MIB)
    assert row.error("peak") == pytest.approx(-0.2)
    only = row_predictions(others)
    assert only is not None and only.predicted_bytes("peak") == 300 * MIB


def test_accuracy_is_over_all_runs() -> None:
    def row(*counted: float) -> object:
        found = row_predictions(
            predicted("m", make_estimate(100), counted_by_ledger(mib), seed=seed)
            for seed, mib in enumerate(counted)
        )
        assert found is not None
        return found

    rows = [("full", row(100, 125)), ("lora", row(80)), ("lst", row(160))]
    found = accuracy(rows, "peak")  # type: ignore[arg-type]
    # Errors: 0, -20 %, +25 %, -37.5 %.
    assert found is not None and (found.runs, found.worst_name, found.too_low) == (4, "lst", 0.5)
    assert found.worst == -0.375
    assert found.median_error == pytest.approx((0.2 + 0.25) / 2)
    assert accuracy(rows, "reserved") is None  # type: ignore[arg-type]
    assert accuracy([], "peak") is None


@pytest.mark.parametrize(
    ("estimate", "need_mib", "standing", "foreseen"),
    [
        (make_estimate(100, there_bytes=99 * MIB), 100, "exact", True),
        (make_estimate(100, there_bytes=100 * MIB), 100, "exact", False),
        (make_estimate(100, there_bytes=None), 100, "exact", None),
        (on_a_gpu(96, 250, there_bytes=249 * MIB), 250, "simulated", True),
        (on_a_gpu(96, 250, there_bytes=250 * MIB), 250, "simulated", False),
    ],
)
def test_whether_lack_of_memory_was_foreseen(
    estimate: EstimatedMemory, need_mib: int, standing: str, foreseen: bool | None
) -> None:
    found = prediction_of(ran_out("full", estimate, seed=3))
    assert found is not None and found.ran_out is not None
    assert (found.ran_out.seed, found.ran_out.phase) == (3, "short: warm-up")
    assert (found.ran_out.need_bytes, found.ran_out.standing) == (need_mib * MIB, standing)
    assert found.ran_out.foreseen is foreseen
    assert found.error("peak") is None, "nothing was measured"


def test_only_a_training_step_can_have_been_foreseen() -> None:
    for phase in ("short: inference", "full: evaluation"):
        found = prediction_of(ran_out("full", make_estimate(), phase=phase, short=counted_by_ledger(80)))
        assert found is not None and found.ran_out is None
        assert found.error("peak") == 0.25, "what was measured before counts"
    other = prediction_of(predicted("full", make_estimate(), None, status="failed"))
    assert other is not None and other.ran_out is None
    untold = prediction_of(ran_out("full", make_estimate(None, problem="why")))
    assert untold is not None and untold.ran_out is None


def test_phases_are_held_against_those_of_the_profile_or_the_pool() -> None:
    step = profile()
    record = predicted("lora", make_estimate(), counted_by_ledger(80))
    on_cpu = {part.phase: part.held for part in by_phase(record, step)}
    assert on_cpu["forward"].predicted_bytes == 50 * MIB
    assert on_cpu["forward"].measured_bytes == step.phase("forward").peak.total_bytes
    assert by_phase(record, None)[0].held.measured_bytes is None
    on_gpu = by_phase(predicted("lora", on_a_gpu(96, 250), counted_by_allocator(128, 200)), step)
    assert [part.held.error for part in on_gpu] == [-0.25, -0.25]
    assert by_phase(make_record("lora"), step) == ()


def test_a_leaderboards_rows_have_it_and_others_are_as_they_were() -> None:
    [board] = leaderboards(
        [
            predicted("full", make_estimate(100), counted_by_ledger(80)),
            make_record("lora", short=counted_by_ledger(80), phases=("short",)),
        ]
    )
    by_name = {row.name: row.predicted for row in board.rows}
    assert by_name["lora"] is None
    assert by_name["full"] is not None and by_name["full"].error("peak") == 0.25


def test_frames_have_the_same_figures() -> None:
    row = flat_row(
        predicted("lora", on_a_gpu(96, 250, assumptions=("a", "b")), counted_by_allocator(128, 200))
    )
    assert row["predicted_peak_bytes"] == 96 * MIB
    assert row["predicted_peak_held_against_bytes"] == 128 * MIB
    assert (row["predicted_peak_error"], row["predicted_reserved_error"]) == (-0.25, 0.25)
    assert row["predicted_device_bytes"] == (250 + 512) * MIB
    assert row["memory_there_bytes"] == 80 * 2**30
    assert row["prediction_assumptions"] == "a; b"
    frame = to_frame(
        [
            predicted("lora", make_estimate(100), counted_by_ledger(125)),
            predicted("full", make_estimate(None, problem="why"), counted_by_ledger(125)),
            make_record("head", short=make_short()),
        ]
    )
    assert str(frame.predicted_peak_bytes.dtype) == "Int64"
    assert str(frame.predicted_peak_error.dtype) == "Float64"
    assert math.isclose(frame.predicted_peak_error[0], -0.2)
    assert frame.predicted_peak_error.isna().tolist() == [False, True, True]
    assert frame.prediction_problem[1] == "why"


def test_records_of_before_are_read_and_those_of_now_survive() -> None:
    record = make_record("lora", short=make_short())
    old = json.loads(record.model_dump_json())
    del old["estimate"], old["spec"]["short"]["estimate"]
    old["format_version"] = 4
    read = RunRecord.model_validate_json(json.dumps(old))
    assert read.estimate is None and read.spec.short.estimate is False
    assert read.run_id == read.spec.run_id == record.run_id
    new = predicted("lora", on_a_gpu(96, 250, assumptions=("a",)), counted_by_allocator(128, 200))
    assert RunRecord.model_validate_json(new.model_dump_json()) == new
    assert new.format_version == 5
