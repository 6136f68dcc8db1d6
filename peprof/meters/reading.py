"""What a source tells at one moment, as a value and as a line of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

PowerKind = Literal["instant", "usage"]
"""``instant``: of the moment. ``usage``: as ``nvmlDeviceGetPowerUsage`` tells it, on recent cards the mean of
the last second."""

FIGURES = (
    "energy_j", "power_w", "memory_used_bytes", "process_bytes", "gpu_busy", "memory_busy", "sm_clock_mhz",
    "memory_clock_mhz", "temperature_c", "clock_event_reasons", "violations_ns",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A source's figures at one moment; ``None`` is what it didn't tell, or wasn't asked for this time.

    Args:
        at_s: when, on ``time.perf_counter``, which all processes of a machine share.
        counter: number of the counter's life: another number means that it was set back in between.
        energy_j: joules since some moment of this life; it only rises.
        power_w: watts.
        power_kind: of ``power_w``.
        memory_used_bytes: on the device, by all.
        process_bytes: on the device, by the process that is measured.
        gpu_busy, memory_busy: share of up to the last second in which some kernel ran, or memory was moved.
        sm_clock_mhz, memory_clock_mhz: clocks.
        temperature_c: of the chip.
        clock_event_reasons: bits, see ``slowdowns``.
        violations_ns: policy -> nanoseconds for which it has held clocks down since the driver was loaded.
        missing: figure -> why it was asked for and not told.
    """

    at_s: float
    counter: int = 0
    energy_j: float | None = None
    power_w: float | None = None
    power_kind: PowerKind | None = None
    memory_used_bytes: int | None = None
    process_bytes: int | None = None
    gpu_busy: float | None = None
    memory_busy: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    clock_event_reasons: int | None = None
    violations_ns: Mapping[str, int] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def as_line(self) -> str:
        """One line of JSON, without what is ``None``."""
        found = {name: value for name, value in vars(self).items() if value is not None and value != {}}
        return json.dumps(found)

    @staticmethod
    def from_line(line: str) -> Reading:
        """The reading of ``as_line``; what a later version adds is left out."""
        found: dict[str, Any] = json.loads(line)
        return Reading(**{name: value for name, value in found.items() if name in _NAMES})


_NAMES = {one.name for one in fields(Reading)}


class Source(Protocol):
    """Where readings come from."""

    def read(self, *, everything: bool) -> Reading:
        """What it tells now; never fails, says what is missing.

        Args:
            everything: all figures, not only energy and power.
        """

    def close(self) -> None:
        """Lets go of what it holds."""
