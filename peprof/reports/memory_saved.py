"""What is kept for backward, for a terminal: by operator and by module, layers that are alike as one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from rich.console import Console

from peprof.breakdown.sizes import human_bytes
from peprof.breakdown.values import OUTSIDE, ActivationBreakdown, SavedStorage
from peprof.reports.bytes_table import Line, print_lines
from peprof.reports.terminal import say

SavedDivision = Literal["module", "operator"]

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_Key = Callable[[SavedStorage], str]


def print_saved(
    console: Console,
    kept: ActivationBreakdown,
    *,
    by: Sequence[SavedDivision] = ("operator", "module"),
    top: int = 12,
) -> None:
    """Prints what is kept for backward, with shapes and types, and what checkpoints keep and recompute.

    Args:
        console: where to.
        kept: when backward begins.
        by: the divisions, in order.
        top: rows of a table, and of each of its parts.
    """
    console.print()
    count = len(kept.saved)
    storages = f"{count} storage{'' if count == 1 else 's'}"
    say(console, f"Kept for backward: {human_bytes(kept.total_bytes)} in {storages}", "bold")
    if kept.recomputed:
        again = human_bytes(kept.recomputed_bytes)
        say(console, f"Checkpoints save {again} more while they run forward again, not all at once.", "")
    for division in by if kept.saved else ():
        if division == "operator":
            lines = _grouped(kept.saved, lambda item: item.operator, shape_words, top)
        else:
            lines = _grouped(kept.saved, folded_module, _operator_and_shape, top)
        print_lines(
            console,
            f"Kept, by {division} that saved it",
            (division, "size"),
            list(lines),
            kept.total_bytes,
            counted=True,
        )
    if kept.regions:
        lines = (
            Line(name=region.module, sizes=(region.saved_bytes, region.recomputed_bytes), categories={})
            for region in kept.regions[:top]
        )
        more = len(kept.regions) - top
        heading = f"Checkpoints ({more} more not shown)" if more > 0 else "Checkpoints"
        whole = max(max(region.saved_bytes for region in kept.regions), 1)
        print_lines(console, heading, ("module", "keeps", "recomputes"), list(lines), whole, shares=False)


def shape_words(item: SavedStorage) -> str:
    """``32×48×64 float32``."""
    return f"{'×'.join(map(str, item.shape)) or 'one number'} {item.dtype}"


def folded_module(item: SavedStorage) -> str:
    """The module that saved it, the numbers of layers left open: ``encoder.layer.*.attention``."""
    return OUTSIDE if item.module is None else _NUMBER.sub("*", item.module) or "(the model itself)"


def _operator_and_shape(item: SavedStorage) -> str:
    return f"{item.operator} {shape_words(item)}"


def _grouped(items: Sequence[SavedStorage], outer: _Key, inner: _Key, top: int) -> Iterator[Line]:
    for name, part in _groups(items, outer, top):
        yield _line(name, part, style="bold")
        for detail, same in _groups(part, inner, top):
            yield _line(f"  {detail}", same, style="")


def _groups(items: Sequence[SavedStorage], key: _Key, top: int) -> Iterator[tuple[str, list[SavedStorage]]]:
    """Items by their key, most bytes first; those beyond the first as one."""
    groups: dict[str, list[SavedStorage]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    ordered = sorted(groups.items(), key=lambda pair: (-sum(item.nbytes for item in pair[1]), pair[0]))
    yield from ordered[:top]
    if ordered[top:]:
        yield f"({len(ordered) - top} more)", [item for _, part in ordered[top:] for item in part]


def _line(name: str, items: Sequence[SavedStorage], *, style: str) -> Line:
    return Line(
        name=name,
        sizes=(sum(item.nbytes for item in items),),
        categories={"activations": 1},
        style=style,
        count=len(items),
    )
