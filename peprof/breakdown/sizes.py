"""Bytes and shares as people read them: three significant digits and a unit, and bars."""

from __future__ import annotations

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_EIGHTHS = "▏▎▍▌▋▊▉█"


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


def human_percent(share: float) -> str:
    """A share between 0 and 1 in percent, without the sign: ``90.6``."""
    return f"{100 * share:.1f}"


def bar(share: float, width: int, *, plain: bool = False) -> str:
    """A bar as long as its share of ``width``; what isn't zero is to be seen, unless it is plain.

    Args:
        share: between 0 and 1.
        width: characters of a whole.
        plain: of ``#``, rounded to whole characters; otherwise of blocks, in eighths.
    """
    if plain:
        return "#" * round(width * share)
    eighths = max(round(8 * width * share), 1 if share > 0 else 0)
    whole, rest = divmod(eighths, 8)
    return _EIGHTHS[-1] * whole + (_EIGHTHS[rest - 1] if rest else "")
