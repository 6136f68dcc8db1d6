"""What a full phase's seconds were spent on."""

from __future__ import annotations

from dataclasses import dataclass

from peprof.results.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """Wall seconds of a full phase by what they were spent on; the parts add up to ``wall_s``.

    Args:
        wall_s: from the first batch to the end.
        steps_s: training steps.
        waiting_s: waiting for batches. A device may be at work on earlier steps meanwhile: such seconds are
            the steps' and not counted here.
        evaluation_s: evaluations.
        checkpoint_s: keeping checkpoints.
        other_s: the rest: reading losses, telling who watches, copying the best weights.
        setup_s: before the first phase, so no part of ``wall_s``: loading data and model; ``None`` where it
            isn't known.
    """

    wall_s: float
    steps_s: float
    waiting_s: float
    evaluation_s: float
    checkpoint_s: float
    other_s: float
    setup_s: float | None

    @property
    def steps_share(self) -> float:
        """Share of the wall time that is training steps."""
        return self.steps_s / self.wall_s

    @property
    def steps_share_of_training(self) -> float:
        """The same without evaluations: how much of training is training."""
        # Clocks may differ by a hair: the steps' may be a device's.
        return self.steps_s / max(self.wall_s - self.evaluation_s, self.steps_s)


def time_spent(record: RunRecord) -> TimeSpent | None:
    """What the full phase's seconds were spent on.

    Returns:
        ``None`` where there was no full phase, or its wall time wasn't kept, as before format 3.
    """
    full = record.full
    if full is None or not full.wall_time_s:
        return None
    evaluation = full.evaluation_time_s
    checkpoint = full.checkpoint_time_s or 0.0
    left = max(0.0, full.wall_time_s - full.train_time_s - evaluation - checkpoint)
    waiting = min(full.waiting_time_s or 0.0, left)
    return TimeSpent(
        wall_s=full.wall_time_s,
        steps_s=full.train_time_s,
        waiting_s=waiting,
        evaluation_s=evaluation,
        checkpoint_s=checkpoint,
        other_s=left - waiting,
        setup_s=record.setup_time_s,
    )
