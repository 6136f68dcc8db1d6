"""What the short phase's samples say of steps: intervals, quantiles, steadiness, rounds, the other clocks."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from peprof.results.comparison import leaderboards
from peprof.results.figures import short_figures, step_rounds, throttled
from peprof.results.record import EnergyResult, ShortResult, TimedRound
from tests.results.factory import make_record, make_short


def in_rounds(*rounds_ms: list[float], **update: object) -> ShortResult:
    short = make_short(step_ms=[value for values in rounds_ms for value in values])
    rounds = tuple(
        TimedRound(steps=len(values), warmup_steps=5, steady=True, stopped_by="steps", started_at="")
        for values in rounds_ms
    )
    return short.model_copy(update={"rounds": rounds if len(rounds) > 1 else (), **update})


NOISY = [random.Random(1).gauss(100, 2) for _ in range(120)]


def test_quantiles_and_interval_of_one_pass() -> None:
    found = short_figures(in_rounds(NOISY))
    assert found is not None and found.step_interval is not None and found.step_p99_s is not None
    assert 1000 * found.step_p90_s == pytest.approx(np.quantile(NOISY, 0.9))
    assert 1000 * found.step_p99_s == pytest.approx(np.quantile(NOISY, 0.99))
    theirs = stats.quantile_test(NOISY, q=100.0, p=0.5).confidence_interval(0.95)
    assert [1000 * found.step_interval.low, 1000 * found.step_interval.high] == pytest.approx(
        [theirs.low, theirs.high]
    )
    assert found.rounds == 1 and not found.unsteady


def test_one_in_a_hundred_is_told_from_a_hundred_steps_on() -> None:
    told = [short_figures(in_rounds(NOISY[:count])) for count in (99, 100)]
    assert [one is not None and one.step_p99_s is not None for one in told] == [False, True]


def test_rounds_are_read_apart_and_make_the_interval() -> None:
    rounds = [[100.0, 101.0, 102.0], [110.0, 111.0, 112.0, 113.0], [105.0, 106.0, 107.0]]
    short = in_rounds(*rounds)
    assert [[1000 * value for value in one] for one in step_rounds(short)] == [
        pytest.approx(one) for one in rounds
    ]
    found = short_figures(short)
    assert found is not None and found.step_interval is not None and found.rounds == 3
    theirs = stats.t.interval(0.95, 2, loc=106.5, scale=stats.sem([101, 111.5, 106]))
    assert [1000 * found.step_interval.low, 1000 * found.step_interval.high] == pytest.approx(theirs)
    assert not found.unsteady, "rounds differ from each other; none of them is unsteady in itself"


def test_a_time_below_nothing_is_no_time() -> None:
    found = short_figures(in_rounds([10.0] * 3, [100.0] * 3))
    assert found is not None and found.step_interval is not None
    assert found.step_interval.low == 0.0


@pytest.mark.parametrize(
    ("rounds_ms", "drift", "unsteady"),
    [
        ([[100.0] * 30], 0.0, False),
        ([[100.0 + step / 10 for step in range(30)]], 0.02 / 1.0045, False),
        ([[100.0 + step for step in range(30)]], 0.2 / 1.045, True),
        ([[100.0] * 30, [100.0 - step for step in range(30)]], -0.2 / 0.955, True),
        ([[90.0, 100.0, 110.0] * 10], 0.0, True),  # no drift: quartiles 10 % and more apart
        ([[100.0] * 3], None, False),
    ],
)
def test_unsteady_is_what_drifts_or_spreads(
    rounds_ms: list[list[float]], drift: float | None, unsteady: bool
) -> None:
    found = short_figures(in_rounds(*rounds_ms))
    assert found is not None
    assert found.drift == (None if drift is None else pytest.approx(drift))
    assert found.unsteady is unsteady


def test_a_record_of_before_has_no_such_clocks() -> None:
    short = make_short()
    assert short.times is not None
    data = short.model_dump(mode="json")
    for name in ("host", "wall", "enqueue", "pass_s"):
        del data["times"][name]
    for name in ("rounds", "steady"):
        del data[name]
    found = short_figures(ShortResult.model_validate(data))
    assert found is not None and found.launch_bound is None and found.pass_step_s is None
    assert found.warmed_up is None and found.rounds == 1


@pytest.mark.parametrize(
    ("energy", "found"),
    [
        (None, None),
        (EnergyResult(steps=0, unavailable={"energy_j": "no counter"}), None),
        (EnergyResult(steps=9, seconds=5.0), None),
        (EnergyResult(steps=9, seconds=5.0, slowdowns={"idle": 0.9}), False),
        (EnergyResult(steps=9, seconds=5.0, slowdowns={"thermal": 0.04}), False),
        (EnergyResult(steps=9, seconds=5.0, slowdowns={"thermal": 0.06}), True),
        (EnergyResult(steps=9, seconds=5.0, slowdowns={}, violations_s={"power": 0.3}), True),
    ],
)
def test_throttled_is_what_the_sampler_saw_for_a_twentieth_of_the_time(
    energy: EnergyResult | None, found: bool | None
) -> None:
    assert throttled(make_short().model_copy(update={"energy": energy})) is found
    assert throttled(None) is None


def drifting(order: str, slowdown: float) -> dict[str, list[list[float]]]:
    """Milliseconds of three methods, measured one after the other in the given order on a machine that each
    pass finds slower than the one before: A takes 100, B 97, C 94."""
    truth = {"A": 100.0, "B": 97.0, "C": 94.0}
    rng = random.Random(11)
    found: dict[str, list[list[float]]] = {name: [] for name in truth}
    for place, name in enumerate(order):
        pace = truth[name] * (1 + slowdown * place)
        found[name].append([pace * rng.gauss(1, 0.004) for _ in range(30)])
    return found


def ranking(found: dict[str, list[list[float]]]) -> list[str]:
    board = leaderboards([make_record(name, short=in_rounds(*rounds)) for name, rounds in found.items()])[0]
    return [row.label for row in sorted(board.rows, key=lambda row: row.step.median if row.step else 0)]


def test_turns_keep_the_ranking_on_a_machine_that_drifts_where_one_after_the_other_turns_it_round() -> None:
    together = ("AAA", "BBB", "CCC")
    assert ranking(drifting("".join(together), 0.02)) == ["A", "B", "C"], "the slowest method looks fastest"
    assert ranking(drifting("ABC" * 3, 0.02)) == ["C", "B", "A"]
    assert ranking(drifting("".join(together), 0.0)) == ["C", "B", "A"], "without a drift both are right"


def test_the_interval_over_turns_says_that_the_machine_drifted() -> None:
    wide, narrow = (short_figures(in_rounds(*drifting("ABC" * 4, slow)["A"])) for slow in (0.01, 0.0))
    assert wide is not None and narrow is not None
    assert wide.step_interval is not None and narrow.step_interval is not None
    width = wide.step_interval.high - wide.step_interval.low
    assert width > 10 * (narrow.step_interval.high - narrow.step_interval.low)
    assert wide.step_interval.low < 0.1 < wide.step_interval.high, "what it takes on the machine at its best"
