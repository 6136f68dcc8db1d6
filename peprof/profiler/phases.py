"""Where the phases of a step begin: as it says itself, or as can be found out."""

from __future__ import annotations

OUTSIDE_PHASE = "other"
"""The phase of what belongs to none of forward, backward, clip and optimizer."""


class Phases:
    """Follows the phases of a step along the event log.

    Args:
        events: the log's events, of which only the number is looked at.
    """

    def __init__(self, events: list[int]) -> None:
        self.marked_edges: list[tuple[int, str]] = []
        self.found_edges: list[tuple[int, str]] = []
        self.backward_starts: list[int] = []
        self.in_backward = False
        self._events = events
        self._phase = "forward"
        self._optimizers_running = 0

    @property
    def between(self) -> bool:
        """Whether neither forward, nor backward, nor an optimizer, nor clipping is known to run."""
        return not self.in_backward and self._phase == OUTSIDE_PHASE

    @property
    def now(self) -> str:
        """The phase that runs: as marked, or where nothing was marked yet, as found."""
        return self.marked_edges[-1][1] if self.marked_edges else self._phase

    def mark(self, phase: str | None) -> None:
        """The step says: ``phase`` begins; ``None``: the step ends. Overrules what is found."""
        self.marked_edges.append((len(self._events), phase or OUTSIDE_PHASE))

    def enter(self, phase: str) -> None:
        """Something happens that only this phase has."""
        if phase != self._phase:
            self._phase = phase
            self.found_edges.append((len(self._events), phase))

    def enter_forward(self) -> None:
        """A module runs, and no backward."""
        self.in_backward = False
        self.enter("forward")

    def enter_backward(self) -> None:
        """Autograd runs."""
        self.in_backward = True
        self.backward_starts.append(len(self._events))
        self.enter("backward")

    def leave_backward(self) -> None:
        """An operator runs that autograd hasn't called."""
        self.in_backward = False
        self.enter("optimizer" if self._optimizers_running else OUTSIDE_PHASE)

    def enter_optimizer(self) -> None:
        """An optimizer's step begins; it may run forward and backward inside."""
        self.in_backward = False
        self._optimizers_running += 1
        self.enter("optimizer")

    def leave_optimizer(self) -> None:
        """An optimizer's step ends."""
        self._optimizers_running -= 1
        self.enter(OUTSIDE_PHASE)
