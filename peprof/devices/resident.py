"""The highest resident memory of this process over a long time, as the system sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from peprof.devices.base import PeakBytes

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"  # proc(5): sets VmHWM to the present resident size


def resident_bytes() -> int:
    """Bytes of this process in memory, shared libraries included."""
    return int(psutil.Process().memory_info().rss)


def available_bytes() -> int:
    """Bytes that this process may have: the machine's, or fewer where ``ulimit`` says so (-v, -d)."""
    there = int(psutil.virtual_memory().total)
    try:
        import resource
    except ImportError:  # not on Windows
        return there
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min([there, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def high_water_bytes() -> int | None:
    """The highest resident size of this process so far.

    ``None`` where the system doesn't keep one that is known here (Linux: ``VmHWM``; Windows: the peak working
    set; macOS has only one that nobody can set back, ``ru_maxrss``, in bytes).
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is not None:
        return int(peak)
    try:
        import resource
    except ImportError:
        return None
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def reset_high_water() -> None:
    """Lets the high water start anew from the present size, where the system can do that (Linux)."""
    try:
        _CLEAR.write_text(_RESET_HIGH_WATER)
    except OSError:
        return  # no such file, or not writable: the high water of before stays, and is recognised as such


class ResidentPeakMeter:
    """The process's highest resident size since the meter was made.

    The system's own high water counts if it was reached since then: on Linux always, since it is set back at
    the beginning. Elsewhere a higher one of before hides what follows; then it is the highest of the values
    that were looked at, which lie between steps, so that the peak within a step may be missed.
    """

    def __init__(
        self,
        *,
        resident: Callable[[], int] = resident_bytes,
        high_water: Callable[[], int | None] = high_water_bytes,
        reset: Callable[[], None] = reset_high_water,
    ) -> None:
        self._resident, self._high_water = resident, high_water
        reset()
        self._before = high_water()
        self._start_bytes = self._highest = resident()

    def look(self) -> None:
        """Notes the present size."""
        self._highest = max(self._highest, self._resident())

    def result(self) -> PeakBytes:
        """The highest value until now."""
        self.look()
        now = self._high_water()
        if now is not None and self._before is not None and now > self._before:
            self._highest = max(self._highest, now)
        return PeakBytes(source="process_rss", start_bytes=self._start_bytes, peak_bytes=self._highest)
