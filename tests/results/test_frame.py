import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from peprof.errors import UsageError
from peprof.results.frame import COLUMNS, load_results, to_frame
from peprof.results.store import ResultStore
from tests.results.factory import MIB, make_dead_record, make_full, make_record, make_short


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
