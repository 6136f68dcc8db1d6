"""A random history of requests and frees, on torch's own allocator or on the simulated one.

    python -m tests.estimation.allocator_history SEED CAPACITY_MIB

prints the counters of a real GPU after each event, as JSON; its settings are those of the environment.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

MIB = 2**20
LENGTH = 400
Counters = tuple[int, int, int, int, int]
"""Allocated, requested, reserved and inactive split bytes, and retries."""


def follow(
    seed: int, ask: Callable[[int], Any], free: Callable[[Any], None], count: Callable[[], Counters]
) -> list[Counters]:
    """What an allocator counts after each event.

    Args:
        seed: of the history.
        ask: for so many bytes; ``None`` where there is no room.
        free: what was got.
        count: the counters.
    """
    chance = random.Random(seed)
    live: list[Any] = []
    found = []
    for _ in range(LENGTH):
        if chance.random() < 0.54 or not live:
            size = chance.choice((chance.randrange(1, 4 * MIB), chance.randrange(1, 40 * MIB), 700))
            got = ask(size)
            if got is not None:
                live.append(got)
        else:
            free(live.pop(chance.randrange(len(live))))
        found.append(count())
    return found


def on_the_gpu(seed: int, capacity_mib: int) -> dict[str, Any]:
    """The history on torch's allocator, of which this process uses nothing else."""
    import torch

    torch.cuda.init()
    total = torch.cuda.get_device_properties(0).total_memory
    fraction = capacity_mib * MIB / total
    torch.cuda.set_per_process_memory_fraction(fraction)

    def ask(size: int) -> int | None:
        try:
            return int(torch.cuda.caching_allocator_alloc(size, 0, torch.cuda.current_stream()))
        except torch.OutOfMemoryError:
            return None

    def count() -> Counters:
        stats = torch.cuda.memory_stats(0)
        names = ("allocated_bytes", "requested_bytes", "reserved_bytes", "inactive_split_bytes")
        levels = [int(stats[f"{name}.all.current"]) for name in names]
        return (levels[0], levels[1], levels[2], levels[3], int(stats["num_alloc_retries"]))

    counters = follow(seed, ask, torch.cuda.caching_allocator_delete, count)
    return {"capacity_bytes": int(fraction * total), "counters": counters}


if __name__ == "__main__":
    print(json.dumps(on_the_gpu(int(sys.argv[1]), int(sys.argv[2]))))
