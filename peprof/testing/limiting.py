"""Holds a test to its limit of memory, and says whose the memory was where it went beyond."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import torch

from peprof.breakdown.sizes import human_bytes, human_percent
from peprof.breakdown.tree import branches
from peprof.breakdown.values import StepProfile
from peprof.profiler.phases import OUTSIDE_PHASE
from peprof.testing.live_tensors import LiveTensors

TOP = 5
"""Lines of each table of a message."""


class AllocatorPeaks:
    """The caching allocator's own peaks over a stretch of code, by device, less what was in use before.

    Code that resets these peaks itself, as ``measure_memory`` does, hides what was before that.

    Args:
        cuda: ``torch.cuda``, or what stands in for it in a test.
    """

    def __init__(self, cuda: ModuleType | Any = torch.cuda) -> None:
        self._cuda = cuda
        self._start_bytes: dict[int, int] = {}

    def begin(self) -> None:
        """Resets the peaks. Where CUDA wasn't used yet it isn't begun to be: all peaks are of what comes."""
        if self._cuda.is_initialized():
            for index in range(self._cuda.device_count()):
                self._cuda.reset_peak_memory_stats(index)
                self._start_bytes[index] = self._cuda.memory_allocated(index)

    def peaks(self) -> dict[torch.device, int]:
        """Bytes by device; none where CUDA wasn't used."""
        if not self._cuda.is_initialized():
            return {}
        return {
            torch.device("cuda", index): self._cuda.max_memory_allocated(index)
            - self._start_bytes.get(index, 0)
            for index in range(self._cuda.device_count())
        }


@dataclass(frozen=True, kw_only=True)
class Excess:
    """A device on which a limit was passed.

    Args:
        limit_bytes: what was allowed.
        peak_bytes: what counts against it.
        counted_by_allocator: the peak is the device's allocator's; otherwise the tensors' own bytes.
        profile: of the tensors: whose they were.
    """

    limit_bytes: int
    peak_bytes: int
    counted_by_allocator: bool
    profile: StepProfile

    def __str__(self) -> str:
        peak = self.profile.peak
        phase = "" if peak.phase == OUTSIDE_PHASE else f", in {peak.phase}"
        operator = f", in {peak.operator}" if peak.operator else ""
        module = f" of {peak.module}" if peak.module else ""
        lines = [
            f"more memory on {self.profile.device} than limit_peak_memory allows",
            f"  limit  {_size(self.limit_bytes)}",
            f"  peak   {_size(self.peak_bytes)}{phase}{operator}{module}",
        ]
        if self.counted_by_allocator:
            lines.append(
                f"  of it  {_size(peak.total_bytes)} are tensors; the rest is the allocator's rounding and "
                "what libraries use"
            )
        tree = branches(peak.modules, depth=2, top=TOP)
        modules = [("  " * (line.level - 1) + line.label, line.total_bytes) for line in tree if line.level]
        lines += _table("what it was", _top(peak.categories), peak.total_bytes)
        lines += _table("modules", modules, peak.total_bytes)
        lines += _table("operators that made it", _top(peak.operators), peak.total_bytes)
        return "\n".join(lines)


class PeakLimit:
    """A context around a test.

    Args:
        limit_bytes: at once, on each device, of what is allocated in the context.
        cuda: ``torch.cuda``, or what stands in for it in a test.
    """

    def __init__(self, limit_bytes: int, *, cuda: ModuleType | Any = torch.cuda) -> None:
        self._limit_bytes = limit_bytes
        self._allocator = AllocatorPeaks(cuda)
        self._tensors = LiveTensors()

    def __enter__(self) -> PeakLimit:
        self._allocator.begin()
        self._tensors.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors.__exit__(kind, error, trace)
        self._counted = self._allocator.peaks()

    def peaks(self) -> dict[torch.device, int]:
        """What counts against the limit, by device; to be called after leaving the context."""
        return self._tensors.peaks() | self._counted

    def excess(self) -> Excess | None:
        """The device on which the limit was passed by most; ``None`` where it holds."""
        device, peak_bytes = max(self.peaks().items(), key=lambda item: item[1], default=(None, 0))
        if device is None or peak_bytes <= self._limit_bytes:
            return None
        return Excess(
            limit_bytes=self._limit_bytes,
            peak_bytes=peak_bytes,
            counted_by_allocator=device in self._counted,
            profile=self._tensors.profile(device),
        )


def _size(count: int) -> str:
    return f"{human_bytes(count)} ({count:,} B)"


def _top(division: Mapping[str, int]) -> list[tuple[str, int]]:
    rows = list(division.items())
    rest = rows[TOP:]
    return rows[:TOP] + ([(f"({len(rest)} more)", sum(count for _, count in rest))] if rest else [])


def _table(title: str, rows: Iterable[tuple[str, int]], total_bytes: int) -> list[str]:
    cells = [(name, human_bytes(count), human_percent(count / total_bytes)) for name, count in rows]
    if not cells:
        return []
    names, sizes = (max(len(row[column]) for row in cells) for column in (0, 1))
    return ["", f"  {title}"] + [
        f"    {name.ljust(names)}  {size.rjust(sizes)}  {share.rjust(5)} %" for name, size, share in cells
    ]
