"""The event log of the ledger: when each storage came to be and was freed, and what follows from that."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of the log that belongs to one phase: the events ``first`` to ``last - 1``."""

    phase: str
    first: int
    last: int


@dataclass(kw_only=True)
class EventLog:
    """Births and deaths of storages in the order in which they happened.

    Storages are numbered in the order in which they were met. An event is a storage's number ``i`` at its
    birth and ``~i`` (negative) at its death, so that the hot path appends one integer and nothing else. A
    *moment* ``p`` is the state after the first ``p`` events; moment 0 is the state before the step.

    Args:
        sizes: bytes by storage number.
        resident: numbers of the storages that were there before the step.
        events: births and deaths.
    """

    sizes: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    @property
    def start_bytes(self) -> int:
        """Live bytes before the step."""
        return sum(self.sizes[number] for number in self.resident)

    def levels(self) -> list[int]:
        """Live bytes at each moment, from 0 to the number of events."""
        sizes = self.sizes
        level = self.start_bytes
        levels = [level]
        for event in self.events:
            level += sizes[event] if event >= 0 else -sizes[~event]
            levels.append(level)
        return levels

    def live_at(self, moment: int) -> set[int]:
        """Numbers of the storages that are alive at a moment."""
        live = set(self.resident)
        for event in self.events[:moment]:
            if event >= 0:
                live.add(event)
            else:
                live.discard(~event)
        return live

    def changes(self) -> Iterator[tuple[int, int]]:
        """(storage number, bytes added; negative at a death) of each event."""
        for event in self.events:
            yield (event, self.sizes[event]) if event >= 0 else (~event, -self.sizes[~event])

    def births_and_deaths(self) -> tuple[dict[int, int], dict[int, int]]:
        """Index of each storage's birth event, and of its death event, by number; those that have one."""
        births: dict[int, int] = {}
        deaths: dict[int, int] = {}
        for position, event in enumerate(self.events):
            if event >= 0:
                births[event] = position
            else:
                deaths[~event] = position
        return births, deaths


def spans_of(edges: Sequence[tuple[int, str]], length: int, *, before: str) -> tuple[Span, ...]:
    """Edges of phases -> stretches that cover the whole log.

    Args:
        edges: (number of events before the edge, the phase that starts there), in order.
        length: events of the log.
        before: the phase of what comes before the first edge.
    """
    starts = [(0, before), *edges]
    spans = []
    for index, (first, phase) in enumerate(starts):
        last = starts[index + 1][0] if index + 1 < len(starts) else length
        spans.append(Span(phase=phase, first=first, last=last))
    return tuple(spans)


class PhaseIndex:
    """Finds the phase of an event by its position in the log."""

    def __init__(self, spans: Iterable[Span]) -> None:
        kept = [span for span in spans if span.last > span.first]
        self._firsts = [span.first for span in kept]
        self._phases = [span.phase for span in kept]

    def phase_of(self, position: int) -> str:
        """The phase in which the event at ``position`` happened."""
        return self._phases[bisect_right(self._firsts, position) - 1]


def highest(levels: Sequence[int], first: int, last: int) -> int:
    """The earliest moment between two (both included) at which most bytes are live."""
    return max(range(first, last + 1), key=lambda moment: (levels[moment], -moment))
