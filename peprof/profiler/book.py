"""The book of storages: which are alive, what was known when each was met, and what it turned out to be."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import nn

from peprof.profiler.events import EventLog
from peprof.profiler.locations import Marks
from peprof.profiler.storages import storages_of


class Birth(NamedTuple):
    """What was known when a storage was met.

    Args:
        operator: that made it; ``None`` where it was there before.
        place: the module that ran, or in backward where to look up the node, or the name of the parameter
            whose gradient was accumulated; ``None`` outside of all.
        node: the sequence number of the node that ran; -1 outside backward.
        packing: the pack hook in which it was made, if any.
    """

    operator: torch._ops.OpOverload | None
    place: nn.Module | Marks | str | None
    node: int
    packing: str | None


RawBirth = tuple["torch._ops.OpOverload | None", "nn.Module | Marks | str | None", int, "str | None"]
"""The fields of a ``Birth``; naming them takes too long while the step runs."""


class Label(NamedTuple):
    """What a storage turned out to be.

    Args:
        category: as in ``Moment.categories``.
        name: of the parameter or buffer that it belongs to; empty where there is none.
    """

    category: str
    name: str


class Alive(weakref.ref[torch.UntypedStorage]):
    """A storage that hasn't died yet."""

    __slots__ = ("key", "number")

    key: int
    number: int


class Book:
    """Numbers storages and follows them to their death.

    Args:
        gpu_only: leave out what lies on the CPU.
    """

    def __init__(self, *, gpu_only: bool) -> None:
        self.log = EventLog()
        self.labels: dict[int, Label] = {}
        self.alive: dict[int, Alive] = {}
        self.gpu_only = gpu_only
        self._births: list[RawBirth] = []
        self._on_death = self._death

    @property
    def births(self) -> list[Birth]:
        """What was known of each storage when it was met, by its number."""
        return [Birth(*birth) for birth in self._births]

    def open(self, storage: torch.UntypedStorage, birth: RawBirth) -> None:
        """A storage was made."""
        number = self._add(storage, birth)
        if self.log.sizes[number]:
            self.log.events.append(number)

    def resize(self, storage: torch.UntypedStorage, birth: RawBirth) -> None:
        """A storage has got another size: its new block was there before the old one went."""
        old = self.alive[storage._cdata].number
        self.open(storage, birth)
        if self.log.sizes[old]:
            self.log.events.append(~old)

    def _add(self, storage: torch.UntypedStorage, birth: RawBirth) -> int:
        sizes = self.log.sizes
        number = len(sizes)
        self._births.append(birth)
        sizes.append(storage.nbytes())
        alive = Alive(storage, self._on_death)
        alive.key = key = storage._cdata
        alive.number = number
        self.alive[key] = alive
        return number

    def _death(self, alive: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(alive, Alive)
        del self.alive[alive.key]
        if self.log.sizes[alive.number]:
            self.log.events.append(~alive.number)

    def close(self) -> None:
        """Nothing is noted any more."""
        self.alive.clear()  # and with it all weak references

    def counts(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's bytes are looked at here."""
        return not (self.gpu_only and tensor.is_cpu)

    def number_of(self, storage: torch.UntypedStorage) -> int:
        """A storage's number; one that isn't known yet was there before the step."""
        alive = self.alive.get(storage._cdata)
        if alive is not None:
            return alive.number
        number = self._add(storage, (None, None, -1, None))
        self.log.resident.append(number)
        return number

    def known_numbers(self, tensor: torch.Tensor) -> list[int]:
        """The numbers of those storages of a tensor that are known."""
        found = (self.alive.get(storage._cdata) for storage in storages_of(tensor))
        return [alive.number for alive in found if alive is not None]

    def label(self, tensor: torch.Tensor, category: str, name: str = "") -> None:
        """Says what a tensor's storages are; the first word counts."""
        if self.counts(tensor):
            for storage in storages_of(tensor):
                self.labels.setdefault(self.number_of(storage), Label(category, name))
