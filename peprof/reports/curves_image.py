"""Methods on their way as a picture for papers and slides: SVG or PNG, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peprof.reports.curves import Panel, Strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_IN, _STRIP_IN, _LEGEND_IN, _DPI = 4.4, 3.9, 1.9, 160
_INK, _QUIET, _LINE = "#222222", "#666666", "#d9d9d9"
LINE_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "peprof",  # the same data gives the same file
    "text.parse_math": False,
}


def picture(strips: Sequence[Strip], *, kind: str) -> bytes:
    """The file's content.

    Args:
        strips: at least one.
        kind: ``svg`` or ``png``.
    """
    width = max(len(strip.panels) for strip in strips)
    inches = (width * _PANEL_IN + _LEGEND_IN, len(strips) * _STRIP_IN)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        for row, strip in zip(figure.subfigures(len(strips), 1, squeeze=False)[:, 0], strips, strict=True):
            row.suptitle(f"{strip.title}\n{strip.subtitle}", size=9, color=_INK, x=0.01, ha="left")
            places = row.subplots(1, width, squeeze=False)[0]
            for place, axes in enumerate(places):
                if place < len(strip.panels):
                    _draw(axes, strip.panels[place], first=place == 0)
                else:
                    axes.set_axis_off()
            handles, names = places[0].get_legend_handles_labels()
            row.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8.5)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": "peprof"}
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _draw(axes: Axes, panel: Panel, *, first: bool) -> None:
    for line in panel.lines:
        axes.plot(
            line.x,
            line.y,
            color=line.color,
            linestyle=LINE_STYLES[line.dash],
            marker="o",
            markersize=2.5,
            linewidth=1.4,
            label=line.name,
        )
        if line.has_band:
            axes.fill_between(line.x, line.low, line.high, color=line.color, alpha=0.18, linewidth=0)
    if panel.target is not None:
        axes.axhline(panel.target, color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "target",
            (0.01, panel.target),
            xycoords=("axes fraction", "data"),
            ha="left",
            va="bottom",
            size=8,
            color=_QUIET,
        )
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel(panel.x_title, color=_QUIET)
    if first:
        axes.set_ylabel(panel.y_title, color=_QUIET)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
