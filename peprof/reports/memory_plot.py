"""What both kinds of picture of a run's memory show, and the choice between them by the file's ending.

Above the timeline of live bytes, stacked by category, with its phases; below the peak by module: each of them
as wide as its bytes, the ends coloured by category.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from peprof.breakdown.sizes import human_bytes
from peprof.breakdown.tree import categories_below, drawn_together, relative_name
from peprof.breakdown.values import ModuleBytes, StepProfile, Timeline
from peprof.errors import StoreError, UsageError
from peprof.reports import memory_words
from peprof.reports.memory import require_memory
from peprof.reports.memory_categories import stacked
from peprof.results.finding import FoundRun

ENDINGS = (".svg", ".png", ".html")

_UNITS = (("B", 1), ("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3), ("TiB", 1024**4))


def check_plot_file(path: Path) -> None:
    """Says at once what would be wrong with a file in the end.

    Raises:
        UsageError: its ending is unknown, or its directory doesn't exist.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"can't draw '{path}': its ending says nothing of a picture",
            hint=f"The ending decides what is drawn: {', '.join(ENDINGS)}.",
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"can't draw '{path}': there is no directory '{path.parent}'",
            hint="Make it, or name a file elsewhere.",
        )


def draw_memory(run: FoundRun, path: Path) -> None:
    """Draws the step's timeline and its peak into a file.

    Args:
        run: with a profile.
        path: ends with one of ``ENDINGS``.

    Raises:
        UsageError: the run has no profile, or the file's name is wrong.
        StoreError: the file can't be written.
    """
    check_plot_file(path)
    profile = require_memory(run)
    heading = headings(run, profile)
    if path.suffix.lower() == ".html":
        from peprof.reports.memory_plot_html import page

        content = page(profile, heading).encode()
    else:
        from peprof.reports.memory_plot_image import picture

        content = picture(profile, heading, kind=path.suffix.lower().removeprefix("."))
    write_plot(path, content)


def write_plot(path: Path, content: bytes) -> None:
    """Writes a picture.

    Raises:
        StoreError: the file can't be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(
            f"can't write '{path}': {error.strerror or error}",
            hint="Check the disk's space and who may write there, or name a file elsewhere.",
        ) from error


@dataclass(frozen=True, kw_only=True)
class Headings:
    """What stands above the pictures.

    Args:
        title: method and model.
        subtitle: how it was measured.
        timeline: of the upper picture.
        peak: of the lower one.
        place: operator and module of the peak; empty where there are none.
    """

    title: str
    subtitle: str
    timeline: str
    peak: str
    place: str


def headings(run: FoundRun, profile: StepProfile) -> Headings:
    """The titles of a run's pictures."""
    moment, ran_out = memory_words.highest_moment(profile), profile.ran_out
    peak = f"The peak, {human_bytes(moment.total_bytes)} in {moment.phase}"
    operator, module = moment.operator, moment.module
    if ran_out is not None:
        peak = f"When memory ran out in {ran_out.phase}, {human_bytes(moment.total_bytes)}"
        operator, module = ran_out.operator, ran_out.module
    return Headings(
        title=memory_words.picture_title(run),
        subtitle=" · ".join(memory_words.circumstances(run.record)) if run.record else "",
        timeline="Live bytes over one training step, by category",
        peak=f"{peak}, by module and category",
        place=f"in {operator} {memory_words.place_words(module)}" if operator else "",
    )


def unit_of(highest: int) -> tuple[str, int]:
    """The unit for an axis up to ``highest`` bytes, and its bytes."""
    fitting = [unit for unit in _UNITS if unit[1] <= highest]
    return fitting[-1] if fitting else _UNITS[0]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of the timeline within one phase.

    Args:
        phase: its name.
        start, end: in events.
    """

    phase: str
    start: int
    end: int


def spans(timeline: Timeline) -> list[Span]:
    """The phases along a timeline, each up to the beginning of the next; one may come more than once."""
    points = list(zip(timeline.phases, timeline.events, strict=True))
    starts = [(phase, next(part)[1]) for phase, part in groupby(points, key=lambda point: point[0])]
    ends = [start for _, start in starts[1:]] + [timeline.events[-1] if timeline.events else 0]
    return [
        Span(phase=phase, start=start, end=end)
        for (phase, start), end in zip(starts, ends, strict=True)
        if end > start
    ]


def layers(timeline: Timeline) -> dict[str, tuple[int, ...]]:
    """The categories that have bytes at some time, from the bottom of the stack to its top."""
    return {
        name: timeline.categories[name]
        for name in stacked(timeline.categories)
        if any(timeline.categories[name])
    }


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A rectangle of the icicle: a module, or one category of a module's own bytes.

    Args:
        key: of its own, unlike all others.
        parent: key of the cell above; ``None`` for the root.
        label: what its name adds to that of the module above.
        name: the module's qualified name.
        category: ``None`` for a module.
        level: 0 for the root.
        start: bytes to the left of it.
        nbytes: its width.
    """

    key: str
    parent: str | None
    label: str
    name: str
    category: str | None
    level: int
    start: int
    nbytes: int


def cells(root: ModuleBytes, *, depth: int | None = None) -> Iterator[Cell]:
    """The icicle from the top; what lies below a cell is as wide as the cell.

    Args:
        root: of the tree of modules.
        depth: levels of modules below the root; deeper ones are drawn as their categories. All unless given.
    """
    yield from _cells(root, None, 0, 0, depth)


def _cells(
    module: ModuleBytes, parent: ModuleBytes | None, level: int, start: int, depth: int | None
) -> Iterator[Cell]:
    key = f"module {module.name}"
    yield Cell(
        key=key,
        parent=None if parent is None else f"module {parent.name}",
        label="all" if parent is None else relative_name(module.name, parent.name),
        name=module.name,
        category=None,
        level=level,
        start=start,
        nbytes=module.total_bytes,
    )
    own: Mapping[str, int] = module.categories
    children = _in_order(module)
    if depth is not None and level >= depth:
        own, children = categories_below(module), ()
    for child in children:
        yield from _cells(drawn_together(child), module, level + 1, start, depth)
        start += child.total_bytes
    for category in stacked(own):
        if own[category]:
            yield Cell(
                key=f"{key} {category}",
                parent=key,
                label=category,
                name=module.name,
                category=category,
                level=level + 1,
                start=start,
                nbytes=own[category],
            )
            start += own[category]


def _in_order(module: ModuleBytes) -> tuple[ModuleBytes, ...]:
    """Children with numbers, such as layers, by these; others stay largest first."""
    numbers = [relative_name(child.name, module.name).partition(".")[0] for child in module.children]
    if not all(number.isdecimal() for number in numbers):
        return module.children
    order = sorted(range(len(numbers)), key=lambda place: int(numbers[place]))
    return tuple(module.children[place] for place in order)
