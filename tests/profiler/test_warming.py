"""When warming up ends: the rule on made sequences, and the loop that follows it."""

from __future__ import annotations

import itertools

import pytest
import torch

from peprof.devices import CpuDevice, Mark
from peprof.profiler.warming import is_steady, warm_up


@pytest.mark.parametrize(
    ("seconds", "steady"),
    [
        ([], None),
        ([1.0] * 5, None),
        ([1.0] * 6, True),
        ([9.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([9.0, 3.0, 1.0, 1.0, 1.0, 1.0], False),  # the middle of 9, 3 and 1 is 3
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 7.0], True),  # something else on the machine: neither median moves
        ([1.0, 7.0, 1.0, 1.0, 7.0, 1.0], True),
        ([1.03, 1.02, 1.01, 1.0, 0.99, 0.98], True),
        ([1.15, 1.1, 1.05, 1.0, 0.95, 0.9], False),  # each like its neighbour, and still falling
        ([1.0, 1.0, 1.0, 1.1, 1.1, 1.1], False),  # it may as well become slower
        ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], False),
        ([1.0, 1.0, 1.0, 1.049, 1.049, 1.049], True),  # within 5 %
        ([1.0, 1.0, 1.0, 1.051, 1.051, 1.051], False),
    ],
)
def test_the_rule(seconds: list[float], steady: bool | None) -> None:
    assert is_steady(seconds) is steady


class Clock:
    """Stands in for ``time``: each step moves it by what the script says, and then by its last word."""

    def __init__(self, *script: float) -> None:
        self.now = 0.0
        self.script = itertools.chain(script, itertools.repeat(script[-1]))

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, batch: object, mark: Mark) -> None:
        self.now += next(self.script)

    def resident_tensors(self) -> list[torch.Tensor]:
        return []


@pytest.fixture
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(*request.param)
    monkeypatch.setattr("peprof.profiler.warming.time", made)
    return made


FALLING = [2.0**-n for n in range(40)]


@pytest.mark.parametrize(
    ("clock", "steps", "extra", "limit_s", "found"),
    [
        ([5.0, 1.0], 3, 25, 1e9, (6, True)),  # seen as soon as there are enough to tell
        ([5.0, 3.0, 2.0, 1.0], 3, 25, 1e9, (8, True)),  # until only one of the group before is slow
        ([1.0], 10, 25, 1e9, (10, True)),  # never fewer than asked for
        ([1.0], 2, 0, 1e9, (2, None)),  # nobody waits for it
        (FALLING, 3, 4, 1e9, (7, False)),  # the count bounds it
        (FALLING, 3, 25, 1.8, (4, None)),  # 1 + 1/2 + 1/4 + 1/8 is over it
        ([9.0], 5, 25, 1.0, (1, None)),  # one there is in any case
    ],
    indirect=["clock"],
)
def test_it_ends_when_steps_are_steady_or_a_bound_is_reached(
    clock: Clock, steps: int, extra: int, limit_s: float, found: tuple[int, bool | None]
) -> None:
    heard: list[tuple[int, int]] = []
    warmed = warm_up(
        clock,
        ["a"],
        CpuDevice(),
        steps=steps,
        extra_steps=extra,
        out_of_time=lambda: clock.now > limit_s,
        on_step=lambda done, total: heard.append((done, total)),
    )
    assert (warmed.steps, warmed.steady) == found
    assert heard[0] == (0, steps) and [done for done, _ in heard] == list(range(warmed.steps + 1))
    assert all(total == max(steps, done) for done, total in heard)
