"""``peprof show`` for a terminal: whose the memory of a run's training step was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from rich.console import Console

from peprof.breakdown.tree import Branch, branches
from peprof.breakdown.values import Moment, PoolMemory, StepProfile
from peprof.errors import UsageError
from peprof.reports import memory_words as words
from peprof.reports.bytes_table import Line, print_lines
from peprof.reports.memory_categories import UNATTRIBUTED
from peprof.reports.terminal import INDENT, print_tensorboard, say
from peprof.results.finding import FoundRun
from peprof.results.record import OutOfMemory

Division = Literal["category", "module", "operator", "owner"]

DEFAULT_DEPTH = 3
DEFAULT_TOP = 12


def moment_to_show(run: FoundRun, phase: str | None, by: Sequence[Division]) -> Moment:
    """The peak of the step, or of one phase; where memory ran out, that moment instead of the step's peak.

    Args:
        run: with a profile.
        phase: whose peak it is; the step's unless given.
        by: what it is going to be divided by.

    Raises:
        UsageError: there is no profile, no such phase, or no owners are known.
    """
    profile = require_memory(run)
    known = [part.phase for part in profile.phases]
    if phase is not None and phase not in known:
        raise UsageError(
            f"the step of '{run.name}' has no phase '{phase}'", hint=f"Its phases are {', '.join(known)}."
        )
    moment = words.highest_moment(profile) if phase is None else profile.phase(phase).peak
    if "owner" in by and not moment.owners:
        raise UsageError(
            f"the owners of the memory of '{run.name}' aren't known",
            hint="They are where 'peprof run' measured, or 'profile_step' was given an 'owner'.",
        )
    return moment


def require_memory(run: FoundRun) -> StepProfile:
    """The profile of a run.

    Raises:
        UsageError: it has none.
    """
    if run.memory is None:
        raise UsageError(f"whose the memory of '{run.name}' was isn't known", hint=_why_nothing(run))
    return run.memory


def _why_nothing(run: FoundRun) -> str:
    record = run.record
    if record is None:
        return "Name another run."
    ending = words.ending_words(record)
    if ending is not None:
        return f"It ended before that was looked at. {ending}"
    if "short" not in record.spec.phases:
        return "Its suite leaves out the short phase, in which memory is looked at: add '--phase short'."
    return "It has no memory.json: an older peprof did it, or a warning in its record says why. Run it again."


def print_memory(
    console: Console,
    run: FoundRun,
    *,
    by: Sequence[Division] = ("category", "module"),
    phase: str | None = None,
    depth: int = DEFAULT_DEPTH,
    top: int | None = None,
) -> None:
    """Prints the headline, the peaks of the phases, and the highest moment divided.

    Args:
        console: where to.
        run: with a profile, or with what a record says of the moment when memory ran out.
        by: the divisions, in order.
        phase: whose peak is divided; the step's unless given.
        depth: levels of the tree of modules.
        top: rows of a table, and children of a module; a dozen and all categories unless given.

    Raises:
        UsageError: there is no profile, no such phase, or no owners are known.
    """
    failure = run.record.failure if run.record else None
    if run.memory is None and phase is None and failure is not None and failure.memory is not None:
        print_heading(console, run)
        _print_what_a_record_says(console, failure.memory)
        return
    profile, moment = require_memory(run), moment_to_show(run, phase, by)
    ran_out = profile.ran_out if phase is None else None
    print_heading(console, run)
    if ran_out is None:
        say(console, words.peak_words(moment, of_phase=phase is not None), "bold")
    else:
        where = (ran_out.phase, ran_out.operator, ran_out.module)
        say(console, words.ran_out_words(moment.total_bytes, *where), "bold")
    if run.record is not None:
        for sentence in words.counter_words(run.record):
            say(console, sentence, "")
    unattributed = moment.categories.get(UNATTRIBUTED, 0)
    if unattributed:
        say(console, words.residual_words(moment, unattributed), "yellow")
    _print_phases(console, profile, moment.phase)
    at = "At the peak" if phase is None else f"At the peak of {phase}"
    if ran_out is not None:
        at = "When memory ran out"
    for division in by:
        lines = list(_lines_of(moment, division, depth=depth, top=top))
        heads = ("total", "own") if division == "module" else ("size",)
        print_lines(console, f"{at}, by {division}", (division, *heads), lines, moment.total_bytes)
        if division == "category" and phase is None and profile.pool is not None:
            _print_pool(console, profile.pool, top=top)


def print_heading(console: Console, run: FoundRun) -> None:
    """Method, model and circumstances, where its log lies, and how the run ended where that wasn't well."""
    say(console, words.title(run), "bold")
    if run.record is None:
        return
    say(console, " · ".join(words.circumstances(run.record)), "dim")
    if run.tensorboard is not None:
        print_tensorboard(console, run.tensorboard, indent=INDENT)
    ending = words.ending_words(run.record)
    if ending is not None:
        say(console, ending, "red")


def _print_what_a_record_says(console: Console, memory: OutOfMemory) -> None:
    """Of a run that ran out of memory and has no profile, what was alive then."""
    where = (memory.phase, memory.operator, memory.module)
    say(console, words.ran_out_words(memory.live_bytes, *where), "bold")
    lines = list(_flat(memory.categories, top=None, colored=True))
    print_lines(console, "When memory ran out, by category", ("category", "size"), lines, memory.live_bytes)


def _print_pool(console: Console, pool: PoolMemory, *, top: int | None) -> None:
    """The peaks as the device's pool counts them: what lies outside of tensors is there, by name."""
    for counter, moment in (("requested", pool.requested), ("allocated", pool.allocated)):
        where = f" in {moment.phase}" if moment.phase else ""
        heading = f"At the pool's peak of {counter} bytes{where}, by category"
        lines = list(_flat(moment.categories, top=top, colored=True))
        print_lines(console, heading, ("category", "size"), lines, moment.total_bytes)


def _print_phases(console: Console, profile: StepProfile, highest: str) -> None:
    peak = profile.peak_bytes
    lines = [
        Line(
            name=part.phase,
            sizes=(part.peak.total_bytes, part.end_bytes),
            categories=part.peak.categories,
            style="bold" if part.phase == highest else "",
        )
        for part in profile.phases
    ]
    print_lines(console, "Phases", ("phase", "peak", "at its end"), lines, peak, shares=False)


def _lines_of(moment: Moment, division: Division, *, depth: int, top: int | None) -> Iterator[Line]:
    if division == "category":
        return _flat(moment.categories, top=top, colored=True)
    if division == "module":
        tree = branches(moment.modules, depth=depth, top=top or DEFAULT_TOP)
        return (
            Line(
                name=_guided(branch),
                sizes=(branch.total_bytes, branch.own_bytes),
                categories=branch.categories,
                style="bold" if branch.level <= 1 else "",
            )
            for branch in tree
        )
    values = moment.operators if division == "operator" else moment.owners
    return _flat(values, top=top or DEFAULT_TOP, colored=False)


def _guided(branch: Branch) -> str:
    if branch.level <= 1:
        return branch.label
    *above, last = branch.guides[1:]
    return "".join("   " if done else "│  " for done in above) + ("└─ " if last else "├─ ") + branch.label


def _flat(values: Mapping[str, int], *, top: int | None, colored: bool) -> Iterator[Line]:
    """The largest, the sum of the others, and what is unattributed in any case."""
    names = [name for name, count in values.items() if count]
    shown = names if top is None else names[:top]
    rest = names[len(shown) :]
    if UNATTRIBUTED in rest:
        rest.remove(UNATTRIBUTED)
        shown.append(UNATTRIBUTED)
    for name in shown:
        yield Line(
            name=name,
            sizes=(values[name],),
            categories={name: values[name]} if colored else {},
            style="yellow" if name == UNATTRIBUTED else "",
        )
    if rest:
        yield Line(
            name=f"({len(rest)} more)",
            sizes=(sum(values[name] for name in rest),),
            categories={},
            style="dim",
        )
