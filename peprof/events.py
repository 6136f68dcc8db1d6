"""What a run says on its way, from the child that does the work to whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A sign of life.

    Args:
        phase: what is being done: ``setup``, ``short: warm-up``, ``short: timing``, ``full: training`` ...
        step: steps done in this phase.
        total: steps of this phase, if known.
        loss: the latest known training loss.
        seconds_left: of this phase, if it can be told.
        run_id: of the run it comes from; ``None`` while runs are being prepared.
        note: what is to be said once and stay to be read.
    """

    phase: str
    step: int = 0
    total: int | None = None
    loss: float | None = None
    seconds_left: float | None = None
    run_id: str | None = None
    note: str | None = None
