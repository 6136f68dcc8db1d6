"""Methods on their way as a page to explore: one HTML file that works without a network, by plotly."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.subplots import make_subplots

from peprof.reports.curves import Line, Panel, Strip

_INK, _LINE = "#222222", "#d9d9d9"
_STRIP_PX, _MARGIN_PX = 420, 150


def page(strips: Sequence[Strip]) -> str:
    """The file's content, plotly's own script with it.

    Args:
        strips: at least one.
    """
    width = max(len(strip.panels) for strip in strips)
    titles = [
        _title(strip) if column == 0 else "" for strip in strips for column in range(width)
    ]  # of its left panel
    figure = make_subplots(
        rows=len(strips), cols=width, subplot_titles=titles, vertical_spacing=0.28 / len(strips)
    )
    named: set[str] = set()
    for row, strip in enumerate(strips, start=1):
        for column, panel in enumerate(strip.panels, start=1):
            _add(figure, panel, row, column, named)
    figure.update_layout(
        title={"text": "<b>How good methods became, and at what cost</b>", "x": 0.01, "font": {"size": 20}},
        font={"color": _INK, "family": "system-ui, sans-serif"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=_MARGIN_PX + _STRIP_PX * len(strips),
        margin={"t": 120, "l": 70, "r": 20, "b": 40},
    )
    for annotation, place in zip(figure.layout.annotations, range(len(titles)), strict=False):
        if titles[place]:
            annotation.update(x=0, xanchor="left", align="left", font={"color": _INK})
    text = to_html(
        figure, include_plotlyjs=True, full_html=True, div_id="curves", config={"displaylogo": False}
    )
    return str(text).replace("<head>", f"<head><title>{escape(strips[0].title)}</title>", 1)


def _title(strip: Strip) -> str:
    return f"<b>{escape(strip.title)}</b><br><sup>{escape(strip.subtitle)}</sup>"


def _add(figure: go.Figure, panel: Panel, row: int, column: int, named: set[str]) -> None:
    for line in panel.lines:
        if line.has_band:
            figure.add_trace(_band(line), row=row, col=column)
        figure.add_trace(_curve(line, panel, show=line.name not in named), row=row, col=column)
        named.add(line.name)
    if panel.target is not None:
        figure.add_hline(
            y=panel.target,
            line={"dash": "dot", "color": _INK, "width": 1},
            annotation={"text": "target", "font": {"color": _INK}},
            annotation_position="top left",
            row=row,
            col=column,
        )
    figure.update_xaxes(title=panel.x_title, rangemode="tozero", gridcolor=_LINE, row=row, col=column)
    figure.update_yaxes(
        title=panel.y_title if column == 1 else None,
        type="log" if panel.logarithmic else "linear",
        gridcolor=_LINE,
        zeroline=False,
        row=row,
        col=column,
    )


def _band(line: Line) -> go.Scatter:
    return go.Scatter(
        x=[*line.x, *reversed(line.x)],
        y=[*line.high, *reversed(line.low)],
        fill="toself",
        fillcolor=line.color,
        opacity=0.18,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=line.name,
        showlegend=False,
    )


def _curve(line: Line, panel: Panel, *, show: bool) -> go.Scatter:
    return go.Scatter(
        x=list(line.x),
        y=list(line.y),
        customdata=list(zip(line.low, line.high, line.seeds, strict=True)),
        name=escape(line.name),
        mode="lines+markers",
        line={"color": line.color, "dash": line.dash, "width": 2},
        marker={"size": 5},
        legendgroup=line.name,
        showlegend=show,
        hovertemplate=(
            f"<b>{escape(line.name)}</b><br>{escape(panel.x_title)}: %{{x:.4g}}<br>"
            f"{escape(panel.y_title)}: %{{y:.4g}}<br>%{{customdata[0]:.4g}} to %{{customdata[1]:.4g}} of "
            "%{customdata[2]} seeds<extra></extra>"
        ),
    )
