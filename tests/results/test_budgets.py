import pytest

from peprof.errors import UsageError
from peprof.results.budgets import parse_budget
from peprof.results.comparison import leaderboards
from tests.results.trainings import judged, on_the_way


@pytest.mark.parametrize(
    ("text", "axis", "amount", "words"),
    [
        ("60s", "seconds", 60, "60 s"),
        ("1.5 min", "seconds", 90, "1.5 min"),
        ("2h", "seconds", 7200, "2 h"),
        ("1_000steps", "steps", 1000, "1,000 steps"),
        ("1 step", "steps", 1, "1 steps"),
        ("500 J", "joules", 500, "500 J"),
        ("2kj", "joules", 2000, "2 kJ"),
    ],
)
def test_an_amount_has_a_unit(text, axis, amount, words):
    budget = parse_budget(text)
    assert (budget.axis, budget.amount, budget.words) == (axis, amount, words)


@pytest.mark.parametrize("text", ["", "60", "s", "-3s", "0s", "60 epochs", "1e999s", "nan s"])
def test_what_is_no_amount_is_told_with_an_example(text):
    with pytest.raises(UsageError, match="is no amount of training") as caught:
        parse_budget(text)
    assert "60s, 500steps, 2kJ" in (caught.value.hint or "")


def found(text, records):
    (board,) = leaderboards(records, budget=parse_budget(text))
    return {row.name: row.within and row.within.value for row in board.rows}


def test_rows_tell_how_good_they_had_become():
    """Evaluations each 100 steps; of 1000 examples; the one takes half a second a step, the other two."""
    records = [
        *(on_the_way("full", [700 + 20 * seed, 880, 850, 900], seed=seed, watts=100) for seed in (0, 1)),
        on_the_way("lora", [600, 800], seconds_a_step=2, watts=100),
    ]
    assert found("100 steps", records) == pytest.approx({"full": 0.71, "lora": 0.6})
    assert found("399 steps", records) == {"full": 0.88, "lora": 0.8}  # the best until then, not the last
    assert found("99s", records) == {"full": pytest.approx(0.71), "lora": None}  # nobody had looked yet
    assert found("1h", records) == {"full": 0.9, "lora": 0.8}
    assert found("5kJ", records) == {"full": pytest.approx(0.71), "lora": None}


def test_joules_that_nobody_counted_and_less_that_is_better():
    assert found("5kJ", [on_the_way("full", [700])]) == {"full": None}
    perplexity = judged("full", {"perplexity": 20.0}, data={"task": "language-modelling"})
    assert found("300 steps", [perplexity]) == {"full": 20.0}
    (board,) = leaderboards([perplexity])
    assert (board.budget, board.rows[0].within) == (None, None)
