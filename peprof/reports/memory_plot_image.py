"""A run's memory as a picture for papers and slides: SVG or PNG, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from peprof.breakdown.sizes import human_bytes
from peprof.breakdown.values import StepProfile
from peprof.reports.memory_categories import UNATTRIBUTED, color_of
from peprof.reports.memory_plot import Cell, Headings, cells, layers, spans, unit_of
from peprof.reports.memory_words import highest_moment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN, _HEIGHT_IN, _DPI = 12.0, 8.4, 160
_DEPTH = 4
_SHORTEST_LABEL = 4
_INK, _QUIET, _LINE = "#222222", "#666666", "#d9d9d9"
_MODULE_SHADES = ("#d3dae1", "#dce2e8", "#e4e9ee", "#ebeff2", "#f1f4f6")
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "peprof",  # the same data gives the same file
    "text.parse_math": False,
}


def picture(profile: StepProfile, headings: Headings, *, kind: str) -> bytes:
    """The file's content.

    Args:
        profile: of the step.
        headings: what stands above.
        kind: ``svg`` or ``png``.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI)
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(
            2,
            1,
            gridspec_kw={
                "height_ratios": (1.05, 1),
                "hspace": 0.36,
                "left": 0.07,
                "right": 0.785,
                "top": 0.865,
                "bottom": 0.035,
            },
        )
        figure.text(0.07, 0.955, headings.title, size=14, weight="bold", color=_INK)
        figure.text(0.07, 0.93, headings.subtitle, size=9.5, color=_QUIET)
        _draw_timeline(upper, profile, headings.timeline)
        _draw_icicle(lower, profile, headings.peak, headings.place)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": "peprof"}
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _draw_timeline(axes: Axes, profile: StepProfile, heading: str) -> None:
    timeline = profile.timeline
    stack = layers(timeline)
    unit, unit_bytes = unit_of(profile.peak_bytes)
    series = [[count / unit_bytes for count in counts] for counts in stack.values()]
    totals = [count / unit_bytes for count in timeline.totals()]
    colors = [color_of(name) for name in stack]
    drawn = axes.stackplot(timeline.events, *series, colors=colors, step="post", linewidth=0)
    for name, area in zip(stack, drawn, strict=True):
        if name == UNATTRIBUTED:
            area.set(hatch="////", edgecolor="white")
    axes.step(timeline.events, totals, where="post", color=_INK, linewidth=0.7)
    ceiling = 1.17 * max(*totals, 1 / unit_bytes)
    axes.set(xlim=(timeline.events[0], max(timeline.events[-1], 1)), ylim=(0, ceiling))
    _mark_phases(axes, profile, ceiling)
    _mark_peak(axes, profile, unit_bytes)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_ylabel(unit, color=_QUIET)
    axes.set_xlabel("allocations and frees, in order", color=_QUIET)
    axes.set_title(heading, loc="left", size=11, weight="bold", color=_INK, pad=8)
    axes.grid(axis="y", color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    _legend(axes, profile, list(stack))


def _mark_phases(axes: Axes, profile: StepProfile, ceiling: float) -> None:
    whole = max(profile.timeline.events[-1] - profile.timeline.events[0], 1)
    for number, span in enumerate(spans(profile.timeline)):
        if number % 2:
            axes.axvspan(span.start, span.end, color="#000000", alpha=0.04, linewidth=0, zorder=0)
        if number:
            axes.axvline(span.start, color=_QUIET, linewidth=0.7, linestyle=(0, (3, 3)))
        share = (span.end - span.start) / whole
        if share > 0.012 * len(span.phase):
            axes.text(
                (span.start + span.end) / 2, 0.975 * ceiling, span.phase, ha="center", va="top", color=_QUIET
            )
        elif share > 0.02:
            axes.text(
                (span.start + span.end) / 2,
                0.975 * ceiling,
                span.phase,
                ha="center",
                va="top",
                rotation=90,
                color=_QUIET,
            )


def _mark_peak(axes: Axes, profile: StepProfile, unit_bytes: int) -> None:
    timeline = profile.timeline
    totals = timeline.totals()
    highest = max(range(len(totals)), key=totals.__getitem__)
    event, level = timeline.events[highest], totals[highest]
    first, last = timeline.events[0], timeline.events[-1]
    left = event > (first + last) / 2
    axes.plot(
        [event],
        [level / unit_bytes],
        marker="v",
        markersize=7,
        color=_INK,
        clip_on=False,
        markeredgecolor="white",
    )
    axes.annotate(
        human_bytes(level),
        (event, level / unit_bytes),
        xytext=(-8 if left else 8, 3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        weight="bold",
        color=_INK,
    )


def _legend(axes: Axes, profile: StepProfile, names: list[str]) -> None:
    at_peak = highest_moment(profile).categories
    entries = [
        Patch(
            facecolor=color_of(name),
            hatch="////" if name == UNATTRIBUTED else None,
            edgecolor="white" if name == UNATTRIBUTED else "none",
            label=f"{name}  {human_bytes(at_peak[name])}" if name in at_peak else name,
        )
        for name in reversed(names)
    ]
    axes.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(1.015, 1.0),
        borderaxespad=0,
        frameon=False,
        title="Category, bytes at the peak",
        title_fontproperties={"size": 9.5},
        alignment="left",
        labelspacing=0.7,
        handlelength=1.2,
        handleheight=1.2,
        fontsize=8.5,
        labelcolor=_INK,
    )


def _draw_icicle(axes: Axes, profile: StepProfile, heading: str, where: str) -> None:
    moment = highest_moment(profile)
    drawn = list(cells(moment.modules, depth=_DEPTH))
    whole = max(moment.total_bytes, 1)
    levels = 1 + max(cell.level for cell in drawn)
    axes.set(xlim=(0, whole), ylim=(levels, 0))
    axes.set_axis_off()
    axes.set_title(heading, loc="left", size=11, weight="bold", color=_INK, pad=22)
    axes.text(0, 1.025, where, transform=axes.transAxes, size=9.5, color=_QUIET)
    for cell in drawn:
        axes.add_patch(
            Rectangle(
                (cell.start, cell.level),
                cell.nbytes,
                0.97,
                facecolor=color_of(cell.category)
                if cell.category
                else _MODULE_SHADES[min(cell.level, _DEPTH)],
                edgecolor="white",
                linewidth=0.6 if cell.nbytes > 0.004 * whole else 0,
            )
        )
    for cell in drawn:
        _write(axes, cell)


def _write(axes: Axes, cell: Cell) -> None:
    """Size and as much of the name as there is room for; upright where it is narrow; or nothing."""
    room = _pixels(axes, cell.nbytes) - 6
    if room < 12:
        return
    color = _text_color(color_of(cell.category)) if cell.category else _INK
    middle = (cell.start + cell.nbytes / 2, cell.level + 0.485)
    text = axes.text(*middle, "", ha="center", va="center", size=8.5, color=color, linespacing=1.25)
    size = human_bytes(cell.nbytes)
    for words in _wordings(cell):
        text.set_text(words)
        if text.get_window_extent().width <= room:
            return
    text.set_text(cell.label if len(cell.label) > _SHORTEST_LABEL else f"{cell.label}  {size}")
    text.set(rotation=90, size=7.5)
    box = text.get_window_extent()
    if box.width > room or box.height > 0.9 * _row_pixels(axes):
        text.remove()


def _wordings(cell: Cell) -> Iterator[str]:
    """The longest first. A category's name isn't cut: its colour says it as well."""
    size = human_bytes(cell.nbytes)
    yield f"{cell.label}\n{size}"
    if cell.category:
        yield size
        return
    for length in range(len(cell.label) - 1, _SHORTEST_LABEL - 1, -1):
        yield f"{cell.label[: length - 1]}…\n{size}"


def _pixels(axes: Axes, nbytes: int) -> float:
    (left, _), (right, _) = axes.transData.transform([(0, 0), (nbytes, 0)])
    return float(right - left)


def _row_pixels(axes: Axes) -> float:
    (_, top), (_, bottom) = axes.transData.transform([(0, 0), (0, 1)])
    return float(abs(top - bottom))


def _text_color(background: str) -> str:
    """Black or white, whichever is read better on it (WCAG 2 relative luminance)."""
    red, green, blue = (int(background[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#111111"
