"""What was computed of a run without running it: the memory of its training step. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from peprof.breakdown.values import StepProfile
from peprof.results.record import ParameterCounts
from peprof.suite.planning import RunSpec
from peprof.suite.schema import MethodConfig, PublishedConfig, Suite


@dataclass(frozen=True, kw_only=True)
class StepEvents:
    """Every tensor's birth and death in a training step, in order: what an allocator would be asked.

    Storages are numbered; an event is a storage's number and the bytes that come with it, or if negative go.

    Args:
        resident: (number, bytes) of what was there before the step, in the order in which it was made.
        changes: (number, signed bytes) in order.
        phases: (index of the first change, name of the phase that starts there), in order.
    """

    resident: tuple[tuple[int, int], ...]
    changes: tuple[tuple[int, int], ...]
    phases: tuple[tuple[int, str], ...]

    def in_phases(self) -> Iterator[tuple[int, int, str]]:
        """(number, signed bytes, phase) of each change, in order: what a simulated allocator is fed with."""
        edges = [*self.phases, (len(self.changes), "")]
        for (first, phase), (last, _) in pairwise(edges):
            for number, nbytes in self.changes[first:last]:
                yield number, nbytes, phase


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is said elsewhere of a method.

    Args:
        said: as the suite has it.
        share_of_full: of full fine-tuning's memory, there; ``None`` where neither it nor both peaks are said.
        set_otherwise: keys of the suite that decide a step's memory and were set otherwise than it has them.
    """

    said: PublishedConfig
    share_of_full: float | None
    set_otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """The memory of the GPU that a step was estimated for.

    Args:
        name: what people call it.
        total_bytes: what torch says it has; drivers differ, so that it is an assumption.
        context_bytes: what the driver, the context and loaded kernels are assumed to take of it.
        workspace_bytes: what libraries hold of the pool all the time.
    """

    name: str
    total_bytes: int
    context_bytes: int
    workspace_bytes: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The memory of a run's training step, or why it can't be told.

    Args:
        spec: the run.
        kind: of the device whose operators it is about, ``cpu`` or ``cuda``.
        profile: of the step, exact: bytes of tensors, each storage once; ``None`` with a problem.
        counts: numbers of parameters; ``None`` with a problem.
        architecture: the model's class; ``None`` where it wasn't made.
        problem: why there is no profile; ``None`` where there is one.
        assumptions: what had to be supposed where data would have told.
        reserved_bytes: what a GPU's caching allocator would hold, simulated; ``None`` for no known GPU.
        device_bytes: with what the device's context is assumed to take; ``None`` as before.
        events: of the step; ``None`` where nobody asked for them, or with a problem.
        published: of the method, where the suite says anything.
        device: the GPU that it is about; ``None`` for no known one.
    """

    spec: RunSpec
    kind: str
    profile: StepProfile | None
    counts: ParameterCounts | None = None
    architecture: str | None = None
    problem: str | None = None
    assumptions: tuple[str, ...] = ()
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    events: StepEvents | None = field(default=None, compare=False)
    published: Published | None = None
    device: DeviceMemory | None = None

    @property
    def label(self) -> str:
        """The method's."""
        return self.spec.method.label

    @property
    def exact(self) -> bool:
        """Whether every byte was counted; not where bitsandbytes' own are known by its source alone."""
        return self.spec.model.quantization is None and not self.spec.train.optimizer.endswith("-8bit")

    @property
    def peak_bytes(self) -> int | None:
        """Live bytes at the step's highest moment."""
        return self.profile.peak_bytes if self.profile is not None else None

    @property
    def need_bytes(self) -> int | None:
        """What must fit: what a simulated pool holds, else the tensors alone; ``None`` with a problem."""
        return self.reserved_bytes if self.reserved_bytes is not None else self.peak_bytes

    @property
    def fits(self) -> bool | None:
        """Whether its device has room for it; ``None`` where that isn't known."""
        if self.device is None or self.device_bytes is None:
            return None
        return self.device_bytes <= self.device.total_bytes


_DECIDE_MEMORY = (
    "model.", "data.max_length", "data.max_target_length", "data.task", "train.batch_size", "train.autocast",
    "train.gradient_accumulation_steps", "train.max_grad_norm", "train.optimizer", "methods.", "matrix.",
)  # fmt: skip
"""Beginnings of a suite's keys."""


def with_published(
    estimates: Sequence[Estimate], suite: Suite, *, set_keys: Sequence[str] = ()
) -> tuple[Estimate, ...]:
    """The estimates of a suite's runs with what it says was published of their methods.

    Args:
        estimates: in any order.
        suite: whose methods they are of.
        set_keys: of the suite, that were laid over it: what was published is of the suite as it is.
    """
    said = suite.published
    otherwise = tuple(key for key in set_keys if key.startswith(_DECIDE_MEMORY))
    yardsticks = [said[method.label].peak_gb for method in suite.methods
                  if is_full(method) and method.label in said]  # fmt: skip
    if not yardsticks and "full" in said:  # full fine-tuning itself was not asked for
        yardsticks = [said["full"].peak_gb]
    full_gb = yardsticks[0] if yardsticks else None
    found = {
        label: Published(said=item, share_of_full=_published_share(item, full_gb), set_otherwise=otherwise)
        for label, item in said.items()
    }
    return tuple(replace(item, published=found.get(item.label)) for item in estimates)


def _published_share(said: PublishedConfig, full_gb: float | None) -> float | None:
    if said.share_of_full is not None:
        return said.share_of_full
    return said.peak_gb / full_gb if said.peak_gb is not None and full_gb is not None else None


def is_full(method: MethodConfig) -> bool:
    """Whether it is full fine-tuning, by which memory is measured."""
    return method.name == "full" and not method.gradient_checkpointing


SEARCH_END = 2**20
"""The largest batch or length that is looked for: nobody asks for more."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The largest batch or length of a run that fits into some memory.

    Args:
        dimension: what was looked for: ``batch`` or ``length``.
        memory_bytes: that there is.
        largest: that fits; ``None`` where not even the smallest does, or with the estimate's problem.
        estimate: of the largest, or of the smallest where nothing fits.
        beyond: of the next larger one, which doesn't fit; ``None`` where there is none.
        cap: the last size that was looked for; ``None`` with the estimate's problem.
        remedies: what would let more fit -> the largest then; without what wasn't tried or doesn't help.
    """

    dimension: str
    memory_bytes: int
    largest: int | None
    estimate: Estimate
    beyond: Estimate | None = None
    cap: int | None = None
    remedies: Mapping[str, int] = field(default_factory=dict)

    @property
    def need_bytes(self) -> int | None:
        """Of the estimate; ``None`` with its problem."""
        return self.estimate.need_bytes

    @property
    def at_cap(self) -> bool:
        """Whether it isn't the memory that is the limit."""
        return self.largest is not None and self.largest == self.cap

    @property
    def at_models_end(self) -> bool:
        """Whether the model has no positions for more."""
        return self.at_cap and is_models_end(self.dimension, self.cap)

    @property
    def bound_by(self) -> str | None:
        """What takes most at the peak of what doesn't fit any more, as in ``GROUPS``; ``None`` if unknown."""
        tight = self.beyond or self.estimate
        if tight.profile is None or self.at_cap:
            return None
        groups = grouped_bytes(tight.profile.peak.categories)
        return max(groups, key=lambda name: groups[name])


def is_models_end(dimension: str, cap: int | None) -> bool:
    """Whether the last size that is looked for is what the model has positions for."""
    return dimension == "length" and cap is not None and cap < SEARCH_END


GROUPS: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "buffers"),
    "gradients": ("gradients",),
    "optimizer": ("optimizer_state",),
    "activations": ("activations",),
    "temporaries": ("temporaries",),
}
"""Columns of a table, and the beginnings of the ledger's categories that they sum up."""


def grouped_bytes(categories: Mapping[str, int]) -> dict[str, int]:
    """A moment's bytes by the groups of ``GROUPS``; what belongs to none, such as inputs, is ``other``."""
    sums = dict.fromkeys([*GROUPS, "other"], 0)
    for category, size in categories.items():
        first = category.partition(".")[0]
        group = next((name for name, beginnings in GROUPS.items() if first in beginnings), "other")
        sums[group] += size
    return sums
