"""What fits into so much memory, as a table and for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.estimate_notes import device_of, device_words, formula_notes
from peprof.reports.estimates import circumstances, heading
from peprof.reports.formats import MISSING, human_bytes
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.narrow import print_that_fits, too_narrow_words
from peprof.reports.spec_columns import fixed_columns, method_words, spec_columns
from peprof.reports.terminal import say
from peprof.results.estimates import DeviceMemory, Estimate, Fit
from peprof.results.measured_fits import MeasuredFit

Fits = Mapping[str, Fit]
"""What was found for one method: by dimension, ``batch`` and ``length``."""

HEADS = (
    "method", "largest batch", "batch needs", "longest length", "length needs", "bound by", "would help",
)  # fmt: skip
_FOLDED = ("method", "bound by", "would help")
_NUMBERS = tuple(name for name in HEADS if name not in _FOLDED)
_DROPPED_FIRST = ("length needs", "batch needs", "would help", "bound by")  # where it is too narrow
FIT_NOTE = (
    "Verified: a step of each size fits into {memory} and one more doesn't, by the bytes of its tensors. "
    "An allocator and the device's context need more on top: leave room for them."
)
POOL_NOTE = (
    "Verified: a step of each size fits into {memory} and one more doesn't, by what the simulated allocator "
    "holds. "
)
POOL_OF_GPU = "{memory} is the GPU's memory less what its context is assumed to take."
POOL_SAID = (
    "{memory} is what you said that it may hold: what the GPU's context takes, {context} as is assumed here, "
    "must be free beside it."
)


def print_fits(console: Console, found: Sequence[Fits]) -> None:
    """Prints a row a method.

    Args:
        console: where to.
        found: at least one.
    """
    for group in _groups(found):
        first = any_of(group[0]).estimate
        say(console, heading(first.spec, [any_of(fits).estimate for fits in group]), "bold")
        say(console, _circumstances(group), "dim")
        console.print()
        left_out = print_that_fits(
            console,
            HEADS,
            [row_of(fits, group) for fits in group],
            numbers=_NUMBERS,
            folded=_FOLDED,
            dropped_first=_DROPPED_FIRST,
        )
        console.print()
        if left_out:
            say(console, too_narrow_words(left_out, ", or use --format csv"), "dim")
        for problem in _problems(group):
            say(console, problem, "red")
    for note in _notes(found):
        say(console, note, "dim")


def _groups(found: Sequence[Fits]) -> list[list[Fits]]:
    """Those that stand in one table: all but the method is the same."""
    groups: dict[str, list[Fits]] = {}
    for fits in found:
        model = any_of(fits).estimate.spec.model
        groups.setdefault(f"{model.model_dump_json()} {asked_words(fits)}", []).append(fits)
    return list(groups.values())


def _notes(found: Sequence[Fits]) -> list[str]:
    """By what it was judged; nothing where nothing could be told."""
    told = [fit.estimate for fits in found for fit in fits.values() if fit.estimate.profile is not None]
    if not told:
        return []
    memory_bytes = any_of(found[0]).memory_bytes
    note, context = FIT_NOTE, ""
    devices = [one.device for one in told if one.reserved_bytes is not None and one.device is not None]
    if devices:
        is_all = memory_bytes == devices[0].total_bytes - devices[0].context_bytes
        note = POOL_NOTE + (POOL_OF_GPU if is_all else POOL_SAID)
        context = human_bytes(devices[0].context_bytes)
    words = note.format(memory=human_bytes(memory_bytes), context=context)
    return [" ".join([words, *formula_notes(told)])]


def _problems(group: Sequence[Fits]) -> list[str]:
    """Why what was looked for can't be told; once where it is the same for both dimensions."""
    fits = [fit for found in group for fit in found.values() if fit.estimate.problem is not None]
    return list(dict.fromkeys(f"{method_words(fit.estimate.spec)}: {fit.estimate.problem}" for fit in fits))


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


def _circumstances(group: Sequence[Fits]) -> str:
    """What all rows of a table have in common, in one line."""
    words = [human_bytes(any_of(group[0]).memory_bytes), asked_words(group[0])]
    device = _device(group)
    return " · ".join([*words, device_words(device)] if device is not None else words)


def _device(found: Sequence[Fits]) -> DeviceMemory | None:
    return device_of(fit.estimate for fits in found for fit in fits.values())


def row_of(fits: Fits, group: Sequence[Fits]) -> tuple[str, ...]:
    """A method's cells."""
    cells = [method_words(any_of(fits).estimate.spec)]
    for dimension in ("batch", "length"):
        fit = fits.get(dimension)
        if fit is None or fit.estimate.problem is not None:
            cells += [MISSING, MISSING]
        else:
            cells += [
                str(fit.largest) if fit.largest is not None else "none",
                human_bytes(fit.need_bytes or 0),
            ]
    bound = [fit.bound_by or limit_words(fit) for fit in fits.values()]
    helps = [remedy(*alone(fit, group)) for fit in fits.values()]
    return (*cells, _joined(bound), _joined(helps))


def _joined(words: Sequence[str | None]) -> str:
    """What isn't the same twice, of both dimensions."""
    return "; ".join(dict.fromkeys(word for word in words if word)) or MISSING


def alone(fit: Fit, group: Sequence[Fits]) -> tuple[Fits, list[Fits]]:
    """An answer, and its table, as if nothing but its dimension had been looked for."""
    name = fit.dimension
    return {name: fit}, [{name: fits[name]} for fits in group if name in fits]


def limit_words(fit: Fit | MeasuredFit) -> str | None:
    """What it ends with where that isn't memory; ``None`` where it is, or where nothing is known."""
    if fit.at_models_end:
        return "the model's positions"
    return f"nothing up to {fit.cap}" if fit.at_cap else None


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
            return f"{method_words(any_of(best).estimate.spec)}: {fit.dimension} {any_of(best).largest}"
    return None


def _certainty(estimate: Estimate) -> str:
    """How well the figures are known."""
    if estimate.reserved_bytes is not None:
        return "simulated"
    return "exact" if estimate.exact else "by formula"


def plain_rows(found: Sequence[Fits]) -> list[dict[str, Any]]:
    """An answer a row, with units in the names."""
    device = _device(found)
    group_of = {id(fits): group for group in _groups(found) for fits in group}
    return [
        {
            **spec_columns(fit.estimate.spec),
            "operators": fit.estimate.kind,
            "device_name": device.name if device is not None else None,
            **fixed_columns(fit.estimate.spec, fit.dimension),
            "dimension": fit.dimension,
            "memory_bytes": fit.memory_bytes,
            "largest": fit.largest,
            "need_bytes": fit.need_bytes,
            "beyond_bytes": fit.beyond.need_bytes if fit.beyond is not None else None,
            "certainty": _certainty(fit.estimate),
            "limited_by_the_model": fit.at_models_end,
            "bound_by": fit.bound_by,
            "remedies": dict(fit.remedies),
            "remedy": remedy(*alone(fit, group_of[id(fits)])),
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
    parts: list[str] = []
    for group in _groups(found):
        estimates = [any_of(fits).estimate for fits in group]
        rows = [row_of(fits, group) for fits in group]
        parts += [f"**{heading(estimates[0].spec, estimates)}**", _circumstances(group)]
        parts += [markdown_table(HEADS, rows, numbers=_NUMBERS), *_problems(group)]
    return "\n\n".join([*parts, *_notes(found)])
