"""Batches made ahead, so that the device never waits for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import torch

from peprof.training.batches import Batch

AHEAD: Final = 4
"""Batches that lie ready: making one takes a small part of a step, so more would only hold memory."""


def prefetch(
    batches: Iterable[Batch], device: torch.device, *, ahead: int = AHEAD
) -> Generator[Batch, None, None]:
    """The same batches in the same order, on the device; a thread makes them while earlier ones are used.

    For CUDA the thread puts them into pinned memory, from which copying doesn't hold up the host; the copy is
    asked for when a batch is taken, on the current stream, so it is ordered with the steps. ``batches`` must
    not draw from global random generators: these belong to the training.

    The thread ends with the generator, however that ends: take it as ``with closing(prefetch(...)) as ...``.
    What fails in making a batch is raised where that batch would have come, with the thread's traceback.

    Args:
        batches: on the CPU; asked by one thread, one after the other.
        device: where they are used.
        ahead: batches that are made before they are asked for, at least 1.

    Raises:
        ValueError: ``ahead`` is below 1.

    Example:
        >>> from contextlib import closing
        >>> one = Batch(inputs={"labels": torch.tensor([1])}, real_tokens=3)
        >>> with closing(prefetch([one, one], torch.device("cpu"))) as found:
        ...     [batch.real_tokens for batch in found]
        [3, 3]
    """
    if ahead < 1:
        raise ValueError(f"ahead={ahead}: at least one batch must be made ahead")
    source = iter(batches)
    pinned = device.type == "cuda"

    def make() -> Batch | None:
        batch = next(source, None)
        if batch is None or not pinned:
            return batch
        return replace(batch, inputs={key: value.pin_memory() for key, value in batch.inputs.items()})

    def start() -> None:
        if pinned:  # a thread's own current device is the first one until it is told
            torch.cuda.set_device(device)

    maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="peprof-batches", initializer=start)
    try:
        waiting: deque[Future[Batch | None]] = deque(maker.submit(make) for _ in range(ahead))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(maker.submit(make))
            yield batch.to(device)
    finally:
        maker.shutdown(wait=True, cancel_futures=True)
