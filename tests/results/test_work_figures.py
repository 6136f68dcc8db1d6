"""Rates and overheads of a record, worked out by hand."""

from __future__ import annotations

import pytest

from peprof.reports.columns import COLUMNS
from peprof.results.record import (
    InferenceCostResult,
    InferenceResult,
    InferenceTimesResult,
    PhaseWorkResult,
    ShortResult,
    WorkResult,
)
from peprof.results.rows import make_rows
from peprof.results.work_figures import inference_figures, work_figures
from tests.results.factory import make_record, make_short

WORK = WorkResult(
    phases=(
        PhaseWorkResult(phase="forward", flops=10_000_000_000, bytes_accessed=400),
        PhaseWorkResult(phase="backward", flops=30_000_000_000, bytes_accessed=500),
        PhaseWorkResult(phase="optimizer", flops=0, bytes_accessed=100),
    ),
    uncounted=("aten._linalg_svd",),
    peak_flops_per_s=1e12,
    peak_words="1 TFLOP/s: of a test",
)
USED = InferenceResult(
    clock="perf_counter",
    adapted=InferenceCostResult(
        times=InferenceTimesResult(
            forward_s=(0.03, 0.01, 0.02), prefill_s=(0.1,) * 3, token_s=(0.006, 0.004, 0.005)
        ),
        plain=InferenceTimesResult(forward_s=(0.01, 0.02, 0.01), prefill_s=(0.08,) * 3, token_s=(0.004,) * 3),
        model_bytes=1000,
        peak_bytes=1500,
        cached=False,
    ),
    merged=InferenceCostResult(
        times=InferenceTimesResult(forward_s=(0.011,) * 3, prefill_s=(0.08,) * 3, token_s=(0.004,) * 3),
        plain=InferenceTimesResult(forward_s=(0.01,) * 3, prefill_s=(0.08,) * 3, token_s=(0.004,) * 3),
        model_bytes=900,
        peak_bytes=1400,
        cached=True,
    ),
    plain_peak_bytes=1400,
    new_tokens=5,
)


def short(**parts: object) -> ShortResult:
    """Steps of 200 ms in the middle: 50 forward, 100 backward, 25 clip, 25 optimizer."""
    return make_short().model_copy(update=parts)


def test_rates_are_operations_over_the_median_time_of_their_phase() -> None:
    found = work_figures(short(work=WORK))
    assert found is not None
    assert [one.phase for one in found.phases] == ["forward", "backward", "optimizer"]
    forward, backward, optimizer = found.phases
    assert forward.seconds == pytest.approx(0.05)
    assert forward.flops_per_s == pytest.approx(10e9 / 0.05)
    assert backward.mfu == pytest.approx(30e9 / 0.1 / 1e12)
    assert optimizer.mfu == 0
    assert (found.step.flops, found.step.bytes_accessed) == (40_000_000_000, 1000)
    assert found.step.mfu == pytest.approx(40e9 / 0.2 / 1e12)
    assert found.uncounted == ("aten._linalg_svd",)


def test_without_a_peak_or_times_there_is_no_utilisation_but_there_is_work() -> None:
    no_peak = work_figures(short(work=WORK.model_copy(update={"peak_flops_per_s": None})))
    assert no_peak is not None and no_peak.step.mfu is None
    assert no_peak.step.flops_per_s == pytest.approx(40e9 / 0.2)
    untimed = work_figures(short(work=WORK, times=None))
    assert untimed is not None
    assert (untimed.step.flops, untimed.step.flops_per_s, untimed.step.mfu) == (40_000_000_000, None, None)
    assert work_figures(short()) is None and work_figures(None) is None


def test_overheads_are_to_the_plain_backbone_of_the_same_rounds() -> None:
    plain, adapted, merged = inference_figures(USED)
    assert (plain.form, adapted.form, merged.form) == ("plain", "adapted", "merged")
    assert (plain.forward_s, plain.forward_ratio, plain.peak_bytes) == (0.01, None, 1400)
    assert adapted.forward_ratio == pytest.approx(2.0)
    assert adapted.token_ratio == pytest.approx(1.25)
    assert merged.forward_ratio == pytest.approx(1.1)
    assert inference_figures(None) == ()
    alone = USED.adapted.model_copy(update={"plain": None})
    (only,) = inference_figures(InferenceResult(clock="perf_counter", adapted=alone))
    assert (only.form, only.forward_ratio) == ("adapted", None)


def test_the_leaderboard_has_them_on_demand() -> None:
    (row,) = make_rows([make_record("lora", short=short(work=WORK, inference=USED))])
    raw = {
        name: value
        for key in ("flops", "flops_rate", "mfu", "inference", "inference_merged", "token", "token_merged")
        for name, value in COLUMNS[key].raw(row).items()
    }
    assert raw == {
        "flops": 40_000_000_000,
        "flops_per_s": pytest.approx(2e11),
        "mfu": pytest.approx(0.2),
        "inference_s": 0.02,
        "inference_overhead": pytest.approx(2.0),
        "inference_merged_s": 0.011,
        "inference_merged_overhead": pytest.approx(1.1),
        "token_s": 0.005,
        "token_merged_s": 0.004,
    }
    assert all(COLUMNS[key].importance is None for key in ("flops", "mfu", "inference", "token"))
    (bare,) = make_rows([make_record("lora", short=make_short())])
    assert all(COLUMNS[key].order(bare) is None for key in ("flops", "mfu", "inference_memory"))
