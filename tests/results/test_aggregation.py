"""One row a method over its seeds, held against numpy and scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from peprof.results.aggregation import AGGREGATED_COLUMNS, aggregated_rows
from peprof.results.located import LocatedRun
from peprof.results.record import Evaluation, RunPeak
from tests.results.factory import (
    ENVIRONMENT,
    MIB,
    make_dead_record,
    make_full,
    make_record,
    make_short,
    make_spec,
)


def rows_of(*records):
    return aggregated_rows([LocatedRun(record=record, directory=None) for record in records])


SEEDS = [  # correct of 872, peak MiB, step ms, training seconds, joules
    (790, 1000, (200, 190, 210), 600.0, 5000.0),
    (802, 1010, (220, 230, 225), 640.0, 5600.0),
    (781, 990, (180, 185, 205), 580.0, 5100.0),
    (799, 1003, (201, 204, 198), 590.0, 4900.0),
]


def seeds_of(label="lora", **values):
    for seed, (correct, peak, step_ms, seconds, joules) in enumerate(SEEDS):
        full = make_full(correct=correct, train_time_s=seconds)
        peaks = RunPeak(source="process_rss", peak_bytes=peak * 2 * MIB, start_bytes=MIB)
        yield make_record(
            label,
            seed=seed,
            short=make_short(peak_mib=peak, step_ms=step_ms),
            full=full.model_copy(update={"energy_j": joules, "peak": peaks}),
            **values,
        )


def test_figures_over_seeds_are_numpys():
    (row,) = rows_of(*reversed(list(seeds_of())))
    correct, peak, step_ms, seconds, joules = zip(*SEEDS, strict=True)
    accuracy = np.array(correct) / 872
    assert row["metric"] == "accuracy"
    assert row["metric_value"] == row["accuracy"] == pytest.approx(np.mean(accuracy))
    assert row["metric_std"] == pytest.approx(np.std(accuracy, ddof=1))
    wilson = stats.binomtest(round(np.mean(correct)), 872).proportion_ci(method="wilson")
    assert row["metric_low"] == row["accuracy_low"] == pytest.approx(wilson.low, abs=2e-4)
    assert row["metric_high"] == row["accuracy_high"] == pytest.approx(wilson.high, abs=2e-4)
    assert json.loads(row["metric_by_seed"]) == {str(seed): value for seed, value in enumerate(accuracy)}
    assert row["peak_allocated_bytes"] == np.median(peak) * MIB and isinstance(
        row["peak_allocated_bytes"], int
    )
    assert row["run_peak_bytes"] == np.median(peak) * 2 * MIB
    assert row["step_s"] == pytest.approx(np.median([np.median(steps) for steps in step_ms]) / 1000)
    assert row["step_s_q3"] == pytest.approx(
        np.median([np.quantile(steps, 0.75) for steps in step_ms]) / 1000
    )
    assert row["train_time_s"] == pytest.approx(np.median(seconds))
    assert row["energy_j"] == pytest.approx(np.median(joules))
    assert row["mean_power_w"] == pytest.approx(np.median(np.array(joules) / np.array(seconds)))
    assert row["joules_per_sample"] == pytest.approx(np.median(joules) / (3 * 67_349))
    assert (row["status"], row["runs"], row["finished_runs"], row["seeds"]) == ("ok", 4, 4, "[0, 1, 2, 3]")
    assert len(json.loads(row["run_ids"])) == 4
    assert set(row) == set(AGGREGATED_COLUMNS)


def test_one_seed_has_no_standard_deviation():
    (row,) = rows_of(next(seeds_of()))
    assert row["metric_value"] == 790 / 872 and row["metric_std"] is None


def test_methods_options_and_conditions_are_kept_apart():
    other = ENVIRONMENT.model_copy(update={"device_name": "EPYC 9004"})
    rows = rows_of(
        *seeds_of(),
        *seeds_of(environment=other),
        *seeds_of(options={"rank": 4}),
        make_record("full", short=make_short(), full=make_full()),
    )
    assert [(row["label"], row["settings"], row["device_name"], row["runs"]) for row in rows] == [
        ("lora", "", "Xeon 8481C", 4),
        ("lora", "", "EPYC 9004", 4),
        ("lora", "rank=4", "Xeon 8481C", 4),
        ("full", "", "Xeon 8481C", 1),
    ]
    assert [row["conditions"] for row in rows] == ["B", "A", "B", "B"]


def test_a_run_that_was_cut_short_adds_no_costs_of_training():
    cut = make_full(train_time_s=3.0)
    late = make_record("lora", seed=9, status="timeout", short=make_short(peak_mib=2000), full=cut)
    (row,) = rows_of(*seeds_of(), late)
    assert (row["status"], row["runs"], row["finished_runs"]) == ("partial", 5, 4)
    assert row["train_time_s"] == np.median([seed[3] for seed in SEEDS])
    assert row["peak_allocated_bytes"] == np.median([*(seed[1] for seed in SEEDS), 2000]) * MIB
    assert len(json.loads(row["metric_by_seed"])) == 4


def test_what_never_ran_is_a_row_too():
    (row,) = rows_of(make_dead_record("lora", seed=0), make_dead_record("lora", seed=1, message="no more"))
    assert (row["status"], row["metric_value"], row["train_time_s"]) == ("oom", None, None)
    assert row["failure_message"] == "out of memory; no more"


def test_what_differs_over_seeds_is_joined_or_left_out():
    machines = [
        ENVIRONMENT.model_copy(update={"hostname": host, "git_commit": commit, "git_dirty": dirty})
        for host, commit, dirty in (("a", "1" * 40, False), ("b", "2" * 40, True), ("a", "1" * 40, False))
    ]
    (row,) = rows_of(
        *(
            make_record("lora", seed=seed, environment=machine, full=make_full())
            for seed, machine in enumerate(machines)
        )
    )
    assert row["hostname"] == "a; b" and row["git_commit"] == f"{'1' * 40}; {'2' * 40}"
    assert row["git_dirty"] is None


def test_a_seed_that_was_run_twice_counts_once():
    first, again, other = (
        make_record(
            "lora", seed=seed, full=make_full(correct=correct), started_at=f"2026-01-0{day}T00:00:00Z"
        )
        for seed, correct, day in ((0, 700, 1), (0, 720, 2), (1, 800, 3))
    )
    (row,) = rows_of(first, again, other)
    assert json.loads(row["metric_by_seed"]) == {"0": pytest.approx(710 / 872), "1": 800 / 872}
    assert row["metric_value"] == pytest.approx(np.mean([710, 800]) / 872)
    assert (row["runs"], row["seeds"]) == (3, "[0, 1]")


def test_a_seed_that_never_reached_the_target_is_later_than_all_others():
    def trained(seed, values):
        spec = make_spec("lora", seed=seed)
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"target": 0.9})})
        evaluations = tuple(
            Evaluation(
                step=10 * at,
                train_time_s=float(at),
                correct=round(value * 100),
                total=100,
                loss=0.5,
                time_s=1.0,
                metrics={"accuracy": value},
                energy_j=100.0 * at,
            )
            for at, value in enumerate(values, start=1)
        )
        return make_record(spec=spec, full=make_full().model_copy(update={"evaluations": evaluations}))

    slow, fast, never = trained(0, (0.5, 0.8, 0.9)), trained(1, (0.95, 0.8, 0.9)), trained(2, (0.1, 0.2, 0.3))
    (row,) = rows_of(slow, fast, never)
    assert (row["target"], row["target_reached"]) == (0.9, 2)
    assert (row["target_step"], row["target_time_s"], row["target_energy_j"]) == (30, 3.0, 300.0)
    (row,) = rows_of(fast, never, trained(3, (0.1, 0.1, 0.2)))
    assert (row["target_reached"], row["target_step"], row["target_time_s"]) == (1, None, None)
