"""Estimates as a table, and for machines: whose the memory of each method's step would be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from peprof.reports import estimate_notes as notes
from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.formats import MISSING, human_bytes, human_count, human_percent, signed
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.narrow import print_that_fits, too_narrow_words
from peprof.reports.spec_columns import method_words, spec_columns
from peprof.reports.terminal import say
from peprof.results.estimates import GROUPS, Estimate, grouped_bytes, is_full
from peprof.suite.planning import RunSpec

HEADS = ("method", "peak", "in", *GROUPS, "other", "of full")
_WORDS = ("method", "in", "fits")  # numbers stand to the right
_DROPPED_FIRST = (
    "in", "other", "temporaries", "gradients", "optimizer", "parameters", "points", "published",
    "activations", "of full", "reserved", "device",
)  # fmt: skip
"""Where it is too narrow: what is left says what there must be room for, and whether there is."""


def print_estimates(console: Console, estimates: Sequence[Estimate]) -> None:
    """Prints a table for each model, task and shape, with a row a method.

    Where the console is narrow, columns are left out and named below.

    Args:
        console: where to.
        estimates: in order; at least one.
    """
    for number, group in enumerate(_groups(estimates)):
        if number:
            console.print()
        say(console, heading(group[0].spec, group), "bold")
        say(console, _circumstances(group), "dim")
        console.print()
        left_out = print_that_fits(
            console,
            _heads(group),
            _cells(group),
            numbers=_numbers(group),
            folded=("method",),
            dropped_first=_DROPPED_FIRST,
        )
        console.print()
        if left_out:
            say(console, too_narrow_words(left_out, ", or use --format csv"), "dim")
        for texts, style in (
            (notes.problems(group), "red"),
            (notes.warnings(group), "yellow"),
            (notes.published_notes(group), "dim"),
        ):
            for text in texts:
                say(console, text, style)
    closing = notes.closing_notes(estimates)
    if closing:
        console.print()
    for text in closing:
        say(console, text, "dim")


def _heads(group: Sequence[Estimate]) -> tuple[str, ...]:
    published = ("published", "points") if notes.published_notes(group) else ()
    known = any(found.device_bytes is not None for found in group)
    return (*HEADS, *published, *(("reserved", "device", "fits") if known else ()))


def _numbers(group: Sequence[Estimate]) -> list[str]:
    return [name for name in _heads(group) if name not in _WORDS]


def heading(spec: RunSpec, group: Sequence[Estimate] = ()) -> str:
    """``Llama-3.1-8B: 8.03B parameters, LlamaForCausalLM``."""
    known = next((found for found in group if found.counts is not None), None)
    if known is None or known.counts is None:
        return spec.model.name
    size = human_count(known.counts.backbone + known.counts.head)
    return f"{spec.model.name}: {size} parameters, {known.architecture}"


def circumstances(spec: RunSpec, *, batch: bool = True) -> str:
    """What all rows of a table have in common, in one line.

    Args:
        spec: of one of them.
        batch: whether the batch is among it.
    """
    train = spec.train
    parts = [f"batch {train.batch_size}"] if batch else []
    parts += [f"length {spec.data.max_length}", spec.model.dtype]
    if spec.model.quantization is not None:
        parts.append(f"weights in {spec.model.quantization}")
    parts.append(spec.data.task)
    if train.gradient_accumulation_steps > 1:
        parts.append(f"in {train.gradient_accumulation_steps} parts")
    if train.autocast is not None:
        parts.append(f"autocast {train.autocast}")
    parts += [train.optimizer, f"{spec.model.attention} attention"]
    return " · ".join(parts)


def _circumstances(group: Sequence[Estimate]) -> str:
    device = notes.device_of(group)
    words = circumstances(group[0].spec)
    return words if device is None else f"{words} · {notes.device_words(device)}"


def _groups(estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Those that stand in one table: all but the method is the same."""
    groups: dict[str, list[Estimate]] = {}
    for found in estimates:
        key = f"{found.spec.model.model_dump_json()} {_circumstances([found])}"
        groups.setdefault(key, []).append(found)
    return list(groups.values())


def _cells(group: Sequence[Estimate]) -> list[tuple[str, ...]]:
    full, heads = full_bytes(group), _heads(group)
    rows = [_row(found, full) for found in group]
    if "published" in heads:
        rows = [(*row, *_published_cells(found, full)) for row, found in zip(rows, group, strict=True)]
    if "device" in heads:
        rows = [(*row, *_device_cells(found)) for row, found in zip(rows, group, strict=True)]
    return rows


def full_bytes(group: Sequence[Estimate]) -> int | None:
    """The peak of full fine-tuning, the yardstick; ``None`` where it isn't among them."""
    return next((found.peak_bytes for found in group if is_full(found.spec.method)), None)


def _row(found: Estimate, full: int | None) -> tuple[str, ...]:
    if found.profile is None:
        return (method_words(found.spec), *[MISSING] * (len(HEADS) - 1))
    peak = found.profile.peak
    groups = grouped_bytes(peak.categories)
    return (
        method_words(found.spec),
        human_bytes(peak.total_bytes),
        peak.phase,
        *(human_bytes(groups[name]) for name in (*GROUPS, "other")),
        _percent(share_of_full(found, full)),
    )


def _device_cells(found: Estimate) -> tuple[str, ...]:
    sizes = (found.reserved_bytes, found.device_bytes)
    fits = MISSING if found.fits is None else "yes" if found.fits else "no"
    return (*(MISSING if size is None else human_bytes(size) for size in sizes), fits)


def _published_cells(found: Estimate, full: int | None) -> tuple[str, ...]:
    share = found.published.share_of_full if found.published is not None else None
    points = points_above_published(found, full)
    return (_percent(share), MISSING if points is None else signed(f"{abs(points):.1f}", points))


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{human_percent(share)} %"


def share_of_full(found: Estimate, full: int | None) -> float | None:
    """Its peak by that of full fine-tuning; ``None`` where either isn't known."""
    return found.peak_bytes / full if found.peak_bytes is not None and full else None


def points_above_published(found: Estimate, full: int | None) -> float | None:
    """By how many percent of full fine-tuning's memory its share is above the published one."""
    share = share_of_full(found, full)
    published = found.published.share_of_full if found.published is not None else None
    return None if share is None or published is None else 100 * (share - published)


def estimates_as_markdown(estimates: Sequence[Estimate]) -> str:
    """The same tables in Markdown."""
    parts: list[str] = []
    for group in _groups(estimates):
        parts += [f"**{heading(group[0].spec, group)}**", "", _circumstances(group), ""]
        parts += [markdown_table(_heads(group), _cells(group), numbers=_numbers(group)), ""]
        texts = (*notes.problems(group), *notes.warnings(group), *notes.published_notes(group))
        parts += [f"{text}\n" for text in texts]
    return "\n".join([*parts, "\n\n".join(notes.closing_notes(estimates))])


def plain_rows(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Figures of estimates with their units in the names, shares by full fine-tuning of the same shape."""
    full = {id(found): full_bytes(group) for group in _groups(estimates) for found in group}
    return [_plain_row(found, full[id(found)]) for found in estimates]


def _plain_row(found: Estimate, full: int | None) -> dict[str, Any]:
    spec, profile, published, device = found.spec, found.profile, found.published, found.device
    row: dict[str, Any] = {
        **spec_columns(spec),
        "batch_size": spec.train.batch_size,
        "max_length": spec.data.max_length,
        "operators": found.kind,
        "certainty": "exact" if found.exact else "by formula",
        "peak_bytes": found.peak_bytes,
        "peak_phase": profile.peak.phase if profile else None,
    }
    groups = grouped_bytes(profile.peak.categories) if profile else {}
    row |= {f"{name}_bytes": groups.get(name) for name in (*GROUPS, "other")}
    row |= {
        "share_of_full": share_of_full(found, full),
        "published_share_of_full": published.share_of_full if published is not None else None,
        "points_above_published": points_above_published(found, full),
        "reserved_bytes_simulated": found.reserved_bytes,
        "device_bytes_assumed": found.device_bytes,
        "fits": found.fits,
        "device_name": device.name if device else None,
        "device_total_bytes_assumed": device.total_bytes if device else None,
        "context_bytes_assumed": device.context_bytes if device else None,
        "workspace_bytes": device.workspace_bytes if device else None,
        "saved_bytes": profile.activations.total_bytes if profile else None,
        "trainable_parameters": found.counts.trainable_backbone + found.counts.trainable_head
        if found.counts
        else None,
        "problem": found.problem,
        "assumptions": "; ".join(found.assumptions),
    }
    return row


def estimates_as_csv(estimates: Sequence[Estimate]) -> str:
    """A row an estimate."""
    return rows_as_csv(plain_rows(estimates))


def estimates_as_json(estimates: Sequence[Estimate]) -> str:
    """All that is known: the figures, the run's spec, and whose the memory is by phase, module and owner."""
    return json.dumps(
        [
            {
                **row,
                "assumptions": list(found.assumptions),
                "published": found.published.said.model_dump(mode="json") if found.published else None,
                "spec": found.spec.model_dump(mode="json"),
                "profile": found.profile.to_dict() if found.profile is not None else None,
            }
            for found, row in zip(estimates, plain_rows(estimates), strict=True)
        ],
        indent=2,
    )
