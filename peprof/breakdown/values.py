"""What the ledger found, as plain frozen values: bytes and names, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

OUTSIDE = "(outside the model)"
"""Stands in the tree for what no module of the model made: the loss, clipping, the optimizer."""


@dataclass(frozen=True, kw_only=True)
class ModuleBytes:
    """Bytes of a module and of all that lies below it.

    Args:
        name: qualified; empty for the model itself, ``(outside the model)`` for the rest.
        own_bytes: not of its children.
        total_bytes: with its children.
        categories: ``own_bytes`` by category.
        children: largest first; those without bytes are left out.
    """

    name: str
    own_bytes: int
    total_bytes: int
    categories: Mapping[str, int]
    children: tuple[ModuleBytes, ...]

    def walk(self) -> Iterator[ModuleBytes]:
        """This module and all below it, from the top."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, name: str) -> ModuleBytes | None:
        """The module of that name below this one, if it has bytes."""
        return next((module for module in self.walk() if module.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Whose each live byte is at one moment. Every division sums up to ``total_bytes``.

    Args:
        phase: in which it lies.
        event: how many births and deaths came before.
        total_bytes: live then.
        operator: that made the last of them; ``None`` at the start of a step.
        module: in which it ran; ``None`` outside of all.
        categories: bytes by category, largest first.
        operators: bytes by the operator that made them, largest first.
        owners: bytes by owner, largest first; empty where no owners were asked for.
        modules: the tree: the model and, beside it, what lies outside.
    """

    phase: str
    event: int
    total_bytes: int
    operator: str | None
    module: str | None
    categories: Mapping[str, int]
    operators: Mapping[str, int]
    owners: Mapping[str, int]
    modules: ModuleBytes


@dataclass(frozen=True, kw_only=True)
class PhaseMemory:
    """Live bytes within one phase; a phase that is entered several times is one.

    Args:
        phase: its name.
        peak: the highest moment.
        end_bytes: live when it ended, the last time.
    """

    phase: str
    peak: Moment
    end_bytes: int


@dataclass(frozen=True, kw_only=True)
class SavedStorage:
    """A storage kept for backward.

    Args:
        module: the first that saved it; ``None`` outside of all.
        operator: the first that saved it, or ``checkpoint``.
        made_in: the module that made it.
        made_by: the operator that made it.
        shape: of the tensor that was saved first.
        dtype: of that tensor.
        nbytes: of the whole storage.
    """

    module: str | None
    operator: str
    made_in: str | None
    made_by: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class CheckpointRegion:
    """A module that a checkpoint runs again in backward.

    Args:
        module: the outermost module run again.
        saved_bytes: its inputs, kept from forward to backward.
        recomputed_bytes: what it saves only while it is run again.
    """

    module: str
    saved_bytes: int
    recomputed_bytes: int


@dataclass(frozen=True, kw_only=True)
class ActivationBreakdown:
    """What is kept for backward when backward begins, each storage once; parameters and inputs are left out.

    With several backwards in the step (gradient accumulation), at the one that finds most.

    Args:
        saved: in the order in which they were saved.
        recomputed: what checkpoints save while they run forward again; not alive at the same time.
        regions: the checkpoints, in the order in which they are run again.
    """

    saved: tuple[SavedStorage, ...]
    recomputed: tuple[SavedStorage, ...]
    regions: tuple[CheckpointRegion, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes kept for backward."""
        return sum(item.nbytes for item in self.saved)

    @property
    def recomputed_bytes(self) -> int:
        """Bytes saved while forward is run again, over all of backward."""
        return sum(item.nbytes for item in self.recomputed)

    def by_module(self) -> dict[str, int]:
        """Bytes by the module that saved them, largest first."""
        return sum_by(
            (item.module if item.module is not None else OUTSIDE, item.nbytes) for item in self.saved
        )

    def by_operator(self) -> dict[str, int]:
        """Bytes by the operator that saved them, largest first."""
        return sum_by((item.operator, item.nbytes) for item in self.saved)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Live bytes by category over the step, thinned: of each stretch of events the highest moment.

    Args:
        events: how many births and deaths came before each point.
        phases: the phase of each point.
        categories: bytes at each point, by category.
    """

    events: tuple[int, ...]
    phases: tuple[str, ...]
    categories: Mapping[str, tuple[int, ...]]

    def totals(self) -> tuple[int, ...]:
        """Live bytes at each point."""
        return tuple(sum(values) for values in zip(*self.categories.values(), strict=True))


@dataclass(frozen=True, kw_only=True)
class PoolMoment:
    """Whose each byte of a pool of device memory is, at the highest moment of one of its counters.

    Args:
        total_bytes: as the pool itself has counted.
        phase: of the step; ``None`` where it lies before the first operator that asked for memory.
        operator: that asked for memory last; ``None`` as before.
        categories: they add up to ``total_bytes``, largest first. Those of the ledger;
            ``workspace:OPERATOR``, what an operator asked for and no storage holds; ``held_before``, in use
            before the step by what isn't of the step; ``rounding`` of requests to blocks; and what is left.
        residual_bytes: part of ``unattributed``: what the pool counts and its history doesn't explain, or if
            negative the other way round. 0 if all is well.
    """

    total_bytes: int
    phase: str | None
    operator: str | None
    categories: Mapping[str, int]
    residual_bytes: int


@dataclass(frozen=True, kw_only=True)
class PoolMemory:
    """The memory of one training step as a device's pool counts it, every byte with an owner.

    Args:
        requested: where most is asked for.
        allocated: where most is in blocks that are in use; maybe at another moment.
        unmatched_storages: storages that the ledger saw and the pool doesn't have, as on another device.
    """

    requested: PoolMoment
    allocated: PoolMoment
    unmatched_storages: int


@dataclass(frozen=True, kw_only=True)
class RanOut:
    """Where a step ran out of memory, and whose the memory was then.

    Args:
        operator: that asked for more; ``None`` where it wasn't one of torch's.
        module: in which it ran; ``None`` outside of all.
        requested_bytes: what it asked for; ``None`` where the error doesn't say.
        live: what was live at that moment, before anything was freed because of the error.
    """

    operator: str | None
    module: str | None
    requested_bytes: int | None
    live: Moment

    @property
    def phase(self) -> str:
        """The phase of the step."""
        return self.live.phase

    def __str__(self) -> str:
        asked = "" if self.requested_bytes is None else f", asking for {self.requested_bytes:,} bytes"
        where = "outside of torch's operators" if self.operator is None else f"in {self.operator}"
        module = f" of {self.module}" if self.module else ""
        return (
            f"ran out of memory in {self.phase}, {where}{module}{asked}; {self.live.total_bytes:,} bytes live"
        )


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """The memory of one training step, every byte with an owner.

    Args:
        device: where the model lies.
        start_bytes: live before the step.
        end_bytes: live after it.
        peak: the highest moment.
        phases: in the order in which they were first entered.
        phases_from: who said where phases begin: the step's marks, or autograd and the optimizers.
        activations: what is kept for backward.
        timeline: the whole step.
        ran_out: where the step ran out of memory; it was then not finished. ``None`` where it was.
        pool: the peaks as the device's pool counts them; ``None`` where there is no pool or no history of it.
    """

    device: str
    start_bytes: int
    end_bytes: int
    peak: Moment
    phases: tuple[PhaseMemory, ...]
    phases_from: Literal["marks", "autograd"]
    activations: ActivationBreakdown
    timeline: Timeline
    ran_out: RanOut | None = None
    pool: PoolMemory | None = None

    @property
    def peak_bytes(self) -> int:
        """Live bytes at the highest moment."""
        return self.peak.total_bytes

    def phase(self, name: str) -> PhaseMemory:
        """One phase.

        Raises:
            KeyError: the step has no such phase.
        """
        for phase in self.phases:
            if phase.phase == name:
                return phase
        raise KeyError(f"the step has no phase '{name}', only {', '.join(p.phase for p in self.phases)}")

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers, fit for JSON."""
        return _plain(asdict(self))  # type: ignore[no-any-return]

    def __str__(self) -> str:
        from peprof.breakdown.rendering import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from peprof.breakdown.rendering import as_html

        return as_html(self)


def sum_by(pairs: Iterator[tuple[str, int]]) -> dict[str, int]:
    """Sums of the values of each key, largest first, then by name."""
    sums: dict[str, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0) + value
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
