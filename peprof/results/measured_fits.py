"""What fits into a device's memory as measured: sizes that were tried on it, and the border between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peprof.results.estimates import Fit, is_models_end
from peprof.suite.planning import RunSpec

Ended = Literal["fits", "over", "oom", "killed", "failed", "died", "timeout"]
"""How a try ended: it fits; it ran, but needs more than there may be; memory ran out; the system killed it,
as it does for want of memory; and what says nothing of memory: an error, another death, no time left."""

Limit = Literal["asked", "free"]
"""Where the memory that there may be comes from: somebody said it, or it is what was free on the device."""

TOO_LARGE: frozenset[Ended] = frozenset({"over", "oom", "killed"})


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Training steps of one size in a process of their own.

    Args:
        size: that was tried.
        ended: how it ended.
        seconds: of the process.
        peak_bytes: in use at the step's highest moment; ``None`` where it didn't come to its end.
        reserved_bytes: held by the pool then; ``None`` where there is no pool, or as before.
        unowned_bytes: on the device beside the pool: context, libraries; ``None`` where that can't be known.
        alloc_retries: times that the pool was emptied to find room; ``None`` where there is no pool.
        phase: what it was doing when it didn't come to its end.
        message: why it didn't.
    """

    size: int
    ended: Ended
    seconds: float
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    unowned_bytes: int | None = None
    alloc_retries: int | None = None
    phase: str | None = None
    message: str | None = None

    @property
    def need_bytes(self) -> int | None:
        """What must fit: what the pool held, else what tensors did; ``None`` where it isn't known."""
        return self.reserved_bytes if self.reserved_bytes is not None else self.peak_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the size does; ``None`` where the try says nothing of it."""
        if self.ended == "fits":
            return True
        return False if self.ended in TOO_LARGE else None


@dataclass(frozen=True, kw_only=True)
class MeasuredFit:
    """The largest batch or length of a run that fits into a device's memory, as far as it was found.

    Args:
        spec: the run, as it was asked for.
        dimension: what was looked for: ``batch`` or ``length``.
        device: ``cpu`` or ``cuda:N``.
        device_name: what it is.
        memory_bytes: that there may be: for tensors on a CPU, for the pool on a GPU.
        limit: where that comes from.
        assumptions: of estimates, in words.
        smallest, cap, unit: first and last size, and what is between two.
        trials: in order; empty where it wasn't begun.
        estimated: what was estimated beforehand; ``None`` where it wasn't begun.
        there: the estimate of what was found by measuring: with its own ``largest`` and ``beyond``; ``None``
            where that isn't found or can't be estimated.
    """

    spec: RunSpec
    dimension: str
    device: str
    device_name: str
    memory_bytes: int
    limit: Limit = "asked"
    assumptions: tuple[str, ...] = ()
    smallest: int = 1
    cap: int | None = None
    unit: int = 1
    trials: tuple[Trial, ...] = ()
    estimated: Fit | None = None
    there: Fit | None = None

    @property
    def border(self) -> Trial | None:
        """The largest that fits; ``None`` where none is known to."""
        return max((trial for trial in self.trials if trial.fits), key=lambda trial: trial.size, default=None)

    @property
    def beyond(self) -> Trial | None:
        """The smallest that doesn't fit; ``None`` where all that were tried do."""
        return min(
            (trial for trial in self.trials if trial.fits is False),
            key=lambda trial: trial.size,
            default=None,
        )

    @property
    def largest(self) -> int | None:
        """The size of ``border``."""
        return self.border.size if self.border is not None else None

    @property
    def at_cap(self) -> bool:
        """Whether it isn't the memory that is the limit."""
        return self.largest is not None and self.largest == self.cap

    @property
    def at_models_end(self) -> bool:
        """Whether the model has no positions for more."""
        return self.at_cap and is_models_end(self.dimension, self.cap)

    @property
    def verified(self) -> bool:
        """Whether both sides of the border were tried."""
        if self.largest is None:
            return self.beyond is not None and self.beyond.size == self.smallest
        return self.at_cap or (self.beyond is not None and self.beyond.size == self.largest + self.unit)

    @property
    def unanswered(self) -> Trial | None:
        """The try that says nothing of memory, and ended the search; ``None`` where there was none."""
        return next((trial for trial in self.trials if trial.fits is None), None)

    @property
    def bound_by(self) -> str | None:
        """What takes most where it doesn't fit any more, by the estimate there; ``None`` if unknown."""
        return self.there.bound_by if self.there is not None else None

    @property
    def estimated_bytes(self) -> int | None:
        """What the border's step should need by its estimate; ``None`` where that isn't known."""
        return self.there.need_bytes if self.there is not None and self.largest is not None else None

    @property
    def estimate_error(self) -> float | None:
        """By how much the estimate is off at the border, of what was measured; like is held to like."""
        if self.border is None or self.there is None or self.estimated_bytes is None:
            return None
        simulated = self.there.estimate.reserved_bytes is not None
        measured = self.border.reserved_bytes if simulated else self.border.peak_bytes
        return self.estimated_bytes / measured - 1 if measured else None
