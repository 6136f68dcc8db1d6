"""The gate on made histories, and what makes it fail, pass, or say that it can't tell."""

import numpy as np
import pytest

from peprof.errors import UsageError
from peprof.results.gate import judge, parse_thresholds
from peprof.results.versions import compare_versions
from tests.results.factory import make_dead_record, make_full, make_record, make_short
from tests.results.histories import dependent, drifting, gaussian, lognormal, made, with_outliers
from tests.results.trainings import answered

COMPARISONS = 200


def alarms(shape, threshold, *, slowdown=0.0, runs=1, seed=1):
    """Of 200 comparisons of two versions, with so many runs each, how many are called a regression."""
    generator = np.random.default_rng(seed)
    count = 0
    for _ in range(COMPARISONS):
        base = [made(shape(generator), seed=run) for run in range(runs)]
        new = [made(shape(generator), slowdown=slowdown, seed=run) for run in range(runs)]
        count += judge(compare_versions(base, new), parse_thresholds(threshold)).exit_code == 1
    return count


@pytest.mark.parametrize("shape", [gaussian, lognormal, with_outliers, dependent, drifting])
@pytest.mark.parametrize("runs", [1, 3])
def test_200_versions_that_are_as_fast_raise_no_alarm(shape, runs):
    """30 steps with 2 % noise; a threshold as small as the noise."""
    assert alarms(shape, "step_time:2%", runs=runs) == 0


@pytest.mark.parametrize("shape", [gaussian, lognormal, with_outliers])
@pytest.mark.parametrize("runs", [1, 3])
def test_a_5_percent_slowdown_is_found_in_200_of_200(shape, runs):
    """30 steps with 2 % noise. The random numbers are fixed: of others 1 in 900 is missed with one run."""
    assert alarms(shape, "step_time:2%", slowdown=0.05, runs=runs, seed=2) == COMPARISONS


@pytest.mark.parametrize(
    ("shape", "runs", "fewest"), [(dependent, 1, 190), (drifting, 1, 120), (drifting, 3, 185)]
)
def test_steps_that_depend_on_each_other_hide_a_slowdown_rather_than_feign_one(shape, runs, fewest):
    assert fewest <= alarms(shape, "step_time:2%", slowdown=0.05, runs=runs) <= COMPARISONS


@pytest.mark.parametrize("shape", [gaussian, with_outliers])
def test_becoming_faster_is_no_regression(shape):
    assert alarms(shape, "step_time:0%,samples_per_second:0%", slowdown=-0.05) == 0


def test_a_slowdown_below_its_threshold_passes_and_one_of_it_does_not():
    generator = np.random.default_rng(3)
    steps = gaussian(generator, noise=0.0001), gaussian(generator, noise=0.0001)
    comparison = compare_versions([made(steps[0])], [made(steps[1], slowdown=0.03)])
    verdicts = [judge(comparison, parse_thresholds(f"step_time:{limit}%")) for limit in (2.9, 3.1)]
    assert [verdict.exit_code for verdict in verdicts] == [1, 0]
    assert comparison.methods[0].changes["step_time"].mark == "worse"


def test_throughput_may_fall_by_its_threshold():
    generator = np.random.default_rng(3)
    base, new = (made(gaussian(generator, noise=0.0001), slowdown=by) for by in (0.0, 0.25))
    codes = [
        judge(compare_versions([base], [new]), parse_thresholds(f"samples_per_second:{limit}%")).exit_code
        for limit in (19, 21)
    ]
    assert codes == [1, 0]  # 1 / 1.25 is 20 % less


def test_memory_has_no_noise():
    base, new = made([1.0] * 30), made([1.0] * 30, peak_mib=1025)
    comparison = compare_versions([base], [new])
    assert [
        judge(comparison, parse_thresholds(f"peak_allocated:{limit}%")).exit_code for limit in (0, 0.09, 0.1)
    ] == [1, 1, 0]  # 1 of 1024 is 0.098 %
    same = judge(compare_versions([base], [base]), parse_thresholds("peak_allocated:0%"))
    assert same.exit_code == 0


def test_accuracy_falls_by_points_and_by_more_than_chance():
    right = [True] * 800 + [False] * 200
    slightly = [False] * 12 + right[12:]
    mixed = [False] * 60 + right[60:800] + [True] * 48 + [False] * 152
    limit = parse_thresholds("accuracy:1pt")
    assert (
        judge(compare_versions([answered("lora", right)], [answered("lora", slightly)]), limit).exit_code == 1
    )
    # 12 points of a thousand as well, but 108 answers changed: McNemar's p is 0.29
    assert judge(compare_versions([answered("lora", right)], [answered("lora", mixed)]), limit).exit_code == 0
    assert (
        judge(compare_versions([answered("lora", slightly)], [answered("lora", right)]), limit).exit_code == 0
    )


def test_what_a_suite_is_judged_by_goes_by_that_name():
    right = [True] * 800 + [False] * 200
    comparison = compare_versions([answered("lora", right)], [answered("lora", [False] * 50 + right[50:])])
    assert judge(comparison, parse_thresholds("metric:1pt")).exit_code == 1
    with pytest.raises(UsageError, match=r"judged by accuracy") as raised:
        judge(comparison, parse_thresholds("metric:1%"))
    assert "points" in raised.value.hint


class TestFailedRuns:
    base = make_record("lora", short=make_short(), full=make_full())

    def code(self, base, new, thresholds=()):
        return judge(compare_versions(base, new), thresholds).exit_code

    @pytest.mark.parametrize("status", ["failed", "timeout", "oom", "diverged"])
    def test_of_a_run_that_was_fine(self, status):
        assert self.code([self.base], [make_dead_record("lora", status=status)]) == 3

    @pytest.mark.parametrize(("status", "code"), [("failed", 3), ("timeout", 3), ("oom", 0), ("diverged", 0)])
    def test_of_a_run_that_base_does_not_have(self, status, code):
        """That memory doesn't suffice for a new method is a result, as in 'peprof run'."""
        assert self.code([self.base], [self.base, make_dead_record("ia3", status=status)]) == code

    def test_as_before(self):
        dead = make_dead_record("ia3", status="failed")
        assert self.code([self.base, dead], [self.base, dead]) == 0

    def test_of_one_seed(self):
        others = [make_record("lora", seed=seed, short=make_short()) for seed in (0, 1)]
        assert self.code(others, [others[0], make_dead_record("lora", seed=1)]) == 3

    def test_is_worse_than_a_regression(self):
        slow = make_record("lora", short=make_short(step_ms=[400] * 5), full=make_full())
        new = [slow, make_dead_record("lora", seed=1, status="failed")]
        assert self.code([self.base], new, parse_thresholds("step_time:5%")) == 3


class TestWhatCanNotBeCompared:
    @pytest.fixture
    def record(self):
        return make_record("lora", short=make_short(), full=make_full())

    def verdict(self, base, new, thresholds=""):
        return judge(compare_versions(base, new), parse_thresholds(thresholds) if thresholds else ())

    def test_other_conditions(self, record):
        other = make_record("lora", batch_size=32, short=make_short(batch_size=32))
        verdict = self.verdict([record], [other])
        assert verdict.exit_code == 4 and verdict.nothing_compared
        both = self.verdict(
            [record, make_record("full", short=make_short())],
            [make_record("full", short=make_short()), other],
        )
        assert both.exit_code == 4 and not both.nothing_compared
        assert [method.pair.name for method in both.incomparable] == ["lora"]

    def test_no_method_in_common(self, record):
        assert self.verdict([record], [make_record("ia3", short=make_short())]).exit_code == 4

    def test_a_metric_that_base_alone_has(self, record):
        verdict = self.verdict(
            [record], [make_record("lora", short=make_short(peak_mib=None))], "peak_allocated:2%"
        )
        assert verdict.exit_code == 4
        assert [(one.method, one.change.measure.name) for one in verdict.unchecked] == [
            ("lora", "peak_allocated")
        ]

    def test_a_metric_that_nobody_has(self, record):
        verdict = self.verdict([record], [record], "peak_reserved:2%")
        assert verdict.exit_code == 4 and [one.metric for one in verdict.never_checked] == ["peak_reserved"]

    def test_a_metric_whose_noise_nobody_knows(self, record):
        """One training each: how long it took says nothing of how long the next one would take."""
        verdict = self.verdict([record], [record], "train_time:5%")
        assert verdict.exit_code == 4 and verdict.unchecked[0].change.mark == "unclear"
        runs = [make_record("lora", seed=seed, full=make_full(train_time_s=600 + seed)) for seed in range(3)]
        assert self.verdict(runs, runs, "train_time:5%").exit_code == 0

    def test_a_method_that_new_lacks_matters_to_a_gate_alone(self, record):
        base = [record, make_record("ia3", short=make_short())]
        assert self.verdict(base, [record]).exit_code == 0
        verdict = self.verdict(base, [record], "step_time:5%")
        assert verdict.exit_code == 4 and [method.pair.name for method in verdict.missing] == ["ia3"]

    def test_results_that_can_not_be_read(self, record):
        assert judge(compare_versions([record], [record]), unreadable=1).exit_code == 4


def test_thresholds_are_read_as_people_write_them():
    found = parse_thresholds(" step-time:5%, peak_allocated:2.5 % ,accuracy:1pt,metric:.5pt,")
    assert [(one.metric, one.unit) for one in found] == [
        ("step_time", "%"), ("peak_allocated", "%"), ("accuracy", "pt"), ("metric", "pt"),
    ]  # fmt: skip
    assert [one.limit for one in found] == pytest.approx([0.05, 0.025, 0.01, 0.005])
    assert [one.text for one in found] == [
        "step_time:5%",
        "peak_allocated:2.5%",
        "accuracy:1pt",
        "metric:0.5pt",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no threshold"),
        ("step_time", "'step_time' is no threshold"),
        ("step_time:5", "'step_time:5' is no threshold"),
        ("step_time:-5%", "is no threshold"),
        ("step_tme:5%", "Did you mean 'step_time'?"),
        ("step_time:1pt", "'step_time:1pt'"),
        ("accuracy:1%", "'accuracy:1%'"),
        ("perplexity:1pt", "'perplexity:1pt'"),
        ("step_time:5%,step_time:6%", "names step_time twice"),
    ],
)
def test_what_is_no_threshold_is_told(text, words):
    with pytest.raises(UsageError) as raised:
        parse_thresholds(text)
    assert words in raised.value.message and raised.value.hint
