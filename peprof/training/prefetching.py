"""Batches made ahead, so that the device never waits for one."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from dataclasses import replace
from queue import SimpleQueue
from typing import Final

import torch

from peprof.training.batches import Batch

AHEAD: Final = 8
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
        ahead: batches that are made before they are asked for, at least 1. They are ordered by halves: waking
            a thread takes longer than taking a batch.

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
    half = max(1, ahead // 2)
    taken = 0
    maker = _Maker(batches, device)
    try:
        maker.order(ahead)
        while (batch := maker.take()) is not None:
            taken += 1
            if taken % half == 0:
                maker.order(half)
            yield batch if device.type == "cpu" else batch.to(device)
    finally:
        maker.end()


class _Maker:
    """Makes as many batches as were ordered, in a thread of its own.

    Two queues written in C rather than an executor: ordering and taking are paid in each step.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self._source = iter(batches)
        self._device = device
        self._orders: SimpleQueue[int] = SimpleQueue()
        self._made: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        self._ended = False
        # A daemon, so that a generator that nobody closes keeps no process from ending.
        self._thread = threading.Thread(target=self._run, name="peprof-batches", daemon=True)
        self._thread.start()

    def order(self, count: int) -> None:
        """Has some more made."""
        self._orders.put(count)

    def take(self) -> Batch | None:
        """The next one, waited for; ``None`` after the last. Raises what making it raised."""
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def end(self) -> None:
        """Ends the thread; a batch that it is about is finished first."""
        self._ended = True
        self.order(1)
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._device.type == "cuda":  # a thread's current device is the first until it is told
                torch.cuda.set_device(self._device)
            while True:
                for _ in range(self._orders.get()):
                    if self._ended:
                        return
                    batch = next(self._source, None)
                    self._made.put(self._placed(batch) if batch is not None else None)
                    if batch is None:
                        return
        except BaseException as error:  # noqa: BLE001 -- whoever waits for the batch gets it
            self._made.put(error)

    def _placed(self, batch: Batch) -> Batch:
        if self._device.type != "cuda":
            return batch
        return replace(batch, inputs={name: value.pin_memory() for name, value in batch.inputs.items()})
