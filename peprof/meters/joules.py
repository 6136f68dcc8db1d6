"""Joules from counters that go round, or are set back to nothing."""

from __future__ import annotations

_SLACK_J = 1_000.0
"""A counter's steps may lie apart, so that a short time shows more than what was taken in it."""


class JoulesCounter:
    """What a counter has counted since the first look, whatever it does meanwhile.

    A value below the one before is a counter that went round, if then it has counted what the time between
    the looks allows; otherwise it was set back, and counts in a new life.

    Args:
        ranges_j: values at which it may go round.
        most_watts: more than what is counted can take: a difference that asks for more is none.
        goes_round: it is known to do so, so that after a look that comes too late nobody can tell how often
            it has: that too begins a new life.
    """

    def __init__(
        self, ranges_j: tuple[float, ...] = (), *, most_watts: float, goes_round: bool = False
    ) -> None:
        self._ranges_j = ranges_j
        self._most_watts = most_watts
        self._goes_round = goes_round
        self._slack_j = min([_SLACK_J, *(range_j / 100 for range_j in ranges_j)])
        self._last: tuple[float, float] | None = None
        self.total_j = 0.0
        self.life = 0

    @property
    def longest_wait_s(self) -> float | None:
        """Seconds between looks from which on rounds may be missed; ``None`` where it has none."""
        return (min(self._ranges_j) - self._slack_j) / self._most_watts if self._goes_round else None

    def look(self, value_j: float, at_s: float) -> None:
        """Takes the counter's value.

        Args:
            value_j: as it stands.
            at_s: when.
        """
        if self._last is not None:
            gained_j = self._gained(value_j, at_s, *self._last)
            if gained_j is None:
                self.life += 1
            else:
                self.total_j += gained_j
        self._last = value_j, at_s

    def forget(self) -> None:
        """Begins a new life with the next look: what lies between isn't known."""
        if self._last is not None:
            self._last = None
            self.life += 1

    def _gained(self, value_j: float, at_s: float, before_j: float, before_s: float) -> float | None:
        possible_j = self._most_watts * (at_s - before_s) + self._slack_j
        if self._goes_round and possible_j >= min(self._ranges_j):
            return None
        if value_j >= before_j:
            return value_j - before_j
        rounds = (value_j - before_j + range_j for range_j in self._ranges_j)
        return next((gained for gained in rounds if 0 <= gained <= possible_j), None)
