"""What fits into a device's memory as measured, beside what was estimated: a table, and for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from peprof.reports.csv_rows import rows_as_csv
from peprof.reports.estimates import circumstances, heading
from peprof.reports.fits import limit_words
from peprof.reports.formats import MISSING, human_bytes, human_seconds, signed
from peprof.reports.markdown_rows import markdown_table
from peprof.reports.narrow import print_that_fits, too_narrow_words
from peprof.reports.spec_columns import fixed_columns, method_words, spec_columns
from peprof.reports.terminal import say
from peprof.results.estimates import Estimate
from peprof.results.measured_fits import Ended, MeasuredFit, Trial

HEADS = (
    "method",
    "looked for",
    "largest",
    "estimated",
    "peak",
    "reserved",
    "estimate there",
    "one more",
    "bound by",
    "tried",
)
_NUMBERS = ("largest", "estimated", "peak", "reserved", "estimate there", "tried")
_FOLDED = ("method", "one more", "bound by")
_DROPPED_FIRST = ("tried", "reserved", "one more", "peak", "estimate there", "bound by", "estimated")
"""Where it is too narrow."""
ENDED_WORDS: dict[Ended, str] = {
    "fits": "fits",
    "over": "needs more",
    "oom": "out of memory",
    "killed": "killed",
    "failed": "failed",
    "died": "died",
    "timeout": "too late",
}
CPU_NOTE = (
    "Measured on {device}: two training steps of each size tried, in a process of their own. A size fits if "
    "the second one's peak is within {memory}, by the allocator's own events; what Python and libraries hold "
    "comes on top."
)
GPU_NOTE = (
    "Measured on {device}: two training steps of each size tried, in a process of their own, whose pool of "
    "memory was kept to {memory}. {beside}"
)
FREE_NOTE = (
    "Measured on {device}: two training steps of each size tried, in a process of their own that could have "
    "all that was free: {memory} beside a bare context. {beside}"
)
_BESIDE = "Context and libraries took up to {} beside it: leave room for them."
_BESIDE_UNKNOWN = "Context and libraries take more beside it: leave room for them."
_WITHIN = "Context and libraries took up to {} beside the pool; what fits has room for them."
_WITHIN_UNKNOWN = "What libraries take beside the pool is allowed for in what fits."


def trial_words(fit: MeasuredFit, trial: Trial) -> str:
    """What came of a try, in a line: ``lora, batch 37: fits, peak 498 MiB (3.20 s)``."""
    words = ENDED_WORDS[trial.ended]
    if trial.peak_bytes is not None:
        words += f", peak {human_bytes(trial.peak_bytes)}"
    elif trial.phase is not None:
        words += f" in {trial.phase}"
    name = f"{method_words(fit.spec)}, {fit.dimension} {trial.size}"
    return f"{name}: {words} ({human_seconds(trial.seconds)})"


def print_measured_fits(console: Console, found: Sequence[MeasuredFit]) -> None:
    """Prints a row a method and what was looked for.

    Args:
        console: where to.
        found: at least one; some may be unfinished.
    """
    for group in _groups(found):
        say(console, heading(group[0].spec, _estimates(group)), "bold")
        say(console, f"{human_bytes(group[0].memory_bytes)} · {_asked_words(group[0])}", "dim")
        heads = heads_of(group)
        console.print()
        left_out = print_that_fits(
            console,
            heads,
            [row_of(fit, heads) for fit in group],
            numbers=_NUMBERS,
            folded=_FOLDED,
            dropped_first=_DROPPED_FIRST,
        )
        console.print()
        if left_out:
            say(console, too_narrow_words(left_out, ", or use --format csv"), "dim")
    for words in remarks(found):
        say(console, words, "yellow")
    say(console, _note(found), "dim")


def _groups(found: Sequence[MeasuredFit]) -> list[list[MeasuredFit]]:
    """Those that stand in one table: all but the method and what is looked for is the same."""
    groups: dict[str, list[MeasuredFit]] = {}
    for fit in found:
        groups.setdefault(f"{fit.spec.model.model_dump_json()} {_asked_words(fit)}", []).append(fit)
    return list(groups.values())


def _estimates(group: Sequence[MeasuredFit]) -> list[Estimate]:
    return [fit.estimated.estimate for fit in group if fit.estimated is not None]


def _asked_words(fit: MeasuredFit) -> str:
    """What all rows have in common: each dimension is as the run has it where the other one grows."""
    spec = fit.spec
    return f"batches at length {spec.data.max_length} · lengths at batch {spec.train.batch_size} · " + (
        " · ".join(circumstances(spec).split(" · ")[2:])
    )


def heads_of(found: Sequence[MeasuredFit]) -> tuple[str, ...]:
    """Of the columns: a pool's own where there is one."""
    has_pool = any(trial.reserved_bytes is not None for fit in found for trial in fit.trials)
    return tuple(name for name in HEADS if has_pool or name != "reserved")


def row_of(fit: MeasuredFit, heads: Sequence[str]) -> tuple[str, ...]:
    """A row's cells, by the heads of their columns."""
    border, error = fit.border, fit.estimate_error
    cells = {
        "method": method_words(fit.spec),
        "looked for": fit.dimension,
        "largest": _largest_words(fit),
        "estimated": _estimated_words(fit),
        "peak": _bytes_words(border.peak_bytes if border is not None else None),
        "reserved": _bytes_words(border.reserved_bytes if border is not None else None),
        "estimate there": _share_words(error),
        "one more": _beyond_words(fit),
        "bound by": fit.bound_by or limit_words(fit) or MISSING,
        "tried": str(len(fit.trials)),
    }
    return tuple(cells[name] for name in heads)


def _bytes_words(nbytes: int | None) -> str:
    return human_bytes(nbytes) if nbytes is not None else MISSING


def _share_words(share: float | None) -> str:
    return f"{signed(f'{100 * abs(share):.1f}', share)} %" if share is not None else MISSING


def _largest_words(fit: MeasuredFit) -> str:
    if fit.verified:
        return str(fit.largest) if fit.largest is not None else "none"
    return f"at least {fit.largest}" if fit.largest is not None else MISSING


def _estimated_words(fit: MeasuredFit) -> str:
    estimated = fit.estimated
    if estimated is None or estimated.estimate.problem is not None:
        return MISSING
    return str(estimated.largest) if estimated.largest is not None else "none"


def _beyond_words(fit: MeasuredFit) -> str:
    beyond = fit.beyond
    if beyond is None:
        return MISSING
    words = ENDED_WORDS[beyond.ended]
    if beyond.peak_bytes is not None:
        words = human_bytes(beyond.peak_bytes)
    return words if fit.verified else f"{beyond.size}: {words}"


def remarks(found: Sequence[MeasuredFit]) -> list[str]:
    """What must not be missed of single rows: sentences."""
    lines: list[str] = []
    for fit in found:
        name = f"{method_words(fit.spec)}, {fit.dimension}"
        lines += [
            f"{name} {trial.size}: {trial.message}; counts as not fitting."
            for trial in fit.trials
            if trial.ended == "killed"
        ]
        if fit.unanswered is not None:
            failed = fit.unanswered
            lines.append(f"{name} {failed.size}: {ENDED_WORDS[failed.ended]}: {failed.message}")
        if fit.border is not None and fit.border.alloc_retries:
            lines.append(
                f"{name} {fit.border.size}: the pool had to be emptied to find room: steps would be faster "
                "with a smaller one."
            )
        if fit.estimated is not None and fit.estimated.estimate.problem is not None:
            lines.append(f"{name}: no estimate: {fit.estimated.estimate.problem}")
    return lines


def missing_words(found: Sequence[MeasuredFit]) -> str:
    """What isn't known yet: ``lora batch, full length (at least 12)``; empty where all is."""
    return ", ".join(
        f"{method_words(fit.spec)} {fit.dimension}" + (f" (at least {fit.largest})" if fit.largest else "")
        for fit in found
        if not fit.verified
    )


def _note(found: Sequence[MeasuredFit]) -> str:
    first = found[0]
    beside = [t.unowned_bytes for fit in found for t in fit.trials if t.unowned_bytes is not None]
    known, unknown = (_BESIDE, _BESIDE_UNKNOWN) if first.limit == "asked" else (_WITHIN, _WITHIN_UNKNOWN)
    words = known.format(human_bytes(max(beside))) if beside else unknown
    on_gpu = GPU_NOTE if first.limit == "asked" else FREE_NOTE
    note = CPU_NOTE if first.device == "cpu" else on_gpu
    lines = [note.format(device=first.device_name, memory=human_bytes(first.memory_bytes), beside=words)]
    lines += [f"Estimated on the assumption of {text}." for text in first.assumptions]
    return " ".join(lines)


def plain_rows(found: Sequence[MeasuredFit]) -> list[dict[str, Any]]:
    """A border a row, with units in the names; without the single tries."""
    rows: list[dict[str, Any]] = []
    for fit in found:
        border, beyond, failed = fit.border, fit.beyond, fit.unanswered
        estimated = fit.estimated
        rows.append(
            {
                **spec_columns(fit.spec),
                **fixed_columns(fit.spec, fit.dimension),
                "dimension": fit.dimension,
                "device": fit.device,
                "device_name": fit.device_name,
                "memory_bytes": fit.memory_bytes,
                "memory_limit": fit.limit,
                "largest": fit.largest,
                "verified": fit.verified,
                "estimated_largest": estimated.largest if estimated is not None else None,
                "peak_bytes": border.peak_bytes if border is not None else None,
                "reserved_bytes": border.reserved_bytes if border is not None else None,
                "unowned_bytes": border.unowned_bytes if border is not None else None,
                "alloc_retries": border.alloc_retries if border is not None else None,
                "estimated_bytes": fit.estimated_bytes,
                "estimate_error": fit.estimate_error,
                "beyond": beyond.size if beyond is not None else None,
                "beyond_ended": beyond.ended if beyond is not None else None,
                "beyond_bytes": beyond.peak_bytes if beyond is not None else None,
                "certainty": "measured",
                "limited_by_the_model": fit.at_models_end,
                "bound_by": fit.bound_by,
                "tried": len(fit.trials),
                "seconds": sum(trial.seconds for trial in fit.trials),
                "problem": failed.message if failed is not None else None,
                "estimate_problem": estimated.estimate.problem if estimated is not None else None,
            }
        )
    return rows


def measured_fits_as_json(found: Sequence[MeasuredFit]) -> str:
    """A list of borders, each with its tries."""
    rows = [
        {**row, "tries": [asdict(trial) for trial in fit.trials]}
        for row, fit in zip(plain_rows(found), found, strict=True)
    ]
    return json.dumps(rows, indent=2)


def measured_fits_as_csv(found: Sequence[MeasuredFit]) -> str:
    """A row a border."""
    return rows_as_csv(plain_rows(found))


def measured_fits_as_markdown(found: Sequence[MeasuredFit]) -> str:
    """The same tables in Markdown, and what is to be said of them."""
    parts: list[str] = []
    for group in _groups(found):
        heads = heads_of(group)
        parts += [
            f"**{heading(group[0].spec, _estimates(group))}**",
            f"{human_bytes(group[0].memory_bytes)} · {_asked_words(group[0])}",
            markdown_table(heads, [row_of(fit, heads) for fit in group], numbers=_NUMBERS),
        ]
    return "\n\n".join([*parts, *remarks(found), _note(found)])
