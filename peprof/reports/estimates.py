"""Estimates as a table, and for machines: whose the memory of each method's step would be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.formats import MISSING, human_bytes, human_count, human_percent, signed
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.terminal import INDENT, rule_of, said, say
from peprof.results.estimates import GROUPS, Estimate, grouped_bytes, is_full
from peprof.suite.planning import RunSpec

EXACT_NOTE = (
    "Exact: the bytes of all tensors, as the ledger counts them in a step without data on {kind} operators. "
    "Not in it: what an allocator rounds up and keeps, libraries' workspaces, the device's context."
)
FORMULA_NOTE = (
    "Except what bitsandbytes allocates for weights and optimizer states of 4 and 8 bits: by formula, from "
    "its source."
)
DEVICE_NOTE = (
    "Reserved: simulated, what the caching allocator would hold, libraries' workspaces included. Device: "
    "with a context as seen elsewhere, an assumption."
)
PUBLISHED_NOTE = (
    "Published: of full fine-tuning's memory in {sources}, under conditions of its own. Points: by how many "
    "percent of full fine-tuning's memory it is more here."
)
SET_OTHERWISE_NOTE = "What was published is of the suite as it is: here {keys} was set."
HEADS = ("method", "peak", "in", *GROUPS, "other", "of full")


def print_estimates(console: Console, estimates: Sequence[Estimate]) -> None:
    """Prints a table for each model, task and shape, with a row a method.

    Args:
        console: where to.
        estimates: in order; at least one.
    """
    for number, group in enumerate(_groups(estimates)):
        if number:
            console.print()
        say(console, heading(group[0].spec, group), "bold")
        say(console, circumstances(group[0].spec), "dim")
        table = Table(box=rule_of(console), pad_edge=False, show_edge=False, header_style="bold")
        table.add_column("method", overflow="fold")
        for name in _heads(group)[1:]:
            table.add_column(name, justify="left" if name == "in" else "right", no_wrap=True)
        for row in _cells(group):
            table.add_row(*(said(console, cell) for cell in row))
        console.print()
        console.print(Padding(table, (0, 0, 0, INDENT), expand=False))
        console.print()
        for found in group:
            if found.problem is not None:
                say(console, f"{found.label}: {found.problem}", "red")
        for text in dict.fromkeys(_assumptions(group)):
            say(console, text, "yellow")
        for text in _published_notes(group):
            say(console, text, "dim")
    console.print()
    say(console, _standing(estimates), "dim")
    if any(found.device_bytes is not None for found in estimates):
        say(console, DEVICE_NOTE, "dim")


def _standing(estimates: Sequence[Estimate]) -> str:
    """What the figures are, in words."""
    return " ".join([EXACT_NOTE.format(kind=_kind_words(estimates[0].kind)), *standing_notes(estimates)])


def standing_notes(estimates: Sequence[Estimate]) -> list[str]:
    """What of the figures isn't exact, in words; nothing where all are."""
    by_formula = any(found.profile is not None and not found.exact for found in estimates)
    return [FORMULA_NOTE] if by_formula else []


def _heads(group: Sequence[Estimate]) -> tuple[str, ...]:
    published = ("published", "points") if _published_notes(group) else ()
    known = any(found.device_bytes is not None for found in group)
    return (*HEADS, *published, *(("reserved", "device") if known else ()))


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


def _groups(estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Those that stand in one table: all but the method is the same."""
    groups: dict[str, list[Estimate]] = {}
    for found in estimates:
        key = f"{found.spec.model.model_dump_json()} {circumstances(found.spec)}"
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
        return (found.label, *[MISSING] * (len(HEADS) - 1))
    peak = found.profile.peak
    groups = grouped_bytes(peak.categories)
    return (
        found.label,
        human_bytes(peak.total_bytes),
        peak.phase,
        *(human_bytes(groups[name]) for name in (*GROUPS, "other")),
        _percent(share_of_full(found, full)),
    )


def _device_cells(found: Estimate) -> tuple[str, ...]:
    sizes = (found.reserved_bytes, found.device_bytes)
    return tuple(MISSING if size is None else human_bytes(size) for size in sizes)


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


def _published_notes(group: Sequence[Estimate]) -> list[str]:
    """Where the published shares stand; nothing where there are none."""
    known = [found.published for found in group if found.published is not None]
    sources = dict.fromkeys(item.said.source for item in known if item.share_of_full is not None)
    if not sources:
        return []
    keys = dict.fromkeys(key for item in known for key in item.set_otherwise)
    otherwise = [SET_OTHERWISE_NOTE.format(keys=", ".join(keys))] if keys else []
    return [PUBLISHED_NOTE.format(sources=" and ".join(sources)), *otherwise]


def _assumptions(group: Sequence[Estimate]) -> list[str]:
    texts: dict[str, list[str]] = {}
    for found in group:
        for text in found.assumptions:
            texts.setdefault(text, []).append(found.label)
    everywhere = sum(found.profile is not None for found in group)
    return [
        f"Assumed: {text}." if len(labels) == everywhere else f"Assumed for {', '.join(labels)}: {text}."
        for text, labels in texts.items()
    ]


def _kind_words(kind: str) -> str:
    return "a GPU's" if kind == "cuda" else "the CPU's"


def estimates_as_markdown(estimates: Sequence[Estimate]) -> str:
    """The same tables in Markdown."""
    parts: list[str] = []
    for group in _groups(estimates):
        parts += [f"**{heading(group[0].spec, group)}**", "", circumstances(group[0].spec), ""]
        heads = _heads(group)
        numbers = [name for name in heads if name not in ("method", "in")]
        parts += [markdown_table(heads, _cells(group), numbers=numbers), ""]
        parts += [f"{found.label}: {found.problem}\n" for found in group if found.problem is not None]
        parts += [f"{text}\n" for text in (*_assumptions(group), *_published_notes(group))]
    parts.append(_standing(estimates))
    return "\n".join(parts)


def plain_rows(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Figures of estimates with their units in the names, shares by full fine-tuning of the same shape."""
    full = {id(found): full_bytes(group) for group in _groups(estimates) for found in group}
    return [_plain_row(found, full[id(found)]) for found in estimates]


def _plain_row(found: Estimate, full: int | None) -> dict[str, Any]:
    spec, profile, published = found.spec, found.profile, found.published
    row: dict[str, Any] = {
        "method": found.label,
        "model": spec.model.name,
        "batch_size": spec.train.batch_size,
        "max_length": spec.data.max_length,
        "dtype": spec.model.dtype,
        "quantization": spec.model.quantization,
        "task": spec.data.task,
        "operators": found.kind,
        "label": "exact" if found.exact else "by formula",
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
