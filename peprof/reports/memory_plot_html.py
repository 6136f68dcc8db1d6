"""A run's memory as a page to explore: one HTML file that works without a network, by plotly."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.subplots import make_subplots

from peprof.breakdown.sizes import human_bytes, human_percent
from peprof.breakdown.values import StepProfile
from peprof.reports.memory_categories import color_of
from peprof.reports.memory_plot import Headings, cells, layers, spans, unit_of
from peprof.reports.memory_words import highest_moment

_INK, _QUIET, _LINE, _MODULE = "#222222", "#666666", "#d9d9d9", "#e4e9ee"
_HEIGHT_PX = 1000
_LEVELS = 6  # shown at once; a click on a module shows what lies below it


def page(profile: StepProfile, headings: Headings) -> str:
    """The file's content, plotly's own script with it.

    Args:
        profile: of the step.
        headings: what stands above.
    """
    figure = make_subplots(
        rows=2,
        cols=1,
        specs=[[{"type": "xy"}], [{"type": "domain"}]],
        row_heights=[0.5, 0.5],
        vertical_spacing=0.13,
        subplot_titles=(escape(headings.timeline), _peak_title(headings)),
    )
    _add_timeline(figure, profile)
    _add_icicle(figure, profile)
    subtitle = f"<br><sup>{escape(headings.subtitle)}</sup>" if headings.subtitle else ""
    figure.update_layout(
        title={"text": f"<b>{escape(headings.title)}</b>{subtitle}", "x": 0.01, "font": {"size": 20}},
        font={"color": _INK, "family": "system-ui, sans-serif"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=_HEIGHT_PX,
        margin={"t": 120, "l": 70, "r": 20, "b": 20},
        hovermode="x unified",
        legend={"title": {"text": "Category, and its bytes at the peak"}, "traceorder": "reversed"},
    )
    figure.update_annotations(patch={"font": {"color": _INK}})
    text = to_html(
        figure, include_plotlyjs=True, full_html=True, div_id="memory", config={"displaylogo": False}
    )
    name = f"<title>{escape(headings.title)}: memory of a training step</title>"
    return str(text).replace("<head>", f"<head>{name}", 1)


def _peak_title(headings: Headings) -> str:
    place = f"<br><sup>{escape(headings.place)}</sup>" if headings.place else ""
    return f"{escape(headings.peak)}{place}"


def _add_timeline(figure: go.Figure, profile: StepProfile) -> None:
    timeline = profile.timeline
    unit, unit_bytes = unit_of(profile.peak_bytes)
    at_peak = highest_moment(profile).categories
    for name, counts in layers(timeline).items():
        figure.add_trace(
            go.Scatter(
                x=timeline.events,
                y=[count / unit_bytes for count in counts],
                customdata=[human_bytes(count) for count in counts],
                name=f"{escape(name)}  {human_bytes(at_peak[name])}" if name in at_peak else escape(name),
                mode="lines",
                line={"width": 0, "color": color_of(name), "shape": "hv"},
                fillcolor=color_of(name),
                stackgroup="live",
                hovertemplate=f"{escape(name)}: %{{customdata}}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    for number, span in enumerate(spans(timeline)):
        figure.add_vrect(
            x0=span.start,
            x1=span.end,
            fillcolor="black",
            opacity=0.04 if number % 2 else 0,
            line_width=0,
            layer="below",
            annotation={"text": escape(span.phase), "font": {"color": _QUIET}},
            annotation_position="top",
            row=1,
            col=1,
        )
    totals = timeline.totals()
    highest = max(range(len(totals)), key=totals.__getitem__)
    figure.add_annotation(
        x=timeline.events[highest],
        y=totals[highest] / unit_bytes,
        text=f"<b>{human_bytes(totals[highest])}</b>",
        showarrow=True,
        arrowhead=2,
        ax=45,
        ay=-18,
        row=1,
        col=1,
    )
    ceiling = 1.17 * max(*totals, 1) / unit_bytes
    figure.update_yaxes(title=unit, range=[0, ceiling], gridcolor=_LINE, zeroline=False, row=1, col=1)
    figure.update_xaxes(title="allocations and frees, in order", showgrid=False, row=1, col=1)


def _add_icicle(figure: go.Figure, profile: StepProfile) -> None:
    moment = highest_moment(profile)
    drawn = list(cells(moment.modules))
    whole = max(moment.total_bytes, 1)
    figure.add_trace(
        go.Icicle(
            ids=[cell.key for cell in drawn],
            labels=[escape(cell.label) for cell in drawn],
            parents=[cell.parent or "" for cell in drawn],
            values=[cell.nbytes for cell in drawn],
            text=[f"{human_bytes(cell.nbytes)}, {human_percent(cell.nbytes / whole)} %" for cell in drawn],
            customdata=[escape(cell.name or "the whole step") for cell in drawn],
            branchvalues="total",
            sort=False,
            tiling={"orientation": "v"},
            maxdepth=_LEVELS,
            marker={
                "colors": [color_of(cell.category) if cell.category else _MODULE for cell in drawn],
                "line": {"color": "white", "width": 1},
            },
            textinfo="label+text",
            hovertemplate="<b>%{label}</b><br>%{customdata}<br>%{text}<extra></extra>",
            pathbar={"visible": True},
        ),
        row=2,
        col=1,
    )
