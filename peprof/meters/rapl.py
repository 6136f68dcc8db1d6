"""Joules of a machine's processors, where Linux lets them be read (RAPL, ``/sys/class/powercap``).

Whole packages are counted, cores and what else is on the chip, without memory modules. See the kernel's
Documentation/power/powercap/powercap.rst. Its files are readable by administrators alone since 2020
(CVE-2020-8694), unless somebody has changed that.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peprof.meters.joules import JoulesCounter
from peprof.meters.reading import Reading

ROOT = Path("/sys/class/powercap")
_ZONE = re.compile(r"intel-rapl(-mmio)?:\d+$")  # of AMD's processors too; parts of a package have ':0:0'
MOST_WATTS = 1_000.0
"""More than one processor package takes."""

NEEDS_PERMISSION = (
    "reading the processor's counter of joules needs permission: as administrator, 'chmod a+r {}' gives it"
)


@dataclass(frozen=True, kw_only=True)
class Package:
    """One processor package, or one die where a package has several.

    Args:
        name: as the kernel names it: ``package-0``.
        counter: the file that counts microjoules.
        range_j: where it goes round.
    """

    name: str
    counter: Path
    range_j: float


class RaplUnavailableError(Exception):
    """The joules of this machine's processors can't be read; its message says why."""


def find_packages(root: Path = ROOT) -> tuple[Package, ...]:
    """All packages of the machine, each once.

    The same package can be told of twice, by two ways into the chip; ``psys`` is the whole machine, packages
    included: neither is counted again.

    Raises:
        RaplUnavailableError: there are none.
    """
    found: dict[str, Package] = {}
    for zone in sorted(root.glob("intel-rapl*")):  # without '-mmio' comes after, ':' lies behind '-'
        if not _ZONE.match(zone.name):
            continue
        try:
            name = (zone / "name").read_text().strip()
            range_j = int((zone / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue  # a zone that says not even what it is
        if name.startswith("package"):
            found[name] = Package(name=name, counter=zone / "energy_uj", range_j=range_j)
    if not found:
        raise RaplUnavailableError(
            f"this machine's processors have no counter of joules ({root}/intel-rapl*)"
        )
    return tuple(found.values())


class RaplCounter:
    """Joules of all packages since the first look.

    Raises:
        RaplUnavailableError: there is no package, or its counter can't be read.
    """

    def __init__(self, root: Path = ROOT, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._packages = [
            (package, JoulesCounter((package.range_j,), most_watts=MOST_WATTS, goes_round=True))
            for package in find_packages(root)
        ]
        self.look()

    def look(self) -> float:
        """Reads all counters: joules since the first look, all packages together.

        Raises:
            RaplUnavailableError: one can't be read.
        """
        with self._lock:
            for package, counter in self._packages:
                counter.look(_microjoules(package.counter) / 1e6, self._clock())
            return sum(counter.total_j for _, counter in self._packages)

    @property
    def life(self) -> int:
        """Another number than before: a counter was set back, or may have gone round unseen."""
        return sum(counter.life for _, counter in self._packages)

    @property
    def longest_wait_s(self) -> float:
        """Seconds between two looks from which on a counter may have gone round unseen."""
        return min(counter.longest_wait_s or 0.0 for _, counter in self._packages)

    def keep_looking(self) -> None:
        """From now on a thread looks so often that no round is missed: a read every half minute or so.

        It ends by itself when nobody holds the counter any more.
        """
        period_s = self.longest_wait_s / 3
        counter = weakref.ref(self)

        def look_again() -> None:
            while True:
                time.sleep(period_s)
                found = counter()
                if found is None:
                    return
                try:
                    found.look()
                except RaplUnavailableError:
                    return  # whoever looks next is told so
                del found

        threading.Thread(target=look_again, name="peprof-rapl", daemon=True).start()


def _microjoules(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise RaplUnavailableError(NEEDS_PERMISSION.format(path)) from None
    except (OSError, ValueError) as error:
        raise RaplUnavailableError(f"{path} can't be read: {error}") from None


def why_unreadable(root: Path = ROOT) -> str | None:
    """Why the processors' joules can't be read; ``None`` where they can."""
    try:
        RaplCounter(root)
    except RaplUnavailableError as error:
        return str(error)
    return None


class RaplSource:
    """Readings of the processors' joules; they tell nothing else.

    Args:
        root: where the kernel shows them.
        clock: seconds.
    """

    def __init__(self, root: Path = ROOT, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._root, self._clock = root, clock
        self._counter: RaplCounter | None = None

    def read(self, *, everything: bool) -> Reading:
        """What the counters tell now."""
        missing = dict.fromkeys(_NOT_TOLD, "processors' counters tell joules alone") if everything else {}
        try:
            if self._counter is None:
                self._counter = RaplCounter(self._root, clock=self._clock)
            energy_j = self._counter.look()
        except RaplUnavailableError as error:
            return Reading(at_s=self._clock(), missing={**missing, "energy_j": str(error)})
        return Reading(at_s=self._clock(), counter=self._counter.life, energy_j=energy_j, missing=missing)

    def close(self) -> None:
        """Nothing is held."""


_NOT_TOLD = (
    "power_w", "memory_used_bytes", "process_bytes", "gpu_busy", "memory_busy", "sm_clock_mhz",
    "memory_clock_mhz", "temperature_c", "clock_event_reasons", "violations_ns",
)  # fmt: skip
