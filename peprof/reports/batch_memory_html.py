"""Memory against batch size as a page to explore: one HTML file that works without a network, by plotly."""

from __future__ import annotations

import math
from html import escape

import plotly.graph_objects as go
from plotly.io import to_html

from peprof.reports.batch_memory import BatchMemory, MethodLine

_INK, _QUIET, _LINE = "#222222", "#666666", "#d9d9d9"
_HEIGHT_PX = 620


def page(drawn: BatchMemory) -> str:
    """The file's content, plotly's own script with it."""
    figure = go.Figure([_line(line) for line in drawn.lines])
    for limit in drawn.limits:
        figure.add_hline(y=limit.gib, line={"dash": "dot", "color": _QUIET, "width": 1})
        figure.add_annotation(
            text=escape(limit.name),
            font={"color": _QUIET},
            x=0,  # lines rise to the right: there they would cross it
            # So plotly places words, but not lines.
            y=math.log10(limit.gib) if drawn.logarithmic_memory else limit.gib,
            xref="paper",
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
        )
    subtitle = f"<br><sup>{escape(drawn.subtitle)}</sup>" if drawn.subtitle else ""
    figure.update_layout(
        title={"text": f"<b>{escape(drawn.title)}</b>{subtitle}", "x": 0.01, "font": {"size": 20}},
        font={"color": _INK, "family": "system-ui, sans-serif"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=_HEIGHT_PX,
        margin={"t": 100, "l": 70, "r": 20, "b": 60},
        hovermode="closest",
    )
    sizes = sorted({batch for line in drawn.lines for batch in line.batch_sizes})
    figure.update_xaxes(
        title="batch size",
        type="log" if drawn.logarithmic_batch else "linear",
        tickvals=sizes,
        ticktext=[str(size) for size in sizes],
        gridcolor=_LINE,
    )
    ends = [drawn.floor_gib, drawn.ceiling_gib]
    figure.update_yaxes(
        title=drawn.axis,
        type="log" if drawn.logarithmic_memory else "linear",
        range=[math.log10(end) for end in ends] if drawn.logarithmic_memory else ends,
        gridcolor=_LINE,
        zeroline=False,
    )
    text = to_html(
        figure, include_plotlyjs=True, full_html=True, div_id="batches", config={"displaylogo": False}
    )
    return str(text).replace("<head>", f"<head><title>{escape(drawn.title)}: memory by batch size</title>", 1)


def _line(line: MethodLine) -> go.Scatter:
    return go.Scatter(
        x=list(line.batch_sizes),
        y=list(line.gib),
        name=escape(line.name),
        mode="lines+markers",
        line={"color": line.color, "dash": line.dash, "width": 2},
        marker={"size": 6},
        hovertemplate=f"<b>{escape(line.name)}</b><br>batch size %{{x}}: %{{y:.3g}} GiB<extra></extra>",
    )
