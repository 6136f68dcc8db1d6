"""A caching allocator in Python, after the rules of c10/cuda/CUDACachingAllocator.cpp.

Two pools, blocks of 512 bytes, splits and mergers. It counts as it goes, from blocks alone: its counters
are the oracle for whoever reads its trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

KIB, MIB = 2**10, 2**20
COUNTERS = (
    "allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes", "active_bytes",
    "inactive_split_bytes", "requested_bytes",
)  # fmt: skip


@dataclass(eq=False)
class Block:
    address: int
    size: int
    requested: int = 0
    state: str = "inactive"


@dataclass(eq=False)
class Segment:
    address: int
    size: int
    small: bool
    blocks: list[Block]


@dataclass
class FakeAllocator:
    """One device's pool.

    Args:
        capacity: bytes of the device.
        driver_bytes: used on the device by what isn't the pool.
        allowed: that the pool may hold; ``None`` for all there is.
    """

    capacity: int = 80 * 2**30
    driver_bytes: int = 0
    allowed: int | None = None
    segments: list[Segment] = field(default_factory=list)
    current: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    allocations: int = 0
    retries: int = 0
    ooms: int = 0
    recording: bool = False
    trace: list[dict[str, Any]] = field(default_factory=list)
    next_address: int = 0x7F0000000000

    def malloc(self, requested: int) -> int:
        size = max(512, -(-requested // 512) * 512)
        small = size <= MIB
        block = self._fitting(size, small) or self._grow(size, small, requested)
        segment = self._segment_of(block)
        rest = block.size - size
        if rest >= 512 if small else rest > MIB:
            segment.blocks.insert(segment.blocks.index(block) + 1, Block(block.address + size, rest))
            block.size = size
        block.state, block.requested = "active_allocated", requested
        self.allocations += 1
        self._write("alloc", block.address, requested)
        self._count()
        return block.address

    def free(self, address: int, *, awaiting: bool = False) -> None:
        """Frees a block; ``awaiting``: another stream still uses it, until ``complete``."""
        block = self._block_at(address)
        assert block.state == "active_allocated"
        block.state = "active_awaiting_free"
        self._write("free_requested", address, block.requested)
        self._count()
        if not awaiting:
            self.complete(address)

    def complete(self, address: int) -> None:
        block = self._block_at(address)
        assert block.state == "active_awaiting_free"
        self._write("free_completed", address, block.requested)
        block.state, block.requested = "inactive", 0
        blocks = self._segment_of(block).blocks
        index = blocks.index(block)
        if index + 1 < len(blocks) and blocks[index + 1].state == "inactive":
            block.size += blocks.pop(index + 1).size
        if index and blocks[index - 1].state == "inactive":
            blocks[index - 1].size += blocks.pop(index).size
        self._count()

    def empty_cache(self) -> None:
        for segment in [s for s in self.segments if [b.state for b in s.blocks] == ["inactive"]]:
            self.segments.remove(segment)
            self._write("segment_free", segment.address, segment.size)
        self._count()

    def reset_peaks(self) -> None:
        self.peak = dict(self.current)

    def stats(self) -> dict[str, int]:
        found = {f"{n}.all.{kind}": of[n] for kind in ("current", "peak") for n in COUNTERS
                 for of in [getattr(self, kind)]}  # fmt: skip
        found |= {"allocation.all.allocated": self.allocations}
        return found | {"num_alloc_retries": self.retries, "num_ooms": self.ooms}

    def snapshot(self) -> dict[str, Any]:
        self._write("snapshot", 0, self.current["allocated_bytes"])
        return {
            "segments": [
                {
                    "device": 0, "address": s.address, "total_size": s.size, "stream": 0,
                    "segment_type": "small" if s.small else "large", "segment_pool_id": (0, 0),
                    "is_expandable": False, "frames": [],
                    "allocated_size": sum(b.size for b in s.blocks if b.state == "active_allocated"),
                    "active_size": sum(b.size for b in s.blocks if b.state != "inactive"),
                    "requested_size": sum(b.requested for b in s.blocks),
                    "blocks": [
                        {"address": b.address, "size": b.size, "requested_size": b.requested,
                         "state": b.state, "frames": []}
                        for b in s.blocks
                    ],
                }
                for s in self.segments
            ],
            "device_traces": [[dict(entry) for entry in self.trace]],
            "allocator_settings": {},
            "external_annotations": [],
        }  # fmt: skip

    def _fitting(self, size: int, small: bool) -> Block | None:
        free = [b for s in self.segments if s.small == small for b in s.blocks
                if b.state == "inactive" and b.size >= size]  # fmt: skip
        return min(free, key=lambda b: (b.size, b.address), default=None)

    def _grow(self, size: int, small: bool, requested: int) -> Block:
        total = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self._room() < total:
            self.retries += 1
            self.empty_cache()
        if self._room() < total:
            self.ooms += 1
            self._write("oom", None, requested, device_free=self.free_on_device())
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {requested / MIB:.2f} MiB. GPU 0 has a total "
                f"capacity of {self.capacity / MIB:.2f} MiB"
            )
        block = Block(self.next_address, total)
        self.segments.append(Segment(self.next_address, total, small, [block]))
        self.next_address += total + 2 * MIB
        self._write("segment_alloc", block.address, total)
        return block

    def free_on_device(self) -> int:
        return self.capacity - self.driver_bytes - sum(s.size for s in self.segments)

    def _room(self) -> int:
        free = self.free_on_device()
        return free if self.allowed is None else min(free, self.allowed - sum(s.size for s in self.segments))

    def _segment_of(self, block: Block) -> Segment:
        return next(s for s in self.segments if block in s.blocks)

    def _block_at(self, address: int) -> Block:
        return next(b for s in self.segments for b in s.blocks if b.address == address)

    def _write(self, action: str, address: int | None, size: int, **more: int) -> None:
        if self.recording:
            entry = {"action": action, "size": size, "stream": 0, "time_us": len(self.trace), "frames": []}
            self.trace.append(entry | ({} if address is None else {"addr": address}) | more)

    def _count(self) -> None:
        blocks = [(b, len(s.blocks) > 1) for s in self.segments for b in s.blocks]
        used = [b for b, _ in blocks if b.state == "active_allocated"]
        active = [b for b, _ in blocks if b.state != "inactive"]
        split = [b for b, is_split in blocks if b.state == "inactive" and is_split]
        self.current = {
            "allocation": len(used), "segment": len(self.segments), "active": len(active),
            "inactive_split": len(split), "allocated_bytes": sum(b.size for b in used),
            "reserved_bytes": sum(s.size for s in self.segments), "active_bytes": sum(b.size for b in active),
            "inactive_split_bytes": sum(b.size for b in split),
            "requested_bytes": sum(b.requested for b in active),
        }  # fmt: skip
        self.peak = {name: max(self.peak[name], self.current[name]) for name in COUNTERS}
