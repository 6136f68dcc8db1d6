"""What the simulated allocator keeps: blocks in a row, the free ones by size, and what it counts."""

from __future__ import annotations

from bisect import bisect_left, insort


class Counters:
    """The allocator's counters, named as torch names them.

    ``active_bytes`` isn't here: it is ``allocated_bytes`` where no other stream uses a block, which the
    simulation takes for granted. ``device_requests`` are those that the device had room for.
    """

    __slots__ = (
        "allocated_bytes",
        "device_requests",
        "inactive_split_bytes",
        "peak_reserved_bytes",
        "requested_bytes",
        "reserved_bytes",
        "retries",
    )

    def __init__(self) -> None:
        self.allocated_bytes = 0
        self.requested_bytes = 0
        self.reserved_bytes = 0
        self.inactive_split_bytes = 0
        self.peak_reserved_bytes = 0
        self.device_requests = 0
        self.retries = 0

    def reserve(self, nbytes: int) -> None:
        """The device gave so much."""
        self.device_requests += 1
        self.reserved_bytes += nbytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)


class Block:
    """A stretch of a segment that is in use, or free, or has no memory behind it (of expandable ones).

    Args:
        pool: that it belongs to.
        address: where it begins.
        size: in bytes.
        expandable: of a segment that can grow.
        mapped: whether there is memory behind it.
    """

    __slots__ = (
        "address",
        "expandable",
        "free",
        "mapped",
        "next",
        "pool",
        "previous",
        "requested",
        "since",
        "size",
    )

    def __init__(
        self, pool: Pool, address: int, size: int, *, expandable: bool = False, mapped: bool = True
    ) -> None:
        self.pool = pool
        self.address = address
        self.size = size
        self.requested = 0
        self.expandable = expandable
        self.mapped = mapped
        self.free = True
        self.since = 0
        self.previous: Block | None = None
        self.next: Block | None = None

    def cut(self, size: int) -> Block:
        """Keeps so many bytes; returns a free block of the others, which comes next."""
        rest = Block(
            self.pool,
            self.address + size,
            self.size - size,
            expandable=self.expandable,
            mapped=self.mapped,
        )
        rest.previous, rest.next = self, self.next
        if rest.next is not None:
            rest.next.previous = rest
        self.next, self.size = rest, size
        return rest

    def absorb(self, other: Block) -> None:
        """Takes up a neighbour, which is no more."""
        if other is self.previous:
            self.address = other.address
            self.previous = other.previous
            if other.previous is not None:
                other.previous.next = self
            else:
                self.pool.replace_head(other, self)
        else:
            self.next = other.next
            if other.next is not None:
                other.next.previous = self
        self.size += other.size

    def can_be(self) -> int:
        """Its bytes, with those of the range after it that has no memory yet."""
        following = self.next
        grows = following is not None and not following.mapped
        return self.size + (following.size if grows and following is not None else 0)


class Pool:
    """The small blocks of a stream, or the large ones.

    Args:
        stream: whose they are.
        small: which they are.
        page_bytes: what expandable segments grow by.
    """

    __slots__ = ("blocks", "heads", "page_bytes", "small", "stream", "unmapped")

    def __init__(self, *, stream: int, small: bool, page_bytes: int) -> None:
        self.stream = stream
        self.small = small
        self.page_bytes = page_bytes
        self.blocks: list[tuple[int, int, Block]] = []
        """The free ones by size, then by address."""
        self.unmapped: list[tuple[int, Block]] = []
        """Ranges without memory, by address."""
        self.heads: dict[Block, None] = {}
        """The first block of each segment, in the order in which they were asked for."""

    def remove(self, block: Block) -> None:
        """A block isn't free any more, or is no more."""
        if block.mapped:
            del self.blocks[bisect_left(self.blocks, (block.size, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def add_unmapped(self, block: Block) -> None:
        """A range has no memory behind it."""
        insort(self.unmapped, (block.address, block))

    def replace_head(self, old: Block, new: Block) -> None:
        """Another block is a segment's first."""
        del self.heads[old]
        self.heads[new] = None
