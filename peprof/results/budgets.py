"""How good methods had become when so much had been spent on their training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from peprof.errors import UsageError
from peprof.results.progress_curves import Axis, Curve, best_within

_UNITS: dict[str, tuple[Axis, float]] = {
    "s": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "steps": ("steps", 1.0),
    "J": ("joules", 1.0),
    "kJ": ("joules", 1000.0),
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent on a training.

    Args:
        axis: seconds or joules of training steps, or their number.
        amount: of these.
        words: as it was given: ``60 s``.
    """

    axis: Axis
    amount: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Within:
    """What the seeds of a row reached within a budget.

    Args:
        budget: that they had.
        value: mean over the seeds of the best evaluation of each; ``None`` where one had none by then, or
            what was spent isn't known.
    """

    budget: Budget
    value: float | None


def parse_budget(text: str) -> Budget:
    """An amount with its unit.

    Raises:
        UsageError: it isn't one.

    Example:
        >>> parse_budget("1.5min")
        Budget(axis='seconds', amount=90.0, words='1.5 min')
    """
    found = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([a-z]+)\s*", text, re.IGNORECASE)
    units = {name.lower(): name for name in _UNITS} | {"step": "steps"}
    unit = units.get(found[2].lower()) if found else None
    amount = float(found[1]) if found else 0.0
    if unit is None or not 0 < amount < math.inf:
        raise UsageError(
            f"'{text}' is no amount of training",
            hint=f"Give a number above 0 and its unit, one of {', '.join(_UNITS)}: 60s, 500steps, 2kJ.",
        )
    axis, size = _UNITS[unit]
    return Budget(axis=axis, amount=amount * size, words=f"{amount:,g} {unit}")


def within(curves: Sequence[Curve], budget: Budget) -> Within | None:
    """What seeds reached within a budget; ``None`` for no seed."""
    if not curves:
        return None
    best = [best_within(curve, budget.axis, budget.amount) for curve in curves]
    known = [value for value in best if value is not None]
    value = math.fsum(known) / len(known) if len(known) == len(best) else None
    return Within(budget=budget, value=value)
