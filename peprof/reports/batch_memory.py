"""The memory of one model's training step against the batch's size, a line a method, with what GPUs have.

What both kinds of picture show, and the choice between them by the file's ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peprof.errors import UsageError
from peprof.reports.curves import COLORS, DASHES
from peprof.reports.estimate_notes import device_words
from peprof.reports.memory_plot import check_plot_file, write_plot
from peprof.results.estimates import DeviceMemory

USUAL_GIB = (8, 16, 24, 40, 80)
"""What GPUs are sold with, in units of 2^30 bytes; a little of it isn't there for a step."""
TENSORS_AXIS = "memory of tensors, GiB"
DEVICE_AXIS = "memory used on the device, GiB"
_GIB = 2**30
_LOGARITHMIC = 16  # from the least to the most


@dataclass(frozen=True, kw_only=True)
class MethodLine:
    """A method.

    Args:
        name: of the method.
        color: as HTML has it.
        dash: one of ``DASHES`` of the curves.
        batch_sizes: from the smallest to the largest.
        gib: memory at each of them, in 2^30 bytes.
    """

    name: str
    color: str
    dash: str
    batch_sizes: tuple[int, ...]
    gib: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What there may be of memory.

    Args:
        gib: in 2^30 bytes.
        name: what stands beside its line.
    """

    gib: float
    name: str


@dataclass(frozen=True, kw_only=True)
class BatchMemory:
    """The picture.

    Args:
        title: the model.
        subtitle: how it is trained, and how the bytes are known.
        axis: what is drawn upward, with its unit.
        lines: the method that needs most at its largest batch first, as they lie above each other.
        limits: what the GPU has that it is about; of no known one all usual sizes that are reached, and the
            next.
        logarithmic_batch, logarithmic_memory: the axes that are.
    """

    title: str
    subtitle: str
    axis: str
    lines: tuple[MethodLine, ...]
    limits: tuple[Limit, ...]
    logarithmic_batch: bool
    logarithmic_memory: bool

    @property
    def ceiling_gib(self) -> float:
        """Where the upward axis ends."""
        return 1.08 * max(*(max(line.gib) for line in self.lines), *(limit.gib for limit in self.limits))

    @property
    def floor_gib(self) -> float:
        """Where it begins."""
        if not self.logarithmic_memory:
            return 0.0
        highest_limit = max(limit.gib for limit in self.limits)  # stays in sight
        return 0.8 * min(highest_limit, *(min(line.gib) for line in self.lines))


def draw_batch_memory(
    found: Mapping[str, Sequence[tuple[int, int]]],
    path: Path,
    *,
    title: str,
    subtitle: str = "",
    device: DeviceMemory | None = None,
) -> None:
    """Draws memory against batch size into a file.

    Args:
        found: by method, (batch size, bytes) in any order.
        path: ends with ``.svg``, ``.png`` or ``.html``.
        title: the model.
        subtitle: how it is trained, and how the bytes are known.
        device: the GPU on which they are used; ``None`` where they are those of tensors.

    Raises:
        UsageError: there is nothing to draw, or the file's name is wrong.
        StoreError: the file can't be written.
    """
    check_plot_file(path)
    drawn = batch_memory(found, title=title, subtitle=subtitle, device=device)
    if path.suffix.lower() == ".html":
        from peprof.reports.batch_memory_html import page

        content = page(drawn).encode()
    else:
        from peprof.reports.batch_memory_image import picture

        content = picture(drawn, kind=path.suffix.lower().removeprefix("."))
    write_plot(path, content)


def batch_memory(
    found: Mapping[str, Sequence[tuple[int, int]]],
    *,
    title: str,
    subtitle: str = "",
    device: DeviceMemory | None = None,
) -> BatchMemory:
    """What is drawn; methods of which nothing is known are left out.

    Args:
        found, title, subtitle, device: as for ``draw_batch_memory``.

    Raises:
        UsageError: nothing is known of any method.
    """
    known = {name: sorted(points) for name, points in found.items() if points}
    if not known:
        raise UsageError(
            "there is nothing to draw: no method has a batch size whose memory is known",
            hint="Ask for smaller batches, or see why each method has none.",
        )
    order = sorted(known, key=lambda name: -known[name][-1][1])
    lines = tuple(
        MethodLine(
            name=name,
            color=COLORS[place % len(COLORS)],
            dash=DASHES[place // len(COLORS) % len(DASHES)],
            batch_sizes=tuple(batch for batch, _ in known[name]),
            gib=tuple(nbytes / _GIB for _, nbytes in known[name]),
        )
        for place, name in enumerate(order)
    )
    sizes = [batch for line in lines for batch in line.batch_sizes]
    memory = [gib for line in lines for gib in line.gib]
    return BatchMemory(
        title=title,
        subtitle=subtitle,
        axis=TENSORS_AXIS if device is None else DEVICE_AXIS,
        lines=lines,
        limits=_usual_sizes(max(memory)) if device is None else (_limit_of(device),),
        logarithmic_batch=min(sizes) > 0 and max(sizes) >= _LOGARITHMIC * min(sizes),
        logarithmic_memory=min(memory) > 0 and max(memory) > _LOGARITHMIC * min(memory),
    )


def _usual_sizes(highest_gib: float) -> tuple[Limit, ...]:
    """Those that somebody would ask about: all that are too small, and the first that is enough."""
    too_small = [size for size in USUAL_GIB if size < highest_gib]
    return tuple(Limit(gib=size, name=f"{size} GiB") for size in USUAL_GIB[: len(too_small) + 1])


def _limit_of(device: DeviceMemory) -> Limit:
    return Limit(gib=device.total_bytes / _GIB, name=device_words(device))
