"""What is said of a run's memory before any table: what ran, where the peak lies, what the device counted."""

from __future__ import annotations

from peprof.breakdown.sizes import human_bytes, human_percent
from peprof.breakdown.values import Moment, StepProfile
from peprof.reports.columns import failure_words
from peprof.results.conditions import conditions
from peprof.results.finding import FoundRun
from peprof.results.record import MemoryResult, RunRecord

_SOURCES = {
    "torch.profiler": "The allocations that torch's profiler saw",
    "cuda_allocator": "The allocator's own counter",
}


def title(run: FoundRun) -> str:
    """The method and the model; of a bare profile its file."""
    record = run.record
    if record is None:
        device = f" on {run.memory.device}" if run.memory else ""
        return f"{run.name}{device}"
    spec = record.spec
    options = ", ".join(
        f"{key}={_option(value)}" for key, value in spec.method.options.items() if value is not None
    )
    return f"{spec.method.label}{f' ({options})' if options else ''} on {spec.model.name}"


def picture_title(run: FoundRun) -> str:
    """As ``title``, with no more of the options than fits above a picture."""
    record = run.record
    if record is None or len(title(run)) <= PICTURE_TITLE:
        return title(run)
    return f"{record.spec.method.label} on {record.spec.model.name}"


PICTURE_TITLE = 90
"""Characters that fit above a picture."""


def _option(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def circumstances(record: RunRecord) -> list[str]:
    """Batch, type of numbers, attention kernel, device."""
    known = conditions(record)
    threads = known.get("threads")
    about = [
        known.get("device name"),
        f"{threads} thread{'' if threads == '1' else 's'}" if threads else None,
    ]
    more = ", ".join(part for part in about if part)
    device = f"{known['device']} ({more})" if more else known["device"]
    return [
        f"batch {known['batch size']} × {known['max length']} tokens",
        known["dtype"],
        known.get("attention kernel") or known["attention"],
        device,
        record.run_id,
    ]


def highest_moment(profile: StepProfile) -> Moment:
    """The one to look at: the peak, or where memory ran out."""
    return profile.peak if profile.ran_out is None else profile.ran_out.live


def peak_words(moment: Moment, *, of_phase: bool) -> str:
    """Size, phase, operator and module of the highest moment.

    Args:
        moment: the highest one.
        of_phase: it is the peak of a phase that was asked for, not of the step.
    """
    size = f"{human_bytes(moment.total_bytes)} ({moment.total_bytes:,} B)"
    words = f"Peak of {moment.phase}: {size}" if of_phase else f"Peak {size} in {moment.phase}"
    return words + _where(moment.operator, moment.module)


def ran_out_words(live_bytes: int, phase: str, operator: str | None, module: str | None) -> str:
    """Size, phase, operator and module of the moment when memory ran out."""
    size = f"{human_bytes(live_bytes)} ({live_bytes:,} B)"
    return f"{size} were alive when memory ran out in {phase}{_where(operator, module)}"


def _where(operator: str | None, module: str | None) -> str:
    return "" if operator is None else f", in {operator} {place_words(module)}"


def place_words(module: str | None) -> str:
    """Where an operator ran."""
    return f"of {module}" if module else "outside the model" if module is None else "of the model itself"


def counter_words(record: RunRecord) -> list[str]:
    """What the device's own counter said, and the rest that the breakdown doesn't count."""
    if record.short is None or record.short.memory is None:
        return []
    memory, breakdown = record.short.memory, record.short.breakdown
    words = f"{_SOURCES[memory.source]}: peak {human_bytes(memory.peak_allocated_bytes)}"
    if breakdown is not None:
        words += f"; {_uncounted(breakdown.uncounted_bytes, memory.peak_allocated_bytes)}"
    return [f"{words}.", *_pool_words(memory)]


def _uncounted(count: int, peak: int) -> str:
    if count == 0:
        return "the breakdown counts all of it"
    size = f"{human_bytes(abs(count))} ({human_percent(abs(count) / peak) if peak else '–'} %)"
    if count < 0:
        return f"the breakdown counts {size} more"
    return f"the breakdown leaves {size} uncounted: memory inside operators, workspaces, rounding"


def _pool_words(memory: MemoryResult) -> list[str]:
    parts = []
    if memory.peak_reserved_bytes is not None:
        parts.append(f"reserved from the device {human_bytes(memory.peak_reserved_bytes)}")
    if memory.device_bytes is not None:
        whose = "by this process" if memory.device_bytes_of == "process" else "by everybody"
        parts.append(f"used on the device {human_bytes(memory.device_bytes)} {whose}")
    if memory.alloc_retries:
        parts.append(f"{memory.alloc_retries} retries after emptying the pool")
    if memory.ooms:
        parts.append(f"{memory.ooms} times out of memory, caught")
    if not parts:
        return []
    text = ", ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."]


def residual_words(moment: Moment, unattributed: int) -> str:
    """The rest of which nobody is known to be the owner."""
    share = human_percent(unattributed / moment.total_bytes) if moment.total_bytes else "–"
    size = human_bytes(unattributed)
    return f"Unattributed: {size} ({share} %) that no parameter, batch or saved tensor owns."


def ending_words(record: RunRecord) -> str | None:
    """How a run ended that has no complete result; ``None`` for one that is fine."""
    if record.failure is None:
        return None
    words = failure_words(record.status, record.failure)
    return f"{words[0].upper()}{words[1:]}"
