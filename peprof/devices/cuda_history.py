"""What the caching allocator did over a stretch of time: PyTorch's memory history and its counters.

``torch.cuda`` comes in as an argument so that this file is tested without a GPU.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One device's allocator over a stretch of time, in the words of ``torch.cuda.memory._snapshot``.

    Args:
        segments: at the beginning; each has ``address``, ``segment_type``, ``is_expandable`` and ``blocks``,
            and a block has ``address``, ``size``, ``requested_size`` and ``state``.
        entries: what was done, in order; each has ``action``, ``addr`` and ``size``. The size of an ``alloc``
            is what was asked for, not that of the block.
        peak_requested_bytes: the highest value of what had been asked for, by the allocator's own counter.
        peak_allocated_bytes: the highest value of the blocks in use, likewise.
    """

    segments: Sequence[Mapping[str, Any]]
    entries: Sequence[Mapping[str, Any]]
    peak_requested_bytes: int
    peak_allocated_bytes: int


class MemoryHistory:
    """A context in which the allocator writes its history. One that somebody else had begun ends here.

    Args:
        cuda: ``torch.cuda``, or what stands in for it in a test.
        device: whose allocator it is; with an index.
        stacks: also note the Python stack of each event, for people to read in the viewer.
    """

    def __init__(self, cuda: ModuleType | Any, device: torch.device, *, stacks: bool) -> None:
        self._cuda = cuda
        self._device = device
        self._stacks = stacks
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}
        self._stats: Mapping[str, int] = {}
        self._allocations_before = 0

    @staticmethod
    def is_kept(cuda: ModuleType | Any) -> bool:
        """Whether the allocator in use keeps a history at all: ``cudaMallocAsync`` doesn't."""
        return bool(cuda.memory.get_allocator_backend() == "native")

    def __enter__(self) -> MemoryHistory:
        self._cuda.synchronize(self._device)
        self._cuda.memory._record_memory_history(
            enabled="all", context="all" if self._stacks else None, stacks="python"
        )
        self._before = self._cuda.memory._snapshot()
        self._allocations_before = self._count()
        self._cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stats = self._cuda.memory_stats(self._device)
            self._after = self._cuda.memory._snapshot()
        finally:
            self._cuda.memory._record_memory_history(enabled=None, stacks="python")

    def allocations(self) -> int:
        """Blocks handed out since the beginning; as many ``alloc`` entries the history has by now."""
        return self._count() - self._allocations_before

    def _count(self) -> int:
        # The flat form of the counters sorts all of them, which takes longer than reading them.
        counters = self._cuda.memory_stats_as_nested_dict(self._device)
        return int(counters["allocation"]["all"]["allocated"])

    def recording(self) -> Recording:
        """What was done; to be called after leaving the context."""
        index = self._device.index or 0
        # What others had written before, if their history was on, comes first.
        skipped = len(self._before["device_traces"][index]) if self._before["device_traces"] else 0
        return Recording(
            segments=[s for s in self._before["segments"] if s.get("device", index) == index],
            entries=self._after["device_traces"][index][skipped:],
            peak_requested_bytes=self._stats["requested_bytes.all.peak"],
            peak_allocated_bytes=self._stats["allocated_bytes.all.peak"],
        )

    def save(self, path: Path) -> None:
        """Writes the snapshot taken at the end, with the history, as PyTorch's memory viewer reads it.

        The format is that of ``torch.cuda.memory._dump_snapshot``; the viewer is at pytorch.org/memory_viz.
        """
        with path.open("wb") as file:
            pickle.dump(self._after, file)
