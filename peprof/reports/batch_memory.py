"""The memory of one model's training step against the batch's size, a line a method, with what cards have.

What both kinds of picture show, and the choice between them by the file's ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peprof.errors import UsageError
from peprof.reports.curves import COLORS, DASHES
from peprof.reports.memory_plot import check_plot_file, write_plot

CARDS_GIB = (8, 16, 24, 40, 80)
"""What is printed on the boxes of cards, in units of 2^30 bytes; a little of it isn't there for a step."""
_GIB = 2**30
_LOGARITHMIC = 16  # from the least to the most


@dataclass(frozen=True, kw_only=True)
class MethodLine:
    """A method.

    Args:
        name: of the method.
        color: as HTML has it.
        dash: one of ``DASHES`` of the curves.
        batch_sizes: from the smallest to the largest.
        gib: memory at each of them, in 2^30 bytes.
    """

    name: str
    color: str
    dash: str
    batch_sizes: tuple[int, ...]
    gib: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BatchMemory:
    """The picture.

    Args:
        title: the model.
        subtitle: how it is trained, and how the bytes are known.
        lines: the method that needs most at its largest batch first, as they lie above each other.
        cards_gib: those to be drawn: all that are reached, and the next.
        logarithmic_batch, logarithmic_memory: the axes that are.
    """

    title: str
    subtitle: str
    lines: tuple[MethodLine, ...]
    cards_gib: tuple[int, ...]
    logarithmic_batch: bool
    logarithmic_memory: bool

    @property
    def ceiling_gib(self) -> float:
        """Where the upward axis ends."""
        return 1.08 * max(*(max(line.gib) for line in self.lines), *self.cards_gib)

    @property
    def floor_gib(self) -> float:
        """Where it begins."""
        return 0.8 * min(min(line.gib) for line in self.lines) if self.logarithmic_memory else 0.0


def draw_batch_memory(
    found: Mapping[str, Sequence[tuple[int, int]]], path: Path, *, title: str, subtitle: str = ""
) -> None:
    """Draws memory against batch size into a file.

    Args:
        found: by method, (batch size, bytes) in any order.
        path: ends with ``.svg``, ``.png`` or ``.html``.
        title: the model.
        subtitle: how it is trained, and how the bytes are known.

    Raises:
        UsageError: there is nothing to draw, or the file's name is wrong.
        StoreError: the file can't be written.
    """
    check_plot_file(path)
    drawn = batch_memory(found, title=title, subtitle=subtitle)
    if path.suffix.lower() == ".html":
        from peprof.reports.batch_memory_html import page

        content = page(drawn).encode()
    else:
        from peprof.reports.batch_memory_image import picture

        content = picture(drawn, kind=path.suffix.lower().removeprefix("."))
    write_plot(path, content)


def batch_memory(
    found: Mapping[str, Sequence[tuple[int, int]]], *, title: str, subtitle: str = ""
) -> BatchMemory:
    """What is drawn; methods of which nothing is known are left out.

    Raises:
        UsageError: nothing is known of any method.
    """
    known = {name: sorted(points) for name, points in found.items() if points}
    if not known:
        raise UsageError(
            "there is nothing to draw: no method has a batch size whose memory is known",
            hint="Ask for smaller batches, or see why each method has none.",
        )
    order = sorted(known, key=lambda name: -known[name][-1][1])
    lines = tuple(
        MethodLine(
            name=name,
            color=COLORS[place % len(COLORS)],
            dash=DASHES[place // len(COLORS) % len(DASHES)],
            batch_sizes=tuple(batch for batch, _ in known[name]),
            gib=tuple(nbytes / _GIB for _, nbytes in known[name]),
        )
        for place, name in enumerate(order)
    )
    sizes = [batch for line in lines for batch in line.batch_sizes]
    memory = [gib for line in lines for gib in line.gib]
    return BatchMemory(
        title=title,
        subtitle=subtitle,
        lines=lines,
        cards_gib=_cards(max(memory)),
        logarithmic_batch=min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes),
        logarithmic_memory=min(memory) > 0 and max(memory) > _LOGARITHMIC * min(memory),
    )


def _cards(highest_gib: float) -> tuple[int, ...]:
    """The cards that somebody would ask about: those that are too small, and the first that is enough."""
    too_small = [card for card in CARDS_GIB if card < highest_gib]
    return CARDS_GIB[: len(too_small) + 1]
