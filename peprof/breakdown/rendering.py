"""A step's memory for people: short plain text for a terminal, a few tables for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from peprof.breakdown.sizes import bar, human_bytes, human_percent
from peprof.breakdown.tree import branches
from peprof.breakdown.values import StepProfile

_BAR = 20

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, heads, rows; the first column is text, the others are numbers."""


def as_text(profile: StepProfile) -> str:
    """Peak, phases, categories, largest modules and operators, what is kept for backward."""
    lines = [_headline(profile)]
    for title, heads, rows in _tables(profile):
        widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
        lines += ["", title]
        for cells in (heads, *rows):
            first, *rest = cells
            aligned = [first.ljust(widths[0])]
            for cell, width in zip(rest, widths[1:], strict=True):
                aligned.append(cell.ljust(width) if set(cell) <= {"#"} and cell else cell.rjust(width))
            lines.append(("  " + "  ".join(aligned)).rstrip())
    return "\n".join(lines)


def as_html(profile: StepProfile) -> str:
    """The same as ``as_text`` in tables."""
    parts = [f"<p><b>{escape(_headline(profile))}</b></p>"]
    for title, heads, rows in _tables(profile):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{"right" if column else "left"};white-space:pre">{escape(cell)}</td>'
                for column, cell in enumerate(cells)
            )
            + "</tr>"
            for cells in rows
        )
        parts.append(f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>")
    return f"<div>{''.join(parts)}</div>"


def _headline(profile: StepProfile) -> str:
    peak = profile.peak
    where = "" if peak.operator is None else f", in {peak.operator} of {peak.module or 'no module'}"
    return f"Peak {human_bytes(peak.total_bytes)} on {profile.device}, in {peak.phase}{where}"


def _tables(profile: StepProfile, top: int = 8, depth: int = 3) -> Iterator[Table]:
    peak = profile.peak
    yield (
        "By phase",
        ("phase", "peak", "at its end"),
        [(p.phase, human_bytes(p.peak.total_bytes), human_bytes(p.end_bytes)) for p in profile.phases],
    )
    yield _shares("At the peak, by category", "category", peak.categories, peak.total_bytes, top=20)
    if peak.owners:
        yield _shares("At the peak, by owner", "owner", peak.owners, peak.total_bytes, top=top)
    yield (
        "At the peak, by module",
        ("module", "total", "own"),
        [
            ("  " * line.level + line.label, human_bytes(line.total_bytes), human_bytes(line.own_bytes))
            for line in branches(peak.modules, depth=depth, top=top)
        ],
    )
    yield _shares("At the peak, by operator", "operator", peak.operators, peak.total_bytes, top=top)
    kept = profile.activations
    if kept.saved:
        count = len(kept.saved)
        title = (
            f"Kept for backward: {human_bytes(kept.total_bytes)} in {count} storage{'s' if count > 1 else ''}"
        )
        yield _shares(title, "saved by", kept.by_operator(), kept.total_bytes, top=top)
    if kept.regions:
        yield (
            "Checkpoints",
            ("module", "keeps", "recomputes"),
            [
                (r.module, human_bytes(r.saved_bytes), human_bytes(r.recomputed_bytes))
                for r in kept.regions[:top]
            ],
        )


def _shares(title: str, head: str, values: Mapping[str, int], total: int, *, top: int) -> Table:
    rows: list[tuple[str, ...]] = [_share(name, value, total) for name, value in list(values.items())[:top]]
    rest = list(values.values())[top:]
    if rest:
        rows.append(_share(f"({len(rest)} more)", sum(rest), total))
    return title, (head, "bytes", "share", ""), rows


def _share(name: str, value: int, total: int) -> tuple[str, str, str, str]:
    share = value / total if total else 0.0
    return name, human_bytes(value), f"{human_percent(share)} %", bar(share, _BAR, plain=True)
