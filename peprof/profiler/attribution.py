"""Says whose each storage was, after the step: the ledger's notes -> names and bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from peprof.breakdown.values import (
    OUTSIDE,
    ActivationBreakdown,
    CheckpointRegion,
    ModuleBytes,
    Moment,
    PhaseMemory,
    RanOut,
    SavedStorage,
    StepProfile,
    Timeline,
    sum_by,
)
from peprof.profiler.book import Birth
from peprof.profiler.events import PhaseIndex, Span, highest, spans_of
from peprof.profiler.ledger import Ledger
from peprof.profiler.locations import Marks
from peprof.profiler.operators import operator_name
from peprof.profiler.phases import OUTSIDE_PHASE
from peprof.profiler.saving import Saving

Owner = Callable[[str], str | None] | Mapping[str, str]
"""Qualified name of a module or parameter -> who owns it. As a mapping: names and beginnings of dotted names,
of which the longest counts."""

UNOWNED = "(nobody)"
"""The owner of what the caller's owners don't cover."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Whose a storage is.

    Args:
        category: what it is.
        module: qualified name; ``None`` outside of all.
        name: of the parameter or buffer that it belongs to, else the module's.
        operator: that made it.
    """

    category: str
    module: str | None
    name: str | None
    operator: str


class Attribution:
    """A finished ledger, read.

    Args:
        ledger: after its context was left.
        owner: optionally, who owns which module or parameter.
    """

    def __init__(self, ledger: Ledger, *, owner: Owner | None = None) -> None:
        self._ledger = ledger
        self._log = ledger.book.log
        self._notes = ledger.book.births
        self._levels = self._log.levels()
        length = len(self._log.events)
        edges = ledger.phases.marked_edges or ledger.phases.found_edges
        before = OUTSIDE_PHASE if ledger.phases.marked_edges else "forward"
        self._spans = spans_of(edges, length, before=before)
        self._phase_of = PhaseIndex(self._spans).phase_of
        self._births, self._deaths = self._log.births_and_deaths()
        self._names = {id(module): name for name, module in ledger.model.named_modules()}
        self._owner_of = _owner_function(owner)
        self._savings: dict[int, Saving] = {}
        self._hidden: dict[int, str] = {}
        for saving in ledger.saved.savings:
            if saving.hidden_by is not None:
                self._hidden.setdefault(saving.number, saving.hidden_by)
            else:
                self._savings.setdefault(saving.number, saving)
        self._facts = [self._facts_of(number) for number in range(len(self._log.sizes))]

    # -- one storage --------------------------------------------------------------------------------

    def _facts_of(self, number: int) -> Facts:
        birth = self._notes[number]
        operator = operator_name(birth.operator)
        label = self._ledger.book.labels.get(number)
        if label is not None:
            module = label.name.rpartition(".")[0] if label.name else None
            return Facts(category=label.category, module=module, name=label.name or None, operator=operator)
        saving = self._savings.get(number)
        if saving is not None:
            category = "activations" if saving.region is None else "activations.recomputed"
            if number not in self._births:
                category = "unattributed"  # was there before the step, and only its being saved gave it away
            module = self._module_name(saving.module)
            return Facts(category=category, module=module, name=module, operator=operator)
        module = self._birth_module(number)
        hidden_by = self._hidden.get(number) or birth.packing or self._ledger.kept_on_context.get(number)
        if number not in self._births:
            category = "unattributed"
        elif hidden_by is not None and self._outlives_forward(number):
            category, operator = "unattributed", f"{operator} (kept by {hidden_by})"
        else:
            category = f"temporaries.{self._phase_of(self._births[number])}"
        return Facts(category=category, module=module, name=module, operator=operator)

    def _birth_module(self, number: int) -> str | None:
        return self._module_of(self._notes[number])

    def _module_of(self, birth: Birth) -> str | None:
        place, node = birth.place, birth.node
        if isinstance(place, str):
            return place.rpartition(".")[0] if place else None
        return self._module_name(place.module_of(node) if isinstance(place, Marks) else place)

    def _module_name(self, module: nn.Module | None) -> str | None:
        """Qualified name; a module that the model doesn't have goes by its class."""
        if module is None:
            return None
        name: str = self._names.get(id(module), f"({type(module).__name__})")
        return name

    def _outlives_forward(self, number: int) -> bool:
        """Whether it was made before a backward and is alive when that begins."""
        starts = self._ledger.phases.backward_starts
        position = bisect_left(starts, self._births[number])
        return position < len(starts) and self._deaths.get(number, len(self._log.events)) >= starts[position]

    def categories(self) -> list[str]:
        """What each storage is, by its number."""
        return [facts.category for facts in self._facts]

    # -- one moment ---------------------------------------------------------------------------------

    def moment(self, moment: int, phase: str) -> Moment:
        """Whose each byte is after the first ``moment`` events."""
        log, facts = self._log, self._facts
        live = log.live_at(moment)
        sized = [(facts[number], log.sizes[number]) for number in live if log.sizes[number]]
        last = log.events[moment - 1] if moment else None
        raised_by = last if last is not None and last >= 0 else None
        found = Moment(
            phase=phase,
            event=moment,
            total_bytes=self._levels[moment],
            operator=operator_name(self._notes[raised_by].operator) if raised_by is not None else None,
            module=self._birth_module(raised_by) if raised_by is not None else None,
            categories=sum_by((fact.category, size) for fact, size in sized),
            operators=sum_by((fact.operator, size) for fact, size in sized),
            owners=sum_by((self._owner(fact), size) for fact, size in sized) if self._owner_of else {},
            modules=module_tree((fact.module, fact.category, size) for fact, size in sized),
        )
        for division in (found.categories, found.operators, *([found.owners] if self._owner_of else [])):
            assert sum(division.values()) == found.total_bytes
        assert found.modules.total_bytes == found.total_bytes
        return found

    def _owner(self, fact: Facts) -> str:
        assert self._owner_of is not None
        return UNOWNED if fact.name is None else (self._owner_of(fact.name) or UNOWNED)

    # -- the whole step -----------------------------------------------------------------------------

    def profile(self, *, timeline_points: int = 400) -> StepProfile:
        """All there is to say of the step.

        Args:
            timeline_points: stretches into which the timeline is divided.
        """
        levels, marked = self._levels, bool(self._ledger.phases.marked_edges)
        spans_by_phase: dict[str, list[Span]] = {}
        for span in self._spans:
            if span.last > span.first or (span.phase != OUTSIDE_PHASE and span is not self._spans[0]):
                spans_by_phase.setdefault(span.phase, []).append(span)
        phases = []
        for phase, spans in spans_by_phase.items():
            moments = [highest(levels, span.first, span.last) for span in spans]
            peak = max(moments, key=lambda moment: (levels[moment], -moment))
            phases.append(
                PhaseMemory(phase=phase, peak=self.moment(peak, phase), end_bytes=levels[spans[-1].last])
            )
        top = highest(levels, 0, len(levels) - 1)
        inside = next((phase.peak for phase in phases if phase.peak.event == top), None)
        return StepProfile(
            device=str(self._ledger.device),
            start_bytes=levels[0],
            end_bytes=levels[-1],
            peak=inside or self.moment(top, OUTSIDE_PHASE),
            phases=tuple(phases),
            phases_from="marks" if marked else "autograd",
            activations=self.activations(),
            timeline=self.timeline(timeline_points),
            ran_out=self.ran_out(),
        )

    def ran_out(self) -> RanOut | None:
        """Where the step ran out of memory; ``None`` where it didn't."""
        note = self._ledger.ran_out
        if note is None:
            return None
        return RanOut(
            operator=operator_name(note.birth.operator) if note.birth.operator is not None else None,
            module=self._module_of(note.birth),
            requested_bytes=note.requested_bytes,
            live=self.moment(note.event, note.phase),
        )

    def activations(self) -> ActivationBreakdown:
        """What is kept for backward at the beginning of the backward that finds most."""
        kept: list[int] = []
        for start in self._ledger.phases.backward_starts:
            live = self._log.live_at(start)
            now = [number for number in self._savings if number in live and self._is_activation(number)]
            if self._bytes_of(now) > self._bytes_of(kept):
                kept = now
        recomputed = [
            number for number in self._savings if self._facts[number].category == "activations.recomputed"
        ]
        region_inputs = {number for _, inputs in self._ledger.regions.values() for number in inputs}
        return ActivationBreakdown(
            saved=tuple(self._saved_storage(number, number in region_inputs) for number in kept),
            recomputed=tuple(self._saved_storage(number, False) for number in recomputed),
            regions=self._regions(set(kept), recomputed),
        )

    def _is_activation(self, number: int) -> bool:
        return self._facts[number].category == "activations"

    def _bytes_of(self, numbers: Iterable[int]) -> int:
        return sum(self._log.sizes[number] for number in numbers)

    def _saved_storage(self, number: int, checkpointed: bool) -> SavedStorage:
        saving = self._savings[number]
        operators = (
            self._ledger.operator_of_node if saving.region is None else self._ledger.operator_of_recomputed
        )
        saved_by = operators.get(saving.node, self._notes[number].operator)
        return SavedStorage(
            module=self._module_name(saving.module),
            operator="checkpoint" if checkpointed else operator_name(saved_by),
            made_in=self._birth_module(number),
            made_by=self._facts[number].operator,
            shape=tuple(saving.shape),
            dtype=str(saving.dtype).removeprefix("torch."),
            nbytes=self._log.sizes[number],
        )

    def _regions(self, kept: set[int], recomputed: list[int]) -> tuple[CheckpointRegion, ...]:
        again: dict[int | None, int] = {}
        for number in recomputed:
            region = self._savings[number].region
            again[region] = again.get(region, 0) + self._log.sizes[number]
        return tuple(
            CheckpointRegion(
                module=common_ancestor(self._module_name(module) or "" for module in modules),
                saved_bytes=self._bytes_of(kept.intersection(inputs)),
                recomputed_bytes=again.get(region, 0),
            )
            for region, (modules, inputs) in self._ledger.regions.items()
        )

    def timeline(self, points: int) -> Timeline:
        """Live bytes by category, at the highest moment of each of ``points`` stretches, and at both ends."""
        levels = self._levels
        last = len(levels) - 1
        bounds = sorted({round(index * last / points) for index in range(points + 1)} | {0, last})
        chosen = sorted({0, last, *(highest(levels, low, high) for low, high in pairwise(bounds))})
        names = sorted({fact.category for fact in self._facts})
        now = dict.fromkeys(names, 0)
        for number in self._log.resident:
            now[self._facts[number].category] += self._log.sizes[number]
        series: dict[str, list[int]] = {name: [] for name in names}
        wanted = set(chosen)
        if 0 in wanted:
            for name in names:
                series[name].append(now[name])
        for moment, (number, change) in enumerate(self._log.changes(), start=1):
            now[self._facts[number].category] += change
            if moment in wanted:
                for name in names:
                    series[name].append(now[name])
        phase_at = [self._phase_of(min(moment, last - 1)) if last else OUTSIDE_PHASE for moment in chosen]
        return Timeline(
            events=tuple(chosen),
            phases=tuple(phase_at),
            categories={name: tuple(values) for name, values in series.items() if any(values)},
        )


def module_tree(sized: Iterable[tuple[str | None, str, int]]) -> ModuleBytes:
    """(module, category, bytes) of each storage -> the tree of modules.

    The root is the whole step; below it are the model's parts, and what lies outside the model.
    """
    own: dict[str, dict[str, int]] = {"": {}}
    for module, category, size in sized:
        categories = own.setdefault(OUTSIDE if module is None else module, {})
        categories[category] = categories.get(category, 0) + size
    below: dict[str, set[str]] = {}
    for name in list(own):
        while name:
            parent = "" if name.startswith("(") else name.rpartition(".")[0]
            below.setdefault(parent, set()).add(name)
            name = parent

    def build(name: str) -> ModuleBytes:
        children = sorted(map(build, below.get(name, ())), key=lambda child: (-child.total_bytes, child.name))
        categories = sum_by(iter(own.get(name, {}).items()))
        own_bytes = sum(categories.values())
        return ModuleBytes(
            name=name,
            own_bytes=own_bytes,
            total_bytes=own_bytes + sum(child.total_bytes for child in children),
            categories=categories,
            children=tuple(children),
        )

    return build("")


def common_ancestor(names: Iterable[str]) -> str:
    """The longest dotted beginning that all names share."""
    split = [name.split(".") for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _owner_function(owner: Owner | None) -> Callable[[str], str | None] | None:
    if owner is None or not isinstance(owner, Mapping):
        return owner
    names = dict(owner)

    def longest(name: str) -> str | None:
        while name:
            if name in names:
                return names[name]
            name = name.rpartition(".")[0]
        return names.get("")

    return longest
