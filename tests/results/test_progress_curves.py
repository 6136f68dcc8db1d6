import pytest

from peprof.errors import UsageError
from peprof.results.comparison import leaderboards
from peprof.results.progress_curves import band, best_within, curve_of, first_reaching, reached
from peprof.results.record import RunPeak
from tests.results.factory import make_dead_record, make_full, make_record
from tests.results.trainings import judged, on_the_way


def test_how_good_it_was_after_so_much():
    curve = curve_of(on_the_way("full", [700, 880, 850, 900], watts=60))
    assert best_within(curve, "steps", 99) is None
    assert best_within(curve, "steps", 100) == 0.7
    assert best_within(curve, "seconds", 149) == 0.88  # 100 steps take 50 s
    assert best_within(curve, "steps", 399) == 0.88  # it fell again, but had been so good
    assert best_within(curve, "joules", 60 * 200) == 0.9
    assert best_within(curve, "seconds", 1e9) == 0.9
    assert best_within(curve_of(on_the_way("full", [700])), "joules", 1e9) is None


def test_the_first_evaluation_as_good_as_the_target():
    curve = curve_of(on_the_way("full", [700, 880, 850, 900]))
    point = first_reaching(curve, 0.88)
    assert (point.steps, point.seconds, point.joules, point.value) == (200, 100.0, None, 0.88)
    assert first_reaching(curve, 0.91) is None


def test_less_is_better_of_perplexity():
    record = judged("full", {"perplexity": 20.0}, data={"task": "language-modelling"})
    curve = curve_of(record)
    assert first_reaching(curve, 21).value == 20
    assert first_reaching(curve, 19) is None
    assert best_within(curve, "steps", 300) == 20


@pytest.mark.parametrize(
    ("runs", "count", "steps"),
    [
        ([[900], [800, 900], [800, 800, 900]], 3, 200),
        ([[900], [800, 900], [800, 800, 800]], 2, 200),
        ([[900], [800, 800], [800, 800]], 1, None),
        ([[900], [800, 900]], 2, 150),
        ([[900], [800, 800]], 1, None),
        ([[800]], 0, None),
    ],
)
def test_the_median_counts_a_seed_that_never_got_there_as_the_last(runs, count, steps):
    curves = [curve_of(on_the_way("full", run, seed=seed, watts=10)) for seed, run in enumerate(runs)]
    found = reached(curves, 0.9)
    assert (found.seeds, found.reached, found.steps) == (len(runs), count, steps)
    if steps:
        assert (found.seconds, found.joules) == (steps * 0.5, steps * 0.5 * 10)


def test_a_device_that_counts_no_joules_has_no_median_of_them():
    found = reached([curve_of(on_the_way("full", [900]))], 0.9)
    assert (found.seconds, found.joules) == (50.0, None)
    assert reached([], 0.9) is None


def test_unfinished_runs_have_no_curve():
    assert curve_of(make_dead_record("full")) is None
    assert curve_of(make_record("full", full=make_full(), status="diverged")) is None
    assert [point.value for point in curve_of(make_record("full", full=make_full())).points] == [
        0.5,
        790 / 872,
    ]


def test_a_band_holds_all_seeds_at_each_step():
    points = band(
        [
            curve_of(on_the_way("full", [700, 900], seed=0, seconds_a_step=1)),
            curve_of(on_the_way("full", [800, 860, 870], seed=1, seconds_a_step=3)),
        ]
    )
    assert [(point.steps, point.seconds, point.low, point.high, point.seeds) for point in points] == [
        (100, 200, 0.7, 0.8, 2),
        (200, 400, 0.86, 0.9, 2),
        (300, 900, 0.87, 0.87, 1),
    ]
    assert points[0].value == pytest.approx(0.75)


def test_tables_take_the_suites_target_unless_another_is_given():
    records = [
        on_the_way(label, [800, best], seed=seed, target=0.88)
        for label, best in (("full", 900), ("lora", 890), ("head", 810))
        for seed in (0, 1)
    ]
    (board,) = leaderboards(records)
    assert board.target == 0.88
    assert [(row.name, row.reached.reached, row.reached.seconds) for row in board.rows] == [
        ("full", 2, 100.0),
        ("lora", 2, 100.0),
        ("head", 0, None),
    ]
    (board,) = leaderboards(records, target=0.8)
    assert [row.reached.steps for row in board.rows] == [100, 100, 100]
    with pytest.raises(UsageError, match="a target of 88 can't be reached: accuracy is at most 1") as caught:
        leaderboards(records, target=88)
    assert caught.value.hint == "Give a share: 0.88."


def test_energy_and_the_whole_runs_peak_are_medians_over_seeds():
    peaks = [RunPeak(source="process_rss", peak_bytes=size, start_bytes=1) for size in (5, 9, 7)]
    records = [
        on_the_way("full", [900] * (seed + 1), seed=seed, watts=100, peak=peak)
        for seed, peak in enumerate(peaks)
    ]
    (row,) = leaderboards(records)[0].rows
    assert (row.run_peak_bytes, row.run_peak_source) == (7, "process_rss")
    assert row.energy_j == 10_000  # 200 steps of 0.5 s
    assert row.joules_per_sample == pytest.approx(10_000 / (0.5 * 67349))
