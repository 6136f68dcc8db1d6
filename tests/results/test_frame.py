import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peprof.errors import UsageError
from peprof.results.frame import COLUMNS, load_results, to_frame
from peprof.results.frame_columns import FRAME_COLUMNS
from peprof.results.located import letters
from peprof.results.record import Evaluation, PeakBreakdown, RunPeak
from peprof.results.store import ResultStore
from tests.results.factory import (
    ENVIRONMENT,
    MIB,
    make_dead_record,
    make_full,
    make_record,
    make_short,
)


def test_one_row_a_run_with_derived_values(tmp_path):
    step_ms = (200, 190, 210, 205, 180)
    lora = make_record(
        "lora",
        options={"targets": ("attention.query",), "rank": 8},
        trainable=(147_456, 592_130),
        seed=2,
        short=make_short(peak_mib=512, step_ms=step_ms),
        full=make_full(correct=790, total=872, train_time_s=600),
    )
    dead = make_dead_record("full", hint="smaller batch")
    for record in (lora, dead):
        ResultStore(tmp_path / "sst2").write(record)

    frame = load_results(tmp_path)

    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.label) == ["full", "lora"]
    row = frame.iloc[1].to_dict()
    oracle = stats.binomtest(790, 872).proportion_ci(method="wilson")
    expected = {
        "run_id": lora.run_id,
        "method": "lora",
        "status": "ok",
        "phases": "short+full",
        "model": "distilbert/distilbert-base-uncased",
        "data": "stanfordnlp/sst2",
        "seed": 2,
        "batch_size": 16,
        "max_length": 64,
        "device_name": "Xeon 8481C",
        "geometry": "6L-768d-12h-3072ff-30522v",
        "trainable_backbone": 147_456,
        "trainable_head": 592_130,
        "accuracy": 790 / 872,
        "accuracy_low": oracle.low,
        "accuracy_high": oracle.high,
        "validation_total": 872,
        "peak_allocated_bytes": 512 * MIB,
        "step_s": 0.2,
        "step_s_q1": np.quantile(step_ms, 0.25) / 1000,
        "step_s_q3": np.quantile(step_ms, 0.75) / 1000,
        "forward_s": 0.05,
        "backward_s": 0.1,
        "clip_s": 0.025,
        "optimizer_s": 0.025,
        "samples_per_s": 80.0,
        "real_tokens_per_s": 2000.0,
        "measured_steps": 5,
        "train_steps": 300,
        "train_time_s": 600.0,
        "evaluation_time_s": 4.0,
        "epoch_time_s": 200.0,
        "checkpoint_bytes": 256 * MIB,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert json.loads(row["options"]) == {"targets": ["attention.query"], "rank": 8}
    assert frame.peak_reserved_bytes[1] is pd.NA
    assert frame.offline_reason[1] is pd.NA


def test_what_was_not_measured_is_missing():
    frame = to_frame([make_dead_record("full")])
    row = frame.iloc[0]
    assert (row.status, row.failure_phase, row.failure_message) == ("oom", "short: warm-up", "out of memory")
    for name in (
        "accuracy",
        "peak_allocated_bytes",
        "step_s",
        "samples_per_s",
        "train_time_s",
        "device_name",
    ):
        assert row[name] is pd.NA, name


def test_accuracy_is_that_of_a_finished_training_only():
    frame = to_frame([make_record(status="timeout", full=make_full())])
    assert frame.accuracy[0] is pd.NA
    assert frame.train_time_s[0] == 600


def test_no_records_make_an_empty_frame_with_the_same_types(tmp_path):
    empty, one = load_results(tmp_path), to_frame([make_record(short=make_short(), full=make_full())])
    assert len(empty) == 0
    assert list(empty.columns) == list(COLUMNS)
    assert dict(empty.dtypes) == dict(one.dtypes)
    assert one.peak_allocated_bytes.dtype == "Int64"


def test_damaged_records_are_warned_of(tmp_path):
    store = ResultStore(tmp_path)
    for label in ("full", "lora"):
        store.write(make_record(label))
    (store.run_directory(make_record("lora").run_id) / "record.json").write_text("{")
    with pytest.warns(UserWarning, match=r"lora-s0-\w+/record.json: is not complete JSON"):
        assert list(load_results(tmp_path).label) == ["full"]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_results(tmp_path / "nowhere")


def test_a_peaks_bytes_by_category_add_up_to_it():
    categories = {
        "activations": 500,
        "activations.recomputed": 50,
        "parameters.frozen": 300,
        "temporaries.forward": 20,
        "temporaries.backward": 5,
        "workspace:aten.mm": 7,
        "rounding": 1,
    }
    breakdown = PeakBreakdown(
        peak_bytes=sum(categories.values()),
        peak_phase="backward",
        categories=categories,
        owners={},
        saved_bytes=400,
        uncounted_bytes=0,
    )
    short = make_short().model_copy(update={"breakdown": breakdown})
    row = to_frame([make_record(short=short)]).iloc[0]
    found = {
        name: row[f"{name}_bytes"]
        for name in (
            "parameters_frozen", "parameters_trainable", "gradients", "optimizer_state", "activations",
            "temporaries", "buffers", "inputs", "other",
        )
    }  # fmt: skip
    assert sum(found.values()) == row.ledger_peak_bytes == 883
    assert (found["activations"], found["temporaries"], found["other"]) == (550, 25, 8)
    assert found["gradients"] == 0, "known not to be there"
    assert json.loads(row.memory_by_category) == categories
    assert (row.saved_for_backward_bytes, row.peak_phase) == (400, "backward")


def test_a_training_judged_by_another_metric_than_accuracy():
    result = Evaluation(
        step=300, train_time_s=600.0, correct=None, total=1500, loss=0.5, time_s=2.0,
        metrics={"pearson_spearman": 0.85, "pearson": 0.86, "spearman": 0.84},
    )  # fmt: skip
    full = make_full().model_copy(
        update={
            "evaluations": (result,),
            "result_step": 300,
            "intervals": {"pearson_spearman": (0.83, 0.87)},
            "wall_time_s": 640.0,
            "waiting_time_s": 1.5,
            "stopped_by": "epochs",
            "peak": RunPeak(source="cuda_allocator", peak_bytes=9, start_bytes=3, peak_reserved_bytes=12),
        }
    )
    record = make_record(full=full)
    data = record.spec.data.model_copy(update={"task": "regression"})
    row = to_frame([record.model_copy(update={"spec": record.spec.model_copy(update={"data": data})})]).iloc[
        0
    ]
    assert (row.metric, row.metric_value, row.metric_low, row.metric_high) == (
        "pearson_spearman", 0.85, 0.83, 0.87,
    )  # fmt: skip
    assert (row.pearson, row.spearman, row.validation_total) == (0.86, 0.84, 1500)
    assert row.accuracy is pd.NA and row.pearson_low is pd.NA
    assert (row.train_time_share, row.waiting_time_s, row.stopped_by) == (600 / 640, 1.5, "epochs")
    assert (row.run_peak_bytes, row.run_start_bytes, row.run_peak_reserved_bytes) == (9, 3, 12)


def test_accuracy_is_the_metric_of_records_of_before(tmp_path):
    row = to_frame([make_record(full=make_full(correct=700))]).iloc[0]
    assert (row.metric, row.metric_value) == ("accuracy", 700 / 872)
    assert (row.metric_low, row.metric_high) == (row.accuracy_low, row.accuracy_high)


def test_rows_say_where_their_files_lie_and_what_they_may_be_compared_with(tmp_path):
    other = ENVIRONMENT.model_copy(update={"threads": 16, "git_commit": "c" * 40, "git_dirty": True})
    here, there = make_record("full"), make_record("lora", environment=other)
    store = ResultStore(tmp_path)
    store.write(here, suite_toml="name = 'sst2'")
    store.write(there)
    for record, inside in ((here, True), (there, False)):
        log = store.run_directory(record.run_id) / "tensorboard"
        log.mkdir()
        if inside:
            (log / "events.out.tfevents.1").touch()
    frame = load_results(tmp_path).set_index("label")
    run = tmp_path / "runs" / here.run_id
    assert frame.suite_file["full"] == str(run / "suite.toml") and frame.suite_file["lora"] is pd.NA
    assert frame.tensorboard["full"] == str(run / "tensorboard")
    assert frame.tensorboard["lora"] is pd.NA, "an empty log"
    assert frame.record_file["full"] == str(run / "record.json")
    assert frame.run_directory["full"] == str(run)
    assert list(frame.conditions) == ["A", "B"] and frame.differs["full"] is pd.NA
    assert frame.differs["lora"] == "threads 16 (A: 2)"
    assert (frame.git_commit["lora"], frame.git_dirty["lora"]) == ("c" * 40, True)


def test_groups_go_on_after_z():
    assert [letters(place) for place in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip


def test_every_column_is_explained():
    assert all(column.meaning for column in FRAME_COLUMNS.values())
    assert all(
        column.unit for column in FRAME_COLUMNS.values() if column.kind in ("bytes", "seconds", "time")
    )
