"""How good methods became on their way: what both kinds of picture show, and the choice between them.

A row of panels for each table: the deciding metric over training seconds, steps and, where they were
measured, joules. A line is the mean over a method's seeds, the band around it goes from worst to best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peprof.errors import UsageError
from peprof.reports.formats import metric_header
from peprof.reports.memory_plot import check_plot_file, write_plot
from peprof.reports.notes import heading, main_conditions
from peprof.results.comparison import Leaderboard
from peprof.results.progress_curves import AXES, Axis, BandPoint, band

# Okabe & Ito 2008, "Color universal design": told apart by the colour-blind too. Without yellow and black.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
#: When the colours are used up, they come again dashed.
DASHES = ("solid", "dash", "dot", "dashdot")

_UNITS: dict[Axis, tuple[tuple[str, float], ...]] = {
    "seconds": (("s", 1), ("min", 60), ("h", 3600)),
    "steps": (("", 1),),
    "joules": (("J", 1), ("kJ", 1e3), ("MJ", 1e6)),
}
_TITLES: dict[Axis, str] = {
    "seconds": "training time",
    "steps": "training steps",
    "joules": "training energy",
}
_FULLEST = 3  # of the smaller unit: 150 s are shown as seconds, 200 s as minutes
_LOGARITHMIC = 20  # from the least to the most, of a metric that is no share


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method.

    Args:
        name: of its row.
        color: as HTML has it.
        dash: one of ``DASHES``.
        x: spent.
        y: mean over the seeds.
        low, high: the worst and the best seed by number.
        seeds: that got so far.
    """

    name: str
    color: str
    dash: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def has_band(self) -> bool:
        """Whether several seeds can be told apart."""
        return any(low < high for low, high in zip(self.low, self.high, strict=True))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture.

    Args:
        x_title, y_title: with units.
        lines: best method first.
        target: the value to be reached; ``None`` for none.
        logarithmic: the upward axis is.
    """

    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    target: float | None
    logarithmic: bool


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The pictures of one table.

    Args:
        title, subtitle: of the table.
        panels: side by side.
    """

    title: str
    subtitle: str
    panels: tuple[Panel, ...]


def draw_curves(boards: Sequence[Leaderboard], path: Path) -> None:
    """Draws all tables that have something to be drawn.

    Args:
        boards: in order.
        path: ends with ``.svg``, ``.png`` or ``.html``.

    Raises:
        UsageError: nothing was evaluated, or the file's name is wrong.
        StoreError: the file can't be written.
    """
    check_plot_file(path)
    strips = strips_of(boards)
    if not strips:
        raise UsageError(
            "there is nothing to draw: no training was finished and evaluated",
            hint="Measure with the full phase: 'peprof run --set phases=full'.",
        )
    if path.suffix.lower() == ".html":
        from peprof.reports.curves_html import page

        content = page(strips).encode()
    else:
        from peprof.reports.curves_image import picture

        content = picture(strips, kind=path.suffix.lower().removeprefix("."))
    write_plot(path, content)


def strips_of(boards: Sequence[Leaderboard]) -> list[Strip]:
    """What is drawn of each table; a table without any curve is left out."""
    strips = []
    for number, board in enumerate(boards, start=1):
        bands = {row.name: band(row.curves) for row in board.rows if row.curves}
        panels = tuple(panel for axis in AXES if (panel := _panel(board, bands, axis)))
        if panels:
            strips.append(
                Strip(
                    title=heading(board, number, len(boards)),
                    subtitle=" · ".join(main_conditions(board)),
                    panels=panels,
                )
            )
    return strips


def _panel(board: Leaderboard, bands: dict[str, tuple[BandPoint, ...]], axis: Axis) -> Panel | None:
    """``None`` where nobody knows what was spent."""
    known = {
        name: [point for point in points if point.on(axis) is not None] for name, points in bands.items()
    }
    most = max((point.on(axis) or 0.0 for points in known.values() for point in points), default=None)
    if most is None:
        return None
    unit, size = [one for one in _UNITS[axis] if one[1] * _FULLEST <= most or one[1] == 1][-1]
    scale = 100.0 if board.metric.share else 1.0
    lines = tuple(
        Line(
            name=name,
            color=COLORS[place % len(COLORS)],
            dash=DASHES[place // len(COLORS) % len(DASHES)],
            x=tuple((point.on(axis) or 0.0) / size for point in points),
            y=tuple(scale * point.value for point in points),
            low=tuple(scale * point.low for point in points),
            high=tuple(scale * point.high for point in points),
            seeds=tuple(point.seeds for point in points),
        )
        for place, (name, points) in enumerate(known.items())
        if points
    )
    lowest = min(min(line.low) for line in lines)
    highest = max(max(line.high) for line in lines)
    return Panel(
        x_title=f"{_TITLES[axis]}, {unit}" if unit else _TITLES[axis],
        y_title=", ".join(metric_header(board.metric)),
        lines=lines,
        target=None if board.target is None else scale * board.target,
        logarithmic=not board.metric.share and lowest > 0 and highest > _LOGARITHMIC * lowest,
    )
