import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from peprof.results.comparison import leaderboards
from peprof.results.distinguishing import LEVEL, against, alike
from peprof.results.rows import make_rows
from peprof.results.scores import Score
from peprof.suite.metrics import METRICS
from tests.results.factory import make_full, make_record
from tests.results.trainings import answered, judged

EXAMPLES, METHODS = 872, 6
TEMPLATE = make_rows([make_record("full", full=make_full())])[0]


def row(name, answers):
    """A row with these answers of its seeds, and nothing else of interest."""
    packed = [int.from_bytes(np.packbits(one, bitorder="little").tobytes(), "little") for one in answers]
    shares = {seed: float(np.mean(one)) for seed, one in enumerate(answers)}
    score = Score(
        metric=METRICS["accuracy"],
        value=float(np.mean(answers)),
        interval=None,
        covered=None,
        total=len(answers[0]),
        by_seed=shares,
        answers=dict(enumerate(packed)),
    )
    return dataclasses.replace(TEMPLATE, label=name, scores={"accuracy": score})


def table(rng, shares, *, seeds, seed_noise=0.05):
    """Methods of these true shares: examples are hard for all or for one of them, seeds are lucky or not.

    Probit scale: what is hard for all counts most, as it does in fine-tuned models of one backbone.
    """
    hard = rng.normal(0, 1.5, EXAMPLES)
    width = np.sqrt(1.5**2 + 0.7**2 + seed_noise**2 + 1)
    rows = []
    for place, share in enumerate(shares):
        own = hard + rng.normal(0, 0.7, EXAMPLES) + stats.norm.ppf(share) * width
        answers = [own + rng.normal(0, seed_noise) + rng.normal(size=EXAMPLES) > 0 for _ in range(seeds)]
        rows.append(row(f"m{place}", answers))
    return rows


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_methods_are_called_different_in_at_most_one_table_of_twenty(seeds):
    rng = np.random.default_rng(seeds)
    to_reference = pairs = 0
    for _ in range(400):
        rows = table(rng, [0.9] * METHODS, seeds=seeds)
        found = [one for one in against(rows, rows[0]) if one is not None]
        assert {one.tested.test for one in found} == {"crossed"}
        to_reference += any(one.adjusted_p < LEVEL for one in found)
        same, doubts = alike(rows)
        assert doubts.pairs == 15
        pairs += len(same) < 15
    # 28 of 400 is what 5 % exceeds by chance once in 30 times.
    assert to_reference <= 28
    assert pairs <= 28


def test_equal_methods_of_one_seed_are_called_different_as_rarely_where_seeds_are_all_alike():
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        rows = table(rng, [0.9] * METHODS, seeds=1, seed_noise=0.0)
        found = [one for one in against(rows, rows[0]) if one is not None]
        assert {one.tested.test for one in found} == {"mcnemar"}
        wrong += any(one.adjusted_p < LEVEL for one in found)
    assert wrong <= 28


def test_six_points_are_found_nearly_always_with_two_seeds():
    rng = np.random.default_rng(8)
    found = best = 0
    for _ in range(200):
        rows = table(rng, [0.9, 0.84, 0.9, 0.9, 0.9, 0.9], seeds=2)
        found += against(rows, rows[0])[1].adjusted_p < LEVEL
        top = max(range(METHODS), key=lambda place: rows[place].score.value)
        best += (min(top, 1), max(top, 1)) not in alike(rows)[0]
    assert found >= 180
    assert best >= 180


def test_a_seed_alone_has_no_answer_to_what_seeds_change():
    """Why several are needed: McNemar's test sees the examples only, and calls lucky seeds better methods."""
    rng = np.random.default_rng(9)
    wrong = 0
    for _ in range(200):
        rows = table(rng, [0.9] * 2, seeds=1, seed_noise=0.3)
        wrong += against(rows, rows[0])[1].adjusted_p < LEVEL
    assert wrong > 40


def test_rows_are_tested_on_the_seeds_they_have_in_common():
    right = [True] * 60 + [False] * 40
    worse = [True] * 20 + [False] * 80
    records = [
        *(answered("full", right, seed=seed) for seed in (0, 1, 2)),
        *(answered("lora", worse, seed=seed) for seed in (1, 2, 3)),
        answered("head", worse, seed=2),
        answered("ia3", worse, seed=9),
    ]
    (board,) = leaderboards(records)
    rows = {one.name: one for one in board.rows}
    assert rows["full"].against is None
    assert (rows["lora"].against.seeds, rows["lora"].against.tested.test) == (2, "crossed")
    assert (rows["head"].against.seeds, rows["head"].against.tested.test) == (1, "mcnemar")
    assert rows["ia3"].against.untested_because == "no seed in common"
    assert rows["lora"].against.value == pytest.approx(-0.4)
    assert board.reference == "full" and not board.reference_asked
    # Holm over the two that were tested.
    p_values = [rows[name].against.tested.p_value for name in ("lora", "head")]
    adjusted = [rows[name].against.adjusted_p for name in ("lora", "head")]
    assert adjusted == pytest.approx(
        [min(1, 2 * p) if p == min(p_values) else max(p, 2 * min(p_values)) for p in p_values]
    )


def test_without_answers_intervals_decide_and_too_few_seeds_test_nothing():
    counts = {"full": 900, "lora": 890, "head": 700}
    records = [
        make_record(label, seed=seed, full=make_full(correct=count + seed, total=1000))
        for label, count in counts.items()
        for seed in (0, 1)
    ]
    (board,) = leaderboards(records)
    full, lora, head = board.rows
    assert (board.doubts.pairs, board.doubts.by_intervals) == (0, True)
    assert (full.within_noise, lora.within_noise, head.within_noise) == (False, True, False)
    assert (lora.next_within_noise, head.next_within_noise) == ("full", None)
    assert lora.against.value == pytest.approx(-0.01)
    assert lora.against.untested_because == "not enough seeds: 2 seeds in common, at least 3 are needed"
    counts = {"full": 905, "lora": 889, "head": 720}
    records += [
        make_record(label, seed=2, full=make_full(correct=count, total=1000))
        for label, count in counts.items()
    ]
    (board,) = leaderboards(records)
    tested = board.rows[1].against.tested
    oracle = stats.ttest_rel([0.890, 0.891, 0.889], [0.900, 0.901, 0.905])
    assert (tested.test, tested.p_value) == ("seeds", pytest.approx(oracle.pvalue))


def test_damaged_answers_are_no_answers():
    good = answered("full", [True, False, True, True])
    for wrong in ("", "zz", "f", "1d"):
        full = good.full.model_copy(update={"correct_bits": wrong})
        (found,) = make_rows([good.model_copy(update={"full": full})])
        assert found.score.answers == {}
        assert found.score.value == 0.75
    assert make_rows([good])[0].score.answers == {0: 0b1101}


REGRESSION = {"task": "regression"}


def test_a_metric_that_should_be_small_ranks_the_other_way():
    data = {"task": "language-modelling"}
    records = [
        judged(label, {"perplexity": value}, data=data, intervals={"perplexity": (value - 1, value + 1.5)})
        for label, value in (("full", 12.0), ("lora", 13.0), ("head", 30.0), ("broken", float("nan")))
    ]
    (board,) = leaderboards(records)
    assert [one.name for one in board.rows] == ["full", "lora", "head", "broken"]
    assert [one.within_noise for one in board.rows] == [False, True, False, False]
    assert board.rows[0].best == {"perplexity", *(board.rows[0].best - {"perplexity"})}
    assert "perplexity" not in board.rows[2].best
    assert board.rows[3].score is None
    assert board.rows[2].against.value == pytest.approx(18)
    assert not board.rows[2].scores.get("accuracy")


def test_a_row_without_an_interval_is_not_told_apart():
    records = [
        judged(
            "full", {"pearson_spearman": 0.9}, data=REGRESSION, intervals={"pearson_spearman": (0.89, 0.91)}
        ),
        judged("lora", {"pearson_spearman": 0.5}, data=REGRESSION),
    ]
    (board,) = leaderboards(records)
    assert board.rows[1].within_noise
    assert board.doubts.unknown == ("lora",)


def test_runs_that_another_metric_decides_stand_apart():
    metrics = {"f1": 0.8, "accuracy": 0.7}
    boards = leaderboards(
        judged(label, metrics, data={"metrics": names}, correct=1050)
        for label, names in (("full", ("f1", "accuracy")), ("lora", ("accuracy", "f1")))
    )
    assert [board.metric.name for board in boards] == ["accuracy", "f1"]
    assert boards[1].rows[0].score.value == 0.8
    assert boards[1].rows[0].accuracy.value == 0.7
    assert [difference.condition for difference in boards[1].differences] == ["task"]


def test_alike_is_symmetric_in_the_order_of_rows():
    rng = np.random.default_rng(11)
    rows = table(rng, [0.9, 0.8, 0.89, 0.6, 0.9, 0.7], seeds=2)
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 97):
        pairs, _ = alike([rows[place] for place in order])
        found = {frozenset((order[a], order[b])) for a, b in pairs}
        assert found == {frozenset(pair) for pair in alike(rows)[0]}
