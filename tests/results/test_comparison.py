import dataclasses

import pytest

from peprof.errors import UsageError
from peprof.results.comparison import GROUP_KEYS, Difference, leaderboards
from peprof.results.conditions import conditions
from peprof.results.statistics import wilson_interval
from tests.results.factory import (
    DATA_FACTS,
    ENVIRONMENT,
    MIB,
    MODEL_FACTS,
    make_dead_record,
    make_full,
    make_record,
    make_short,
    make_spec,
)


def names(board):
    return [row.name for row in board.rows]


def only(records, **options):
    (board,) = leaderboards(records, **options)
    return board


def with_environment(**changes):
    return ENVIRONMENT.model_copy(update=changes)


def test_conditions_of_a_finished_run():
    assert conditions(make_record(short=make_short())) == {
        "model": "distilbert/distilbert-base-uncased",
        "weights": "pretrained",
        "dtype": "float32",
        "attention": "sdpa",
        "data": "stanfordnlp/sst2",
        "batch size": "16",
        "max length": "64",
        "task": "classification",
        "optimizer": "adamw",
        "gradient clipping": "1",
        "device": "cpu",
        "phases": "short + full",
        "training": "3 epochs",
        "schedule": "linear, 0.06 warm-up",
        "geometry": "6L-768d-12h-3072ff-30522v",
        "attention kernel": "sdpa",
        "data fingerprint": "5f0c1d2e3a4b",
        "device name": "Xeon 8481C",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "threads": "2",
        "memory measured by": "torch.profiler",
    }


def test_conditions_of_a_run_that_died_are_what_was_asked_for():
    found = conditions(make_dead_record("lora", phases=("short",)))
    assert found["batch size"] == "16"
    assert not found.keys() & {"geometry", "torch", "device name", "data fingerprint", "threads", "training"}


def test_runs_on_a_gpu_are_told_apart_by_driver_and_not_by_threads():
    cuda = with_environment(device="cuda", device_name="H100", driver="570.1", cuda="12.8", threads=16)
    found = conditions(make_record(environment=cuda, device="cuda"))
    assert (found["device name"], found["driver"], found["CUDA"]) == ("H100", "570.1", "12.8")
    assert "threads" not in found


BASE = {"short": make_short(), "full": make_full()}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"batch_size": 32}, ("batch size", "32", "16")),
        ({"max_length": 128}, ("max length", "128", "64")),
        ({"weights": "random"}, ("weights", "random", "pretrained")),
        ({"epochs": 9}, ("training", "9 epochs", "3 epochs")),
        ({"environment": with_environment(device_name="Zen 5")}, ("device name", "Zen 5", "Xeon 8481C")),
        ({"environment": with_environment(torch="2.13.1")}, ("torch", "2.13.1", "2.13.0")),
        ({"environment": with_environment(threads=8)}, ("threads", "8", "2")),
        (
            {"model": MODEL_FACTS.model_copy(update={"geometry": "9L"})},
            ("geometry", "9L", "6L-768d-12h-3072ff-30522v"),
        ),
        (
            {"model": MODEL_FACTS.model_copy(update={"attention": "xeager"})},
            ("attention kernel", "xeager", "sdpa"),
        ),
        (
            {"data": DATA_FACTS.model_copy(update={"fingerprint": "ffff"})},
            ("data fingerprint", "ffff", "5f0c1d2e3a4b"),
        ),
    ],
)
def test_what_may_not_be_compared_stands_apart_with_the_reason(changes, difference):
    first, second = leaderboards([make_record("full", **BASE), make_record("lora", **{**BASE, **changes})])
    assert (names(first), names(second)) == (["full"], ["lora"])
    assert first.differences == ()
    condition, here, there = difference
    assert second.differences == (Difference(condition=condition, here=here, first=there),)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": with_environment(hostname="elsewhere", platform="other", python="3.13.1")},
        {"learning_rate": 1e-3},
        {"options": {"rank": 8}},
        {"suite": "other"},
        {"seed": 5},
        {"max_seconds": 7.0},
        {"data": DATA_FACTS, "spec": make_spec("lora", data="copy/of-sst2")},
    ],
)
def test_what_may_be_compared_stands_together(changes):
    board = only([make_record("full", **BASE), make_record("lora", **{**BASE, **changes})])
    assert sorted(names(board)) == ["full", "lora"]


@pytest.mark.parametrize(
    ("part", "changes", "difference"),
    [
        ("data", {"metrics": ("f1",)}, ("task", "classification, judged by f1", "classification")),
        ("train", {"autocast": "bfloat16"}, ("dtype", "float32, autocast to bfloat16", "float32")),
        ("train", {"gradient_accumulation_steps": 4}, ("batch size", "16 in 4 parts", "16")),
        ("train", {"optimizer_options": {"eps": 0.5}}, ("optimizer", "adamw, eps=0.5", "adamw")),
        ("train", {"max_seconds": 90.0}, ("training", "3 epochs, at most 90 s", "3 epochs")),
        ("train", {"keep": "best"}, ("training", "3 epochs, best checkpoint", "3 epochs")),
        ("train", {"group_by_length": True}, ("training", "3 epochs, like lengths together", "3 epochs")),
        (
            "train",
            {"early_stopping_patience": 2},
            ("training", "3 epochs, stopped after 2 evaluations without a better one", "3 epochs"),
        ),
    ],
)
def test_other_trainings_stand_apart(part, changes, difference):
    spec = make_spec("lora")
    spec = spec.model_copy(update={part: getattr(spec, part).model_copy(update=changes)})
    boards = leaderboards([make_record("full", **BASE), make_record(spec=spec, **BASE)])
    (other,) = [board for board in boards if board.rows[0].name == "lora"]
    condition, there, here = difference
    assert other.conditions[condition] == there
    (first,) = [board for board in boards if board.rows[0].name == "full"]
    assert first.conditions[condition] == here


def test_a_target_and_kept_adapters_make_no_other_table():
    spec = make_spec("lora")
    train = spec.train.model_copy(
        update={"target": 0.9, "save_adapter": True, "checkpoint_every_seconds": None}
    )
    records = [
        make_record("full", **BASE),
        make_record(spec=spec.model_copy(update={"train": train}), **BASE),
    ]
    assert len(leaderboards(records)) == 1


def test_short_runs_stand_apart_from_whole_ones_and_the_order_of_phases_is_nothing():
    runs = [
        make_record("full", **BASE),
        make_record("lora", **BASE, phases=("full", "short")),
        make_record("head", short=make_short(), phases=("short",)),
    ]
    first, second = leaderboards(runs)
    assert (names(first), names(second)) == (["head"], ["full", "lora"])
    assert second.differences == (Difference(condition="phases", here="short + full", first="short"),)


def test_equal_data_under_two_names_is_no_reason():
    other = make_record("lora", **BASE, spec=make_spec("lora", data="copy", batch_size=32))
    _, second = leaderboards([make_record("full", **BASE), other])
    assert [difference.condition for difference in second.differences] == ["batch size"]


def test_other_data_under_another_name_is_said_once():
    facts = DATA_FACTS.model_copy(update={"fingerprint": "aa"})
    other = make_record("lora", **BASE, data=facts, spec=make_spec("lora", data="imdb"))
    boards = leaderboards([make_record("full", **BASE), other])
    assert [board.title for board in boards] == [
        "distilbert/distilbert-base-uncased on imdb",
        "distilbert/distilbert-base-uncased on stanfordnlp/sst2",
    ]
    assert boards[1].differences == (Difference(condition="data", here="stanfordnlp/sst2", first="imdb"),)


def test_a_run_that_knows_nothing_joins_the_table_it_does_not_contradict():
    sixteen, thirtytwo = make_record("full", **BASE), make_record("full", **BASE, batch_size=32)
    dead = make_dead_record("lora", batch_size=32)
    first, second = leaderboards([dead, sixteen, thirtytwo])
    assert (names(first), names(second)) == (["full"], ["full", "lora"])

    other_data = make_dead_record("lora", spec=make_spec("lora", data="imdb"))
    assert [names(board) for board in leaderboards([sixteen, other_data])] == [["lora"], ["full"]]


def test_a_run_that_knows_nothing_stays_with_its_suite():
    here = make_record("full", **BASE, suite="here")
    there = make_record("full", **BASE, suite="there", environment=with_environment(device_name="Zen 5"))
    boards = leaderboards([here, there, make_dead_record("lora", suite="there")])
    assert {board.conditions["device name"]: names(board) for board in boards} == {
        "Xeon 8481C": ["full"],
        "Zen 5": ["full", "lora"],
    }


def test_dead_runs_alone_make_a_table():
    board = only([make_dead_record("full"), make_dead_record("lora")])
    assert names(board) == ["full", "lora"]
    assert board.rows[0].status == "oom"
    assert board.rows[0].memory_ratio is None


def test_tables_are_ordered_by_what_tells_them_apart_numbers_as_numbers():
    boards = leaderboards([make_record("full", **BASE, batch_size=size) for size in (128, 8, 32)])
    assert [board.conditions["batch size"] for board in boards] == ["8", "32", "128"]
    assert boards[2].differences == (Difference(condition="batch size", here="128", first="8"),)


def test_no_records_make_no_table():
    assert leaderboards([]) == []


def test_seeds_of_one_method_are_one_row():
    runs = [
        make_record(
            "lora",
            seed=seed,
            short=make_short(peak_mib=peak, step_ms=steps),
            full=make_full(correct=correct, total=872, train_time_s=seconds),
        )
        for seed, peak, steps, correct, seconds in [
            (0, 500, (10, 20, 30), 790, 100),
            (1, 520, (30, 40, 50, 60), 780, 130),
            (2, 510, (40,), 785, 90),
        ]
    ]
    (row,) = only(runs).rows
    assert row.seeds == (0, 1, 2)
    assert (row.ok, row.status) == (3, "ok")
    # (790 + 780 + 785) / 3 = 785; the interval is that of one validation split, not of three.
    assert row.accuracy.value == pytest.approx(785 / 872)
    expected = wilson_interval(785, 872)
    assert (row.accuracy.interval.low, row.accuracy.interval.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert row.accuracy.by_seed == {0: 790 / 872, 1: 780 / 872, 2: 785 / 872}
    assert row.peak_allocated_bytes == 510 * MIB
    # medians of the seeds are 20, 45 and 40 ms
    assert row.step.median == pytest.approx(0.040)
    assert row.samples_per_s == pytest.approx(400)
    assert row.measured_steps == 1
    assert row.train_time_s == 100
    assert row.checkpoint_bytes == 256 * MIB


def test_a_row_with_a_dead_seed_says_so_and_counts_the_others():
    row = only([make_record("lora", **BASE), make_dead_record("lora", seed=1)]).rows[0]
    assert (row.ok, row.status, row.seeds) == (1, "partial", (0, 1))
    assert [(o.seed, o.status) for o in row.failures] == [(1, "oom")]
    assert row.accuracy.value == 790 / 872


def test_a_diverged_run_keeps_its_costs_and_has_no_accuracy():
    row = only([make_record("lora", status="diverged", **BASE)]).rows[0]
    assert row.accuracy is None
    assert row.train_time_s is None
    assert row.peak_allocated_bytes == 1024 * MIB


def test_one_label_with_two_settings_makes_two_rows_that_say_what_differs():
    runs = [
        make_record("lora", **BASE, options={"rank": rank, "alpha": 16}, learning_rate=rate)
        for rank, rate in [(4, 1e-3), (8, 1e-3), (8, 2e-3)]
    ]
    assert sorted(names(only(runs))) == [
        "lora (rank=4, learning_rate=0.001)",
        "lora (rank=8, learning_rate=0.001)",
        "lora (rank=8, learning_rate=0.002)",
    ]


TABLE = [
    # label, peak MiB, step ms, correct of 1000
    ("full", 1000, 200, 920),
    ("lora", 600, 150, 910),
    ("wide", 900, 300, 905),
    ("lst", 400, 100, 870),
    ("head", 250, 50, 700),
]


@pytest.fixture
def board():
    records = [
        make_record(
            label,
            short=make_short(peak_mib=peak, step_ms=(ms,) * 3),
            full=make_full(correct=correct, total=1000),
        )
        for label, peak, ms, correct in reversed(TABLE)
    ]
    return only([*records, make_dead_record("bitfit")])


def test_rows_are_ordered_by_accuracy_and_the_dead_come_last(board):
    assert names(board) == ["full", "lora", "wide", "lst", "head", "bitfit"]


def test_ratios_are_to_full_fine_tuning(board):
    memory = {row.name: row.memory_ratio for row in board.rows}
    assert memory == pytest.approx(
        {"full": 1, "lora": 0.6, "wide": 0.9, "lst": 0.4, "head": 0.25, "bitfit": None}
    )
    step = {row.name: row.step_ratio for row in board.rows}
    assert step == pytest.approx(
        {"full": 1, "lora": 0.75, "wide": 1.5, "lst": 0.5, "head": 0.25, "bitfit": None}
    )


def test_the_front_leaves_out_what_another_row_beats_in_both(board):
    assert {row.name: row.on_front for row in board.rows} == {
        "full": True,
        "lora": True,
        "wide": False,
        "lst": True,
        "head": True,
        "bitfit": False,
    }


def test_best_values_are_marked(board):
    best = {row.name: row.best for row in board.rows}
    assert best["full"] >= {"accuracy"}
    assert best["head"] >= {"peak_allocated_bytes", "step", "forward", "samples_per_s"}
    assert not best["lora"] & {"accuracy", "peak_allocated_bytes", "step", "samples_per_s"}
    assert best["bitfit"] == frozenset()


def test_a_value_without_rival_is_not_the_best():
    assert only([make_record("full", **BASE), make_dead_record("lora")]).rows[0].best == frozenset()


def test_accuracies_whose_intervals_overlap_are_within_noise(board):
    # 95 % Wilson at n = 1000: 920 -> 0.9015..0.9353; 910 -> ..0.9263; 905 -> ..0.9217; 870 -> ..0.8894.
    assert {row.name for row in board.rows if row.within_noise} == {"lora", "wide"}


def test_without_accuracy_rows_are_ordered_by_memory_and_have_no_front():
    board = only(
        [
            make_record(label, short=make_short(peak_mib=peak), phases=("short",))
            for label, peak in [("full", 900), ("head", 200), ("lora", 500)]
        ]
    )
    assert names(board) == ["head", "lora", "full"]
    assert {row.on_front for row in board.rows} == {None}
    assert not board.has_score


def test_several_rows_of_full_take_the_one_called_full_as_measure():
    records = [
        make_record(label, method="full", short=make_short(peak_mib=peak))
        for label, peak in [("all", 500), ("full", 1000)]
    ]
    assert {row.name: row.memory_ratio for row in only(records).rows} == {"all": 0.5, "full": 1.0}


def test_grouping_makes_a_table_a_value():
    records = [make_record("lora", **BASE, seed=seed) for seed in (10, 9)]
    first, second = leaderboards(records, group_by="seed")
    assert (first.group, second.group) == ("seed 9", "seed 10")
    assert [board.rows[0].seeds for board in (first, second)] == [(9,), (10,)]
    assert second.differences == ()


def test_grouping_by_what_a_dead_run_does_not_know_keeps_it_in_its_table():
    records = [make_record("full", **BASE), make_dead_record("lora")]
    board = only(records, group_by="device")
    assert board.group == "device Xeon 8481C"
    assert names(board) == ["full", "lora"]
    assert only([make_dead_record("lora")], group_by="device").group == "device unknown"


@pytest.mark.parametrize("key", GROUP_KEYS)
def test_every_key_groups(key):
    assert only([make_record("full", **BASE)], group_by=key).group.startswith(key.replace("_", " "))


def test_an_unknown_key_is_refused_with_a_guess():
    with pytest.raises(UsageError, match=r"can't group by 'batchsize'. Did you mean 'batch_size'\?"):
        leaderboards([], group_by="batchsize")


def test_what_is_synthetic_or_offline_is_known_of_the_table():
    records = [
        make_record("full", data=DATA_FACTS.model_copy(update={"synthetic": True}), offline_reason="no hub"),
        make_record("lora", offline_reason="no hub"),
    ]
    board = only(records)
    assert (board.synthetic_data, board.synthetic_weights, board.offline_reasons) == (
        True,
        False,
        ("no hub",),
    )
    assert only([make_record("full", weights="random")]).synthetic_weights


def test_tables_are_immutable(board):
    with pytest.raises(dataclasses.FrozenInstanceError):
        board.rows[0].label = "other"
