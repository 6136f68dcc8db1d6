"""Trackers by name: TensorBoard's, and those that other distributions bring. None is imported to be known."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

from peprof.errors import UsageError
from peprof.tracking.base import OpenTracker

GROUP = "peprof.trackers"
TENSORBOARD = "tensorboard"

_OURS = EntryPoint(name=TENSORBOARD, value="peprof.tracking.tensorboard:TensorBoard", group=GROUP)


def known_trackers() -> dict[str, tuple[EntryPoint, ...]]:
    """Where the trackers of each name are; more than one can't be told apart."""
    found: dict[str, tuple[EntryPoint, ...]] = {TENSORBOARD: (_OURS,)}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.value not in {other.value for other in found.get(entry.name, ())}:
            found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once, in their order.

    Raises:
        UsageError: there is no such tracker, or there are two.
    """
    known = known_trackers()
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UsageError(
                f"there is no tracker '{name}'; there are: {', '.join(known)}",
                hint=f"Did you mean '{near[0]}'?"
                if near
                else f"Install the distribution that brings it in the entry-point group '{GROUP}'.",
            )
        if len(known[name]) > 1:
            places = ", ".join(entry.value for entry in known[name])
            raise UsageError(
                f"{len(known[name])} trackers are called '{name}': {places}",
                hint="Uninstall all but one of the distributions that bring them.",
            )
    return tuple(dict.fromkeys(names))


def load_tracker(name: str) -> OpenTracker:
    """Imports what opens a tracker of a name that was checked.

    Raises:
        UsageError: it isn't there (any more).
        ImportError: its module can't be imported, or lacks it; whatever else importing it raises.
    """
    check_trackers([name])
    loaded: OpenTracker = known_trackers()[name][0].load()
    return loaded
