"""Numbers as people read them: three significant digits and a unit. Stored are bytes and seconds."""

from __future__ import annotations

#: Stands where nothing was measured.
MISSING = "–"

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_COUNT_UNITS = ("", "K", "M", "B", "T")
_TIME_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"))


def significant(value: float) -> str:
    """A number not below 0 with three significant digits, all of those before the point kept: ``1,234``."""
    for limit, digits in ((9.995, 2), (99.95, 1)):
        if value < limit:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


def human_bytes(value: float) -> str:
    """Bytes in binary units: ``312 MiB``, ``1.50 GiB``, ``17 B``."""
    power = 0
    scaled = float(value)
    while power < len(_BYTE_UNITS) - 1 and round(scaled) >= 1024:
        scaled /= 1024
        power += 1
    number = f"{scaled:.0f}" if power == 0 or scaled >= 999.5 else significant(scaled)
    return f"{number} {_BYTE_UNITS[power]}"


def human_seconds(value: float) -> str:
    """Seconds in the unit that suits: ``850 µs``, ``123 ms``, ``1.23 s``, ``12.5 min``, ``3.20 h``."""
    size, unit = _TIME_UNITS[0]
    for next_size, next_unit in _TIME_UNITS[1:]:
        # compared as it would be printed, so that 999.7 ms is 1.00 s and not 1,000 ms
        if float(significant(value / size).replace(",", "")) < round(next_size / size):
            break
        size, unit = next_size, next_unit
    return f"{significant(value / size)} {unit}"


def human_count(value: int) -> str:
    """A count of parameters: ``768``, ``27.6K``, ``66.4M``, ``1.24B``."""
    if value < 1000:
        return str(value)
    power = 0
    scaled = float(value)
    while power < len(_COUNT_UNITS) - 1 and float(f"{scaled:.3g}") >= 1000:
        scaled /= 1000
        power += 1
    return significant(scaled) + _COUNT_UNITS[power]


def human_percent(share: float) -> str:
    """A share between 0 and 1 in percent, without the sign: ``90.6``."""
    return f"{100 * share:.1f}"


def human_ratio(value: float) -> str:
    """A ratio beside its value: ``0.55x``, ``12.3x``."""
    return f"{value:.1f}x" if value >= 9.995 else f"{value:.2f}x"


def human_clock(seconds: float) -> str:
    """A duration as a clock shows it: ``0:42``, ``12:05``, ``1:02:05``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
