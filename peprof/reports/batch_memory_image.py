"""Memory against batch size as a picture for papers and slides: SVG or PNG, by matplotlib."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from peprof.reports.batch_memory import BatchMemory
from peprof.reports.curves_image import LINE_STYLES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH_IN, _HEIGHT_IN, _DPI = 7.6, 4.6, 160
_INK, _QUIET, _LINE = "#222222", "#666666", "#d9d9d9"
_MOST_TICKS = 12
_LONGEST_LINE = 80  # characters, beside the legend


def picture(drawn: BatchMemory, *, kind: str) -> bytes:
    """The file's content.

    Args:
        drawn: what is shown.
        kind: ``svg`` or ``png``.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        heading = [drawn.title, *textwrap.wrap(drawn.subtitle, _LONGEST_LINE)]
        figure.suptitle("\n".join(heading), size=10, color=_INK, x=0.01, ha="left")
        axes = figure.subplots()
        _draw(axes, drawn)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": "peprof"}
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
    return file.getvalue()


def _draw(axes: Axes, drawn: BatchMemory) -> None:
    for line in drawn.lines:
        axes.plot(
            line.batch_sizes,
            line.gib,
            color=line.color,
            linestyle=LINE_STYLES[line.dash],
            marker="o",
            markersize=3,
            linewidth=1.5,
            label=line.name,
        )
    if drawn.logarithmic_batch:
        axes.set_xscale("log", base=2)
    if drawn.logarithmic_memory:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(drawn.floor_gib, drawn.ceiling_gib)
    _mark_limits(axes, drawn)
    sizes = sorted({batch for line in drawn.lines for batch in line.batch_sizes})
    if len(sizes) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("batch size", color=_QUIET)
    axes.set_ylabel(drawn.axis, color=_QUIET)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _mark_limits(axes: Axes, drawn: BatchMemory) -> None:
    for limit in drawn.limits:
        axes.axhline(limit.gib, color=_QUIET, linewidth=0.8, linestyle=":")
        axes.annotate(
            limit.name,
            (0.0, limit.gib),  # lines rise to the right: there they would cross it
            xycoords=("axes fraction", "data"),
            ha="left",
            va="bottom",
            size=8,
            color=_QUIET,
        )
