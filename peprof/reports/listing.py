"""Names in a sentence, no more of them than one reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peprof.results.rows import Row

_MOST_NAMES = 8


def listed(names: Sequence[str]) -> str:
    """``full, lora``; of many the first, and how many more there are."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def by_value(rows: Sequence[Row], value: Callable[[Row], int]) -> str:
    """``30``, or ``7 (full), 12 (lora) and 30 (the others)``: the commonest value needs no names."""
    names: dict[int, list[str]] = {}
    for row in rows:
        names.setdefault(value(row), []).append(row.name)
    if len(names) == 1:
        return str(next(iter(names)))
    commonest = max(names, key=lambda number: (len(names[number]), number))
    rare = [f"{number} ({listed(names[number])})" for number in sorted(names) if number != commonest]
    last = listed(names[commonest]) if len(names[commonest]) == 1 else "the others"
    return f"{', '.join(rare)} and {commonest} ({last})"
