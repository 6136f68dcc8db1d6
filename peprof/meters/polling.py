"""Polls a source at a period until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from peprof.meters.reading import Reading, Source

SETTLE_S = 0.5
"""How long the counter is given to move, at the beginning and after the end: the slowest that were seen need
0.1 s."""


def poll(
    source: Source,
    take: Callable[[Reading], None],
    wait: Callable[[float], bool],
    ready: Callable[[], None] = lambda: None,
    *,
    period_s: float,
    everything_s: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Reads again and again; afterwards, until the counter has moved once more.

    A counter is only known where it moves: what it says in between is old. So a window must lie between two
    moves, one before it and one after it.

    Args:
        source: what is read.
        take: given each reading.
        wait: waits for so many seconds; true if it is to stop.
        ready: called once, when the counter has moved, or doesn't in time.
        period_s: from one look at energy and power to the next; looks that come too late are left out.
        everything_s: the same for all other figures.
        clock: seconds.
        sleep: lets seconds pass, whether it is to stop or not.
    """
    begin_s = due_s = clock()
    everything_due_s = begin_s
    first_j: float | None = None
    is_ready = False
    while True:
        everything = clock() >= everything_due_s
        if everything:
            everything_due_s = clock() + everything_s
        reading = source.read(everything=everything)
        take(reading)
        first_j = reading.energy_j if first_j is None else first_j
        if not is_ready:
            is_ready = reading.energy_j != first_j or clock() - begin_s >= SETTLE_S
            is_ready = is_ready or "energy_j" in reading.missing
            if is_ready:
                ready()
        due_s = max(due_s + period_s, clock())
        if wait(due_s - clock()):
            break
    _read_on(source, take, sleep, period_s=period_s, clock=clock)


def _read_on(
    source: Source,
    take: Callable[[Reading], None],
    sleep: Callable[[float], object],
    *,
    period_s: float,
    clock: Callable[[], float],
) -> None:
    reading = source.read(everything=True)
    take(reading)
    last_j, end_s = reading.energy_j, clock() + SETTLE_S
    while reading.energy_j is not None and reading.energy_j == last_j and clock() < end_s:
        sleep(period_s)
        reading = source.read(everything=False)
        take(reading)
