"""Two versions' runs -> pairs of what may be compared, and why the others may not."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from peprof.errors import UsageError
from peprof.results.conditions import CONDITIONS, Difference, differences, split
from peprof.results.record import RunRecord
from peprof.results.rows import by_work, variants_of

#: What a method was told, where both versions know the option: a condition too, when versions are compared.
OPTIONS = "options"
#: What ``ignored_conditions`` understands.
IGNORABLE = (*CONDITIONS, OPTIONS)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Runs of one version that differ in nothing but the seed, or in nothing at all.

    Args:
        work: an id of what they do, the same in both versions for equal work.
        conditions: that they were measured under, by name.
        runs: at least one, by seed.
    """

    work: str
    conditions: Mapping[str, str]
    runs: tuple[RunRecord, ...]

    @property
    def label(self) -> str:
        """What the suite calls the method."""
        return self.runs[0].spec.method.label


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same method in both versions, or in one of them alone.

    Args:
        name: its label, with what tells it from another of the same label.
        base, new: its runs; ``None`` where a version has none.
        differences: why the two may not be compared; empty where they may.
        ignored: what differs and doesn't matter, because the user said so.
    """

    name: str
    base: Unit | None
    new: Unit | None
    differences: tuple[Difference, ...] = ()
    ignored: tuple[Difference, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether both versions have it, under the same conditions."""
        return self.base is not None and self.new is not None and not self.differences


def ignored_conditions(names: Iterable[str]) -> frozenset[str]:
    """The conditions that a user doesn't mind: as tables name them, in any case, ``-`` or ``_`` for blanks.

    Raises:
        UsageError: one of them doesn't exist.
    """
    known = {condition.lower(): condition for condition in IGNORABLE}
    found = set()
    for name in names:
        key = name.strip().lower().replace("_", " ").replace("-", " ")
        if not key:
            continue
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            guess = f" Did you mean '{known[near[0]]}'?" if near else ""
            raise UsageError(
                f"--ignore: there is no condition '{name.strip()}'.{guess}",
                hint=f"Ignore some of: {', '.join(IGNORABLE)}.",
            )
        found.add(known[key])
    if "data" in found or "data fingerprint" in found:  # two names of one thing
        found |= {"data", "data fingerprint"}
    return frozenset(found)


def pair_up(
    base: Sequence[RunRecord], new: Sequence[RunRecord], *, ignore: Collection[str] = ()
) -> tuple[Pair, ...]:
    """Each unit of both versions, once: with its counterpart where there is one.

    A counterpart does the same work under the same conditions; where there is none of these, it has the same
    label and differs in as few conditions as possible.

    Args:
        base, new: records of each version.
        ignore: conditions that may differ, see ``ignored_conditions``.
    """
    olds, news = _units(base), _units(new)
    partner = _same(olds, news)
    partner |= _nearest(olds, news, partner, ignore)
    taken = set(partner.values())
    pairs = [
        _pair(olds[partner[place]] if place in partner else None, unit, ignore)
        for place, unit in enumerate(news)
    ]
    pairs += [_pair(unit, None, ignore) for place, unit in enumerate(olds) if place not in taken]
    return tuple(_named(pairs))


def _units(records: Sequence[RunRecord]) -> list[Unit]:
    ordered = sorted(records, key=lambda record: (record.spec.suite, record.run_id, record.started_at))
    return [
        Unit(
            work=work,
            conditions=table.conditions,
            runs=tuple(sorted(runs, key=lambda run: run.spec.seed)),
        )
        for table in split(ordered)
        for work, runs in by_work(table.records).items()
    ]


def _same(olds: Sequence[Unit], news: Sequence[Unit]) -> dict[int, int]:
    """Place of a new unit -> place of the old one that is equal in all."""
    places = {(unit.work, *sorted(unit.conditions.items())): place for place, unit in enumerate(olds)}
    keys = [(unit.work, *sorted(unit.conditions.items())) for unit in news]
    return {place: places[key] for place, key in enumerate(keys) if key in places}


def _nearest(
    olds: Sequence[Unit], news: Sequence[Unit], partner: Mapping[int, int], ignore: Collection[str]
) -> dict[int, int]:
    """For the others the old one of the same label from which they differ least, each taken once."""
    taken = set(partner.values())
    by_label: dict[str, list[int]] = {}
    for place, unit in enumerate(olds):
        if place not in taken:
            by_label.setdefault(unit.label, []).append(place)
    candidates = []
    for place, unit in enumerate(news):
        if place in partner:
            continue
        for other in by_label.get(unit.label, ()):
            found = all_differences(olds[other], unit)
            counted = sum(one.condition not in ignore for one in found)
            other_work = olds[other].work != unit.work
            other_suite = olds[other].runs[0].spec.suite != unit.runs[0].spec.suite
            candidates.append((counted, other_work, other_suite, len(found), place, other))
    nearest: dict[int, int] = {}
    for *_, place, other in sorted(candidates):
        if place not in nearest and other not in taken:
            nearest[place] = other
            taken.add(other)
    return nearest


def all_differences(base: Unit, new: Unit) -> list[Difference]:
    """What is known of both and not the same, the method's options included."""
    found = list(differences(new.conditions, base.conditions))
    options, before = new.runs[0].spec.method.options, base.runs[0].spec.method.options
    changed = [name for name in options if name in before and options[name] != before[name]]
    if changed:
        found.append(
            Difference(
                condition=OPTIONS,
                here=", ".join(f"{name}={json.dumps(options[name])}" for name in changed),
                first=", ".join(f"{name}={json.dumps(before[name])}" for name in changed),
            )
        )
    return found


def _pair(base: Unit | None, new: Unit | None, ignore: Collection[str]) -> Pair:
    found = all_differences(base, new) if base is not None and new is not None else []
    unit = new or base
    return Pair(
        name=unit.label if unit is not None else "",
        base=base,
        new=new,
        differences=tuple(one for one in found if one.condition not in ignore),
        ignored=tuple(one for one in found if one.condition in ignore),
    )


def _named(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, with what tells namesakes apart: their settings, or else the conditions they differ in."""
    units = [unit for pair in pairs if (unit := pair.new or pair.base) is not None]
    variants = variants_of([unit.runs[0] for unit in units])
    places: dict[tuple[str, str], list[int]] = {}
    for place, (pair, variant) in enumerate(zip(pairs, variants, strict=True)):
        places.setdefault((pair.name, variant), []).append(place)
    names = [pair.name for pair in pairs]
    for (label, variant), namesakes in places.items():
        known = [units[place].conditions for place in namesakes]
        keys = dict.fromkeys(key for one in known for key in one)
        differing = [key for key in keys if len({one.get(key) for one in known}) > 1]
        for place, one in zip(namesakes, known, strict=True):
            parts = [variant] if variant else []
            parts += [f"{key} {one[key]}" for key in differing if key in one]
            names[place] = f"{label} ({', '.join(parts)})" if parts else label
    return [replace(pair, name=name) for pair, name in zip(pairs, names, strict=True)]
