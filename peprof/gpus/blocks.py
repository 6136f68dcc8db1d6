"""The sizes that torch's caching allocator hands out and asks the device for.

After c10/core/AllocatorConfig.h and c10/cuda/CUDACachingAllocator.cpp, which agree on them from torch 2.11 to
2.13. Whoever simulates the allocator or reads its history goes by these rules, which are written here alone.
"""

from __future__ import annotations

MINIMUM_BLOCK_BYTES = 512
"""Blocks begin, and end, at multiples of this."""
SMALL_BYTES = 2**20
"""The largest block of the pool for small ones; also the largest rest that a block of the other one keeps."""
SMALL_SEGMENT_BYTES = 2 * 2**20
"""What the device is asked for where a small block is wanted; the page of expandable segments for those."""
LARGE_SEGMENT_BYTES = 20 * 2**20
"""What the device is asked for where a block is neither small nor big, and the page of those, unless set."""
BIG_BYTES = 10 * 2**20
"""From here on a block gets a segment of its own."""
BIG_SEGMENT_STEP_BYTES = 2 * 2**20
"""The sizes of segments of their own are multiples of this."""


def rounded_bytes(requested_bytes: int) -> int:
    """The size of the block for a request, where nothing is left over.

    Example:
        >>> rounded_bytes(1), rounded_bytes(512), rounded_bytes(513)
        (512, 512, 1024)
    """
    return -(-requested_bytes // MINIMUM_BLOCK_BYTES) * MINIMUM_BLOCK_BYTES or MINIMUM_BLOCK_BYTES


def rounded_to_divisions(requested_bytes: int, divisions: int) -> int:
    """The size of the block where ``roundup_power2_divisions`` asks for fewer different sizes.

    Args:
        requested_bytes: what is asked for.
        divisions: sizes from one power of two up to the next; 0 and 1 for no such rounding.

    Example:
        >>> rounded_to_divisions(1200 * 1024, 4) // 1024  # of 1024, 1280, 1536 and 1792
        1280
    """
    if divisions <= 1 or requested_bytes <= MINIMUM_BLOCK_BYTES * divisions:
        return rounded_bytes(requested_bytes)
    power = 1 << (requested_bytes.bit_length() - 1)
    step = power // divisions
    return -(-requested_bytes // step) * step


def is_small(block_bytes: int) -> bool:
    """Whether a block belongs to the pool for small ones."""
    return block_bytes <= SMALL_BYTES


def segment_bytes(block_bytes: int, *, large_segment_bytes: int = LARGE_SEGMENT_BYTES) -> int:
    """What the device is asked for, where no free block will do.

    Args:
        block_bytes: rounded.
        large_segment_bytes: as set by ``large_segment_size_mb``.

    Example:
        >>> [segment_bytes(mib << 20) >> 20 for mib in (1, 2, 10, 11)]
        [2, 20, 10, 12]
    """
    if block_bytes <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if block_bytes < BIG_BYTES:
        return large_segment_bytes
    return -(-block_bytes // BIG_SEGMENT_STEP_BYTES) * BIG_SEGMENT_STEP_BYTES


def is_split_off(rest_bytes: int, *, small: bool) -> bool:
    """Whether what a block has more than is needed becomes a free block, in a segment that can't expand."""
    return rest_bytes >= MINIMUM_BLOCK_BYTES if small else rest_bytes > SMALL_BYTES
