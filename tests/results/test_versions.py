"""Which runs of two versions belong together, and what of them changed."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from peprof.errors import UsageError
from peprof.results.conditions import CONDITIONS, conditions
from peprof.results.measures import MEASURES
from peprof.results.pairing import IGNORABLE, ignored_conditions, pair_up
from peprof.results.record import (
    EnergyResult,
    InferenceCostResult,
    InferenceResult,
    InferenceTimesResult,
    PhaseWorkResult,
    WorkResult,
)
from peprof.results.score_shifts import square_and_add
from peprof.results.statistics import wilson_interval
from peprof.results.versions import compare_versions
from tests.results.factory import (
    DATA_FACTS,
    ENVIRONMENT,
    MODEL_FACTS,
    make_dead_record,
    make_full,
    make_record,
    make_short,
    make_spec,
)
from tests.results.trainings import answered, judged


def only(base, new, **options):
    """The only method of both."""
    (method,) = compare_versions(base, new, **options).methods
    return method


def named(pairs):
    return {
        pair.name: (bool(pair.base), bool(pair.new), [one.condition for one in pair.differences])
        for pair in pairs
    }


def test_equal_work_is_paired_whatever_the_order():
    labels = ["full", "lora", "ia3"]
    base = [make_record(label, seed=seed, short=make_short()) for seed in (0, 1) for label in labels]
    pairs = pair_up(base, [*reversed(base)])
    assert named(pairs) == dict.fromkeys(labels, (True, True, []))
    assert all([run.spec.seed for run in pair.base.runs] == [0, 1] for pair in pairs)
    assert all(pair.base.label == pair.new.label for pair in pairs)


def test_bitsandbytes_version_tells_runs_apart_that_need_it():
    def of(version, **train):
        spec = make_spec("lora")
        spec = spec.model_copy(update={"train": spec.train.model_copy(update=train)})
        record = make_record("lora", short=make_short())
        environment = ENVIRONMENT.model_copy(update={"bitsandbytes": version})
        return record.model_copy(update={"spec": spec, "environment": environment})

    assert "bitsandbytes" not in conditions(of("0.50.2"))
    assert "bitsandbytes" not in conditions(of(None, optimizer="lion-8bit"))
    assert conditions(of("0.50.2", optimizer="lion-8bit"))["bitsandbytes"] == "0.50.2"
    assert set(conditions(of("0.50.2", optimizer="lion-8bit"))) <= set(CONDITIONS)


def test_points_of_a_matrix_are_told_apart_by_what_differs():
    runs = [make_record("lora", batch_size=size, short=make_short(batch_size=size)) for size in (16, 32)]
    assert named(pair_up(runs, runs[1:])) == {
        "lora (train.batch_size=16)": (True, False, []),
        "lora (train.batch_size=32)": (True, True, []),
    }


def test_machines_are_told_apart_where_settings_are_equal():
    other = ENVIRONMENT.model_copy(update={"device_name": "EPYC"})
    runs = [make_record("lora", environment=environment) for environment in (ENVIRONMENT, other)]
    assert named(pair_up(runs, runs)) == {
        "lora (device name EPYC)": (True, True, []),
        "lora (device name Xeon 8481C)": (True, True, []),
    }


GPU = ENVIRONMENT.model_copy(
    update={"device": "cuda", "device_name": "H100", "driver": "580.1", "cuda": "13.0"}
)


@pytest.mark.parametrize(
    ("base", "new", "condition"),
    [
        ({}, {"environment": ENVIRONMENT.model_copy(update={"device_name": "EPYC"})}, "device name"),
        ({}, {"environment": ENVIRONMENT.model_copy(update={"torch": "2.14.0"})}, "torch"),
        ({}, {"environment": ENVIRONMENT.model_copy(update={"transformers": "6.0"})}, "transformers"),
        ({}, {"environment": ENVIRONMENT.model_copy(update={"threads": 4})}, "threads"),
        (
            {"environment": GPU},
            {"environment": GPU.model_copy(update={"driver": "590.2"})},
            "driver",
        ),
        ({"environment": GPU}, {"environment": GPU.model_copy(update={"cuda": "13.1"})}, "CUDA"),
        ({}, {"model": MODEL_FACTS.model_copy(update={"attention": "eager"})}, "attention kernel"),
        ({}, {"model": MODEL_FACTS.model_copy(update={"geometry": "12L-768d"})}, "geometry"),
        ({}, {"data": DATA_FACTS.model_copy(update={"fingerprint": "0"})}, "data fingerprint"),
        ({}, {"batch_size": 32}, "batch size"),
        ({}, {"max_length": 128}, "max length"),
        ({}, {"weights": "random"}, "weights"),
        ({}, {"epochs": 1}, "training"),
        ({}, {"phases": ("short",)}, "phases"),
        ({"options": {"rank": 8}}, {"options": {"rank": 16}}, "options"),
    ],
)  # fmt: skip
def test_what_differs_is_kept_apart_and_named_unless_it_is_ignored(base, new, condition):
    base, new = (make_record("lora", short=make_short(), **values) for values in (base, new))
    method = only([base], [new])
    assert condition in [one.condition for one in method.pair.differences]
    assert method.changes["step_time"].mark == "not comparable"
    assert method.changes["step_time"].difference is None and method.changes["step_time"].base == 0.2
    told = {one.condition for one in method.pair.differences}
    let_pass = only([base], [new], ignore=told)
    assert let_pass.pair.comparable and {one.condition for one in let_pass.pair.ignored} == told
    assert let_pass.changes["step_time"].mark == "same"


def test_an_option_that_one_version_alone_knows_does_not_matter():
    old, late = (
        make_record("lora", options=options) for options in ({"rank": 8}, {"rank": 8, "bias": False})
    )
    assert only([old], [late]).pair.comparable


def test_every_condition_of_a_record_can_be_ignored_and_misspelt_ones_are_told():
    gpu = make_record("lora", environment=GPU, short=make_short())
    cpu = make_record("lora", short=make_short())
    known = set(conditions(gpu)) | set(conditions(cpu)) | {"bitsandbytes"}
    assert known == set(CONDITIONS) <= set(IGNORABLE)
    assert ignored_conditions(["Torch", "cuda", "device_name", " batch-size "]) == {
        "torch", "CUDA", "device name", "batch size",
    }  # fmt: skip
    assert ignored_conditions(["data"]) == {"data", "data fingerprint"}
    with pytest.raises(UsageError, match=r"no condition 'trch'. Did you mean 'torch'\?"):
        ignored_conditions(["trch"])


def test_the_nearest_counterpart_is_taken():
    """Of two batch sizes that base has, that of new is one, on another machine."""
    base = [make_record("lora", batch_size=size, short=make_short(batch_size=size)) for size in (16, 32)]
    elsewhere = ENVIRONMENT.model_copy(update={"device_name": "EPYC"})
    new = make_record("lora", batch_size=32, short=make_short(batch_size=32), environment=elsewhere)
    pairs = {pair.base.conditions["batch size"]: pair for pair in pair_up(base, [new])}
    assert [one.condition for one in pairs["32"].differences] == ["device name"]
    assert pairs["16"].new is None


def test_a_run_that_died_early_knows_too_little_to_differ():
    method = only([make_record("lora", short=make_short())], [make_dead_record("lora")])
    assert method.pair.comparable and [outcome.status for outcome in method.broken] == ["oom"]
    assert method.changes["step_time"].mark == "unavailable"


def test_several_stores_of_one_suite_are_repeated_measurements():
    def runs(factor):
        return [make_record("lora", short=make_short(step_ms=[factor * ms] * 5)) for ms in (198, 200, 203)]

    change = only(runs(1.0), runs(1.1)).changes["step_time"]
    logs = [np.log([198, 200, 203]) + math.log(factor) for factor in (1.0, 1.1)]
    oracle = stats.ttest_ind(logs[1], logs[0]).confidence_interval(0.99)
    assert change.judged_by == "runs" and change.mark == "worse"
    assert change.ratio == pytest.approx(1.1)
    assert (change.ratio_interval.low, change.ratio_interval.high) == pytest.approx(
        (math.exp(oracle.low), math.exp(oracle.high))
    )
    assert change.base == pytest.approx(stats.gmean([0.198, 0.200, 0.203]))


def whole_record(scale):
    """With every metric that there is, all of them larger by the same factor."""
    short = make_short(step_ms=[200 * scale, 190 * scale, 210 * scale], peak_mib=1000 * scale)
    memory = short.memory.model_copy(update={"peak_reserved_bytes": int(2000 * scale)})
    energy = EnergyResult(steps=10, energy_j=1.0, sample_energy_j=0.5 * scale)
    work = WorkResult(phases=(PhaseWorkResult(phase="forward", flops=int(1000 * scale), bytes_accessed=1),))
    forward = InferenceTimesResult(forward_s=(0.1 * scale, 0.11 * scale, 0.12 * scale))
    cost = InferenceCostResult(times=forward, plain=None, model_bytes=1, peak_bytes=1)
    update = {
        "memory": memory, "energy": energy, "work": work,
        "inference": InferenceResult(clock="perf_counter", adapted=cost),
    }  # fmt: skip
    full = make_full(train_time_s=600 * scale).model_copy(update={"energy_j": 3 * 67349 * scale})
    return make_record("lora", short=short.model_copy(update=update), full=full)


def test_every_metric_is_read_from_where_it_lies_in_the_record():
    method = only([whole_record(1)], [whole_record(2)])
    values = {name: (change.base, change.new) for name, change in method.changes.items() if change.is_known}
    assert values == {
        "step_time": pytest.approx((0.2, 0.4)),
        "forward_time": pytest.approx((0.05, 0.1)),
        "backward_time": pytest.approx((0.1, 0.2)),
        "clip_time": pytest.approx((0.025, 0.05)),
        "optimizer_time": pytest.approx((0.025, 0.05)),
        "samples_per_second": pytest.approx((80, 40)),
        "peak_allocated": (1000 * 2**20, 2000 * 2**20),
        "peak_reserved": (2000, 4000),
        "flops": (1000, 2000),
        "inference_time": pytest.approx((0.11, 0.22)),
        "step_energy_per_sample": pytest.approx((0.5, 1.0)),
        "train_time": pytest.approx((600, 1200)),
        "energy_per_sample": pytest.approx((1, 2)),
        "accuracy": pytest.approx((790 / 872,) * 2),
    }
    assert {name for name, change in method.changes.items() if not change.is_known} == {
        name for name, measure in MEASURES.items() if measure.kind == "score" and name != "accuracy"
    }


def test_what_was_not_measured_is_unavailable_and_never_0():
    for change in only([make_record("lora")], [make_record("lora", short=make_short())]).changes.values():
        assert change.base is None and change.mark == "unavailable" and change.difference is None
    failed = make_dead_record("lora")
    assert not any(change.is_known for change in only([failed], [failed]).changes.values())


def test_a_clock_that_says_0_is_no_time():
    short = make_short()
    times = short.times.model_copy(update={"clip_s": (0.0,) * 5})
    record = make_record("lora", short=short.model_copy(update={"times": times}))
    assert only([record], [record]).changes["clip_time"].mark == "unavailable"


def test_memory_that_differs_between_runs_is_no_difference_between_versions():
    def runs(*peaks):
        return [
            make_record("lora", seed=seed, short=make_short(peak_mib=peak)) for seed, peak in enumerate(peaks)
        ]

    assert only(runs(1000, 1010, 1020), runs(1015, 1016, 1017)).changes["peak_allocated"].mark == "same"
    worse = only(runs(1000, 1010, 1012), runs(1015, 1016, 1017)).changes["peak_allocated"]
    assert worse.mark == "worse" and worse.difference == 6 * 2**20


def test_newcombes_published_example_of_two_proportions():
    """Newcombe 1998 (Statistics in Medicine 17:873-890), table II, 56/70 less 48/80 by method 10."""
    found = square_and_add((48 / 80, wilson_interval(48, 80)), (56 / 70, wilson_interval(56, 70)))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_accuracy_without_answers_is_compared_by_intervals():
    base, new = (make_record("lora", full=make_full(correct=correct)) for correct in (800, 700))
    change = only([base], [new], confidence=0.95).changes["accuracy"]
    oracle = square_and_add((800 / 872, wilson_interval(800, 872)), (700 / 872, wilson_interval(700, 872)))
    assert change.judged_by == "intervals" and change.mark == "worse" and change.ratio is None
    assert (change.interval.low, change.interval.high) == pytest.approx((oracle.low, oracle.high))
    assert only([base], [base]).changes["accuracy"].mark == "same"


def flipped(right, count, generator):
    """The answers with so many of the right ones wrong."""
    places = set(generator.sample([place for place, one in enumerate(right) if one], count))
    return [one and place not in places for place, one in enumerate(right)]


def test_accuracy_on_the_same_examples_is_tested_by_pairs():
    generator = random.Random(1)
    right = [generator.random() < 0.9 for _ in range(872)]
    worse = flipped(right, 12, generator)
    change = only([answered("lora", right)], [answered("lora", worse)]).changes["accuracy"]
    assert stats.binomtest(0, 12).pvalue < 0.01 and change.judged_by == "answers" and change.mark == "worse"
    assert change.difference == pytest.approx(-12 / 872)
    few = only([answered("lora", right)], [answered("lora", flipped(right, 7, generator))])
    assert stats.binomtest(0, 7).pvalue > 0.01 and few.changes["accuracy"].mark == "same"
    # by intervals alone, a difference as small as this is never seen
    texts = [make_record("lora", full=make_full(correct=sum(one))) for one in (right, worse)]
    assert only(texts[:1], texts[1:]).changes["accuracy"].mark == "same"


def test_answers_to_other_examples_are_not_paired():
    right = [True] * 800 + [False] * 72
    base = answered("lora", right)
    data = DATA_FACTS.model_copy(update={"fingerprint": "other"})
    new = answered("lora", [False] * 12 + right[12:]).model_copy(update={"data": data})
    change = only([base], [new], ignore=["data fingerprint"]).changes["accuracy"]
    assert change.judged_by == "intervals" and change.mark == "same"


def test_an_error_is_better_when_it_is_smaller_and_has_a_ratio():
    data = {"task": "regression", "metrics": ("mse",)}

    def record(value):
        return judged("lora", {"mse": value}, data=data, intervals={"mse": (value - 0.01, value + 0.01)})

    change = only([record(0.5)], [record(0.4)]).changes["mse"]
    assert change.mark == "better" and change.ratio == pytest.approx(0.8)
    assert change.worsening == pytest.approx(-0.2)
    factor = stats.norm.ppf(0.995) / stats.norm.ppf(0.975)
    assert change.interval.high == pytest.approx(-0.1 + factor * math.hypot(0.01, 0.01))


def test_runs_with_the_digest_of_an_older_peprof_do_the_same_work():
    spec = make_spec("lora")
    record = make_record(spec=spec, short=make_short())
    older = record.model_copy(update={"run_id": "lora-s0-0123456789"})
    assert only([older], [record]).pair.comparable


def test_confidence_widens_intervals():
    runs = [
        make_record("lora", short=make_short(step_ms=steps)) for steps in ([200, 190, 210], [230, 220, 240])
    ]
    narrow, wide = (only(runs[:1], runs[1:], confidence=share).changes["step_time"] for share in (0.8, 0.999))
    assert narrow.mark == "worse" and wide.mark == "same"
    assert wide.interval.high > narrow.interval.high
