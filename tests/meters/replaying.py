"""Replays a recorded session of a GPU: the sampler's readings -> a library that tells the same again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pynvml

from peprof.meters.nvml_errors import WORDS
from peprof.meters.reading import Reading
from peprof.meters.slowdowns import POLICIES
from tests.meters.fake_nvml import FakeNvml, FakeTime

FIGURE_OF = {
    "nvmlDeviceGetTotalEnergyConsumption": "energy_j",
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetFieldValues": "power_w",
    "nvmlDeviceGetCurrentClocksEventReasons": "clock_event_reasons",
    "nvmlDeviceGetViolationStatus": "violations_ns",
}
CODE_OF = {words: code for code, words in WORDS.items()}
START_J = 7000.0
"""What the counter tells when the recording begins, which keeps differences alone."""

LATER_S = 1e-6
"""A moment is asked for as a clock without rounding would tell it."""


def load_session(path: Path) -> tuple[Reading, ...]:
    """The readings of a file that ``benchmarks/gpu_check.py`` wrote."""
    return tuple(Reading.from_line(line) for line in path.read_text(encoding="utf-8").splitlines())


def replayed(session: Sequence[Reading], clock: FakeTime) -> FakeNvml:
    """A library that at each moment since now tells what the session's last look had told until then."""
    start_s = session[0].at_s

    def latest(figure: str, value: Callable[[Reading], Any]) -> Callable[[float], Any]:
        looks = [one for one in session if value(one) is not None or figure in one.missing]
        times = [one.at_s - start_s for one in looks]

        def at(t: float) -> Any:
            return looks[max(bisect_right(times, t + LATER_S) - 1, 0)]

        return at

    at_of = {
        figure: latest(figure, lambda one, name=figure: getattr(one, name)) for figure in FIGURE_OF.values()
    }
    kinds = {one.power_kind for one in session if one.power_w is not None}
    joules = _since_the_beginning(session)

    def faults(function: str, t: float) -> int | None:
        if function == "nvmlDeviceGetFieldValues" and "instant" not in kinds:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        figure = FIGURE_OF.get(function)
        why = at_of[figure](t).missing.get(figure) if figure is not None else None
        return None if why is None else CODE_OF.get(why, pynvml.NVML_ERROR_UNKNOWN)

    return FakeNvml(
        clock,
        energy_j=lambda t: START_J + joules[id(at_of["energy_j"](t))],
        power_w=lambda t: at_of["power_w"](t).power_w,
        period_s=LATER_S,  # the recording has the counter's own moves
        faults=faults,
        reasons=lambda t: at_of["clock_event_reasons"](t).clock_event_reasons,
        violation_ns=lambda policy, t: at_of["violations_ns"](t).violations_ns[POLICIES[policy]],
    )


def _since_the_beginning(session: Sequence[Reading]) -> dict[int, float]:
    """Reading's id -> what its counter says; where a life of it ends, it is set back to nothing."""
    told = {id(one): one.energy_j or 0.0 for one in session}
    lost_j = 0.0
    known = [one for one in session if one.energy_j is not None]
    for before, after in pairwise(known):
        if after.counter != before.counter:
            lost_j = START_J + (after.energy_j or 0.0)
        told[id(after)] = (after.energy_j or 0.0) - lost_j
    return told
