"""Recorded sessions through library, source, sampler's loop and window: what they say must be said again.

Sessions that a GPU has left (``nvml-session.jsonl`` of ``benchmarks/gpu_check.py``) lie in ``sessions/``,
those of the stand-in are recorded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peprof.meters.reading import Reading
from peprof.meters.sampler import Trace
from peprof.meters.window import Window, look_at
from tests.meters.fake_nvml import FakeNvml, FakeTime
from tests.meters.playing import follow
from tests.meters.replaying import load_session, replayed

SESSIONS = sorted((Path(__file__).parent / "sessions").glob("*.jsonl"))


def uneven_moves(t: float) -> float:
    """Moments of a counter that moves after 0.08 and 0.12 s in turn."""
    whole, rest = divmod(t + 1e-9, 0.2)
    return whole * 0.2 + (0.08 if rest >= 0.08 else 0.0)


def uneven(t: float) -> float:
    return 5000.0 + 200.0 * uneven_moves(t)


def going_round(t: float) -> float:
    return (2**32 / 1e3 - 500.0 + 200.0 * uneven_moves(t)) % (2**32 / 1e3)


PLAYED: dict[str, dict[str, Any]] = {
    "even": {},
    "uneven": {"energy_j": uneven, "period_s": 1e-3},
    "round": {"energy_j": going_round, "period_s": 1e-3},
    "set back": {"energy_j": lambda t: 5000.0 + 200.0 * t if t < 4.0 else 200.0 * (t - 4.0)},
    "rising": {"energy_j": lambda t: 5000.0 + 100.0 * t + 10.0 * t * t, "power_w": lambda t: 100 + 20 * t},
    "no counter": {"faults": lambda function, t: 3 if "TotalEnergy" in function else None},
    "usage alone": {"faults": lambda function, t: 3 if "FieldValues" in function else None},
    "no power": {"faults": lambda function, t: 4 if "Power" in function or "Field" in function else None},
    "silent for a while": {
        "faults": lambda function, t: 10 if "TotalEnergy" in function and 3 < t < 4 else None
    },
    "slowed down": {
        "reasons": lambda t: 0x24 if t > 3 else 1,
        "violation_ns": lambda policy, t: round(t * 1e8) if policy == 1 else 0,
    },
}


def recorded(name: str, seconds: float = 8.0) -> tuple[Reading, ...]:
    clock = FakeTime()
    readings = follow(FakeNvml(clock, **PLAYED[name]), clock, seconds).readings
    return tuple(Reading.from_line(one.as_line()) for one in readings)


def window(readings: tuple[Reading, ...], begin_s: float, seconds: float) -> Window:
    start_s = readings[0].at_s + begin_s
    return look_at(Trace(readings=readings), start_s, start_s + seconds)


def again(session: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """What the sampler sees of a library that replays a session."""
    clock = FakeTime()
    return follow(replayed(session, clock), clock, session[-1].at_s - session[0].at_s).readings


def same(one: float | None, other: float | None, *, within: float) -> bool:
    return (one is None) == (other is None) and (one or 0.0) == pytest.approx(other or 0.0, rel=within)


@pytest.mark.parametrize("name", PLAYED)
def test_a_session_says_the_same_again(name: str) -> None:
    session = recorded(name)
    for begin_s, seconds in ((1.0, 6.0), (4.5, 2.5)):
        first, second = window(session, begin_s, seconds), window(again(session), begin_s, seconds)
        for figure in ("energy_j", "integrated_j", "counter_period_s", "integrated_to_counted"):
            # The counter's millijoules are rounded once more, and moves are seen at the looks' moments.
            assert same(getattr(first, figure), getattr(second, figure), within=0.005), figure
        assert (first.power_kind, first.reasons, first.violations_s) == (
            second.power_kind,
            second.reasons,
            second.violations_s,
        )
        for figure in ("energy_j", "integrated_j"):
            assert first.unavailable.get(figure) == second.unavailable.get(figure)


def test_a_counters_period_is_found_where_it_is_uneven() -> None:
    seen = window(recorded("uneven"), 1.0, 6.0)
    assert seen.counter_period_s == pytest.approx(0.1, abs=0.0201)  # of 0.08 and 0.12
    # Straight lines between moves are right where power is even, whenever the counter moves.
    assert seen.energy_j == pytest.approx(200.0 * 6.0, abs=0.02 * 200)


def test_a_counter_that_goes_round_in_a_session() -> None:
    seen = window(recorded("round"), 1.0, 6.0)  # after 2.5 s
    assert seen.energy_j == pytest.approx(200.0 * 6.0, abs=0.02 * 200)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_session_of_a_gpu(path: Path) -> None:
    session = load_session(path)
    seconds = session[-1].at_s - session[0].at_s
    first, second = (window(of, 1.0, seconds - 2.0) for of in (session, again(session)))
    for figure in ("energy_j", "integrated_j"):
        assert same(getattr(first, figure), getattr(second, figure), within=0.01), figure
    assert first.counter_period_s is None or 0.005 < first.counter_period_s < 0.5
