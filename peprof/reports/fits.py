"""What fits into so much memory, as a table and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.estimates import circumstances, heading, standing_notes
from peprof.reports.formats import MISSING, human_bytes
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.terminal import INDENT, rule_of, said, say
from peprof.results.estimates import Estimate, Fit
from peprof.results.measured_fits import MeasuredFit

Fits = Mapping[str, Fit]
"""What was found for one method: by dimension, ``batch`` and ``length``."""

HEADS = ("method", "largest batch", "needs", "longest length", "needs", "bound by", "would help")
_NUMBERS = ("largest batch", "needs", "longest length")
FIT_NOTE = (
    "Verified: a step of each size fits into {memory} and one more doesn't, by the bytes of its tensors. "
    "An allocator and the device's context need more on top: leave room for them."
)
POOL_NOTE = (
    "Verified: a step of each size fits into {memory} and one more doesn't, by what the simulated allocator "
    "holds. {memory} is the GPU's memory less what its context is assumed to take, or what you said."
)


def print_fits(console: Console, found: Sequence[Fits]) -> None:
    """Prints a row a method.

    Args:
        console: where to.
        found: at least one.
    """
    memory = human_bytes(any_of(found[0]).memory_bytes)
    for group in _groups(found):
        first = any_of(group[0]).estimate
        say(console, heading(first.spec, [any_of(fits).estimate for fits in group]), "bold")
        say(console, f"{memory} · {asked_words(group[0])}", "dim")
        table = Table(box=rule_of(console), pad_edge=False, show_edge=False, header_style="bold")
        for name in HEADS:
            table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
        for fits in group:
            table.add_row(*(said(console, cell) for cell in row_of(fits, group)))
        console.print()
        console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
        console.print()
        for problem in _problems(group):
            say(console, problem, "red")
    say(console, _note(found).format(memory=memory), "dim")


def _groups(found: Sequence[Fits]) -> list[list[Fits]]:
    """Those that stand in one table: all but the method is the same."""
    groups: dict[str, list[Fits]] = {}
    for fits in found:
        model = any_of(fits).estimate.spec.model
        groups.setdefault(f"{model.model_dump_json()} {asked_words(fits)}", []).append(fits)
    return list(groups.values())


def _note(found: Sequence[Fits]) -> str:
    """By what it was judged."""
    estimates = [any_of(fits).estimate for fits in found]
    note = FIT_NOTE if all(one.reserved_bytes is None for one in estimates) else POOL_NOTE
    return " ".join([note, *standing_notes(estimates)])


def _problems(group: Sequence[Fits]) -> list[str]:
    """Why what was looked for can't be told; once where it is the same for both dimensions."""
    fits = [fit for found in group for fit in found.values() if fit.estimate.problem is not None]
    return list(dict.fromkeys(f"{fit.estimate.label}: {fit.estimate.problem}" for fit in fits))


def any_of(fits: Fits) -> Fit:
    """One of a method's answers, for what they have in common."""
    return next(iter(fits.values()))


def asked_words(fits: Fits) -> str:
    """What the run says itself; of batch and length each is as in the run where the other one grows."""
    batch, length = fits.get("batch"), fits.get("length")
    spec = any_of(fits).estimate.spec
    words = []
    if batch is not None:
        words.append(f"batches at length {batch.estimate.spec.data.max_length}")
    if length is not None:
        words.append(f"lengths at batch {length.estimate.spec.train.batch_size}")
    return " · ".join([*words, *circumstances(spec).split(" · ")[2:]])


def row_of(fits: Fits, group: Sequence[Fits]) -> tuple[str, ...]:
    """A method's cells."""
    cells = [any_of(fits).estimate.label]
    for dimension in ("batch", "length"):
        fit = fits.get(dimension)
        if fit is None or fit.estimate.problem is not None:
            cells += [MISSING, MISSING]
        else:
            cells += [
                str(fit.largest) if fit.largest is not None else "none",
                human_bytes(fit.need_bytes or 0),
            ]
    bound = any_of(fits).bound_by
    return (*cells, bound or limit_words(any_of(fits)), remedy(fits, group) or MISSING)


def limit_words(fit: Fit | MeasuredFit) -> str:
    """What it ends with where that isn't memory."""
    if fit.at_models_end:
        return "the model's positions"
    return f"nothing up to {fit.cap}" if fit.at_cap else MISSING


def remedy(fits: Fits, group: Sequence[Fits]) -> str | None:
    """What would let more fit, from what was found; ``None`` where nothing was."""
    for fit in fits.values():
        if fit.remedies:
            sizes = ", ".join(f"{name}: {size}" for name, size in fit.remedies.items())
            return f"{fit.dimension} with {sizes}"
    fit = any_of(fits)
    if fit.bound_by in ("gradients", "optimizer") or (fit.largest is None and fit.estimate.problem is None):
        best = max(group, key=lambda other: any_of(other).largest or 0)
        if (any_of(best).largest or 0) > (fit.largest or 0):
            return f"{any_of(best).estimate.label}: {fit.dimension} {any_of(best).largest}"
    return None


def _label(estimate: Estimate) -> str:
    """What the figures are."""
    if estimate.reserved_bytes is not None:
        return "simulated"
    return "exact" if estimate.exact else "by formula"


def plain_rows(found: Sequence[Fits]) -> list[dict[str, Any]]:
    """An answer a row, with units in the names."""
    return [
        {
            "method": fit.estimate.label,
            "model": fit.estimate.spec.model.name,
            "quantization": fit.estimate.spec.model.quantization,
            "dimension": fit.dimension,
            "memory_bytes": fit.memory_bytes,
            "largest": fit.largest,
            "need_bytes": fit.need_bytes,
            "beyond_bytes": fit.beyond.need_bytes if fit.beyond is not None else None,
            "label": _label(fit.estimate),
            "limited_by_the_model": fit.at_models_end,
            "bound_by": fit.bound_by,
            "remedies": dict(fit.remedies),
            "remedy": remedy(fits, found),
            "problem": fit.estimate.problem,
        }
        for fits in found
        for fit in fits.values()
    ]


def fits_as_json(found: Sequence[Fits]) -> str:
    """A list of answers."""
    return json.dumps(plain_rows(found), indent=2)


def fits_as_csv(found: Sequence[Fits]) -> str:
    """A row an answer."""
    rows = plain_rows(found)
    words = ["; ".join(f"{name}: {size}" for name, size in row["remedies"].items()) for row in rows]
    return rows_as_csv([{**row, "remedies": text} for row, text in zip(rows, words, strict=True)])


def fits_as_markdown(found: Sequence[Fits]) -> str:
    """The same tables in Markdown."""
    memory, parts = human_bytes(any_of(found[0]).memory_bytes), list[str]()
    for group in _groups(found):
        estimates = [any_of(fits).estimate for fits in group]
        rows = [row_of(fits, group) for fits in group]
        parts += [f"**{heading(estimates[0].spec, estimates)}**", f"{memory} · {asked_words(group[0])}"]
        parts += [markdown_table(HEADS, rows, numbers=_NUMBERS), *_problems(group)]
    return "\n\n".join([*parts, _note(found).format(memory=memory)])
