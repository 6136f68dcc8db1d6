"""Sizes as people write them: ``24 MB``, ``1.5 GiB``, ``65536``."""

from __future__ import annotations

import re
from decimal import Decimal

from peprof.errors import UsageError

_UNITS = {"B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", start=1)}
_UNITS |= {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
_UNITS["KB"] = _UNITS["kB"]

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_HINT = 'Write "24 MB" (24,000,000 bytes), "24 MiB" (25,165,824), "1.5 GB", or a whole number of bytes.'


def parse_bytes(size: object) -> int:
    """Bytes of a size; a part of a byte is left out.

    Args:
        size: a whole number of bytes, or a text with a decimal (``kB MB GB TB``) or binary unit
            (``KiB MiB GiB TiB``).

    Raises:
        UsageError: it is neither, or isn't more than nothing.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found = size
    elif isinstance(size, str):
        found = _parsed(size)
    else:
        raise UsageError(f"{size!r} is no size", hint=_HINT)
    if found <= 0:
        raise UsageError(f"a size of {size!r} leaves room for nothing", hint=_HINT)
    return found


def _parsed(text: str) -> int:
    matched = _SIZE.fullmatch(text)
    if matched is None:
        raise UsageError(f"{text!r} is no size", hint=_HINT)
    number, unit = matched.groups()
    if unit and unit not in _UNITS:
        near = [known for known in _UNITS if known.lower() == unit.lower()]
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise UsageError(f"{text!r} has the unknown unit {unit!r}{meant}", hint=_HINT)
    return int(Decimal(number) * _UNITS[unit or "B"])
