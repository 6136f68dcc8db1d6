"""Rounds: methods timed in turns, A B C, A B C, so that a machine that drifts drifts for all of them.

::

    checkpoint/round-1.json   what round 1 of a run has timed
    checkpoint/round-2.json   ...

Each round is a fresh process that only times. When a run has all of its rounds its own process does the rest
of the short phase and all of the full one, and its record has the samples of all rounds. They lie in the
run's ``checkpoint/`` until then: whoever goes on with a suite goes on with the rounds that are missing. A
round that fails gives the run its record, as any failure does.

The parent imports this: no torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peprof.errors import StoreError
from peprof.results.atomic import replacing
from peprof.results.record import Environment, PhaseTimes, Piece, ShortResult, StepTimes, TimedRound
from peprof.suite.planning import RunSpec

ROUND_VERSION = 2

ELSEWHERE = frozenset({"git_commit", "git_dirty", "hostname", "platform", "device_uuid"})
"""Of the environment: which of several equal machines it is, and what surrounds the code."""


class KeptRound(Piece):
    """What one round of a run has found.

    Args:
        version: of this file.
        run_id: of the run.
        number: of the round, from 1.
        started_at: ISO 8601, UTC.
        total_time_s: seconds from start to end of the round's process.
        environment: where it was timed.
        method_source: digest of the method's source, which must be that of the run itself.
        short: the timing pass, and nothing else.
    """

    version: int = ROUND_VERSION
    run_id: str
    number: int
    started_at: str
    total_time_s: float
    environment: Environment
    method_source: str
    short: ShortResult


def rounds_of(spec: RunSpec) -> int:
    """Rounds that a run has beside itself; 0 where its own process does the timing."""
    return spec.short.rounds if spec.short.rounds > 1 and "short" in spec.phases else 0


def in_turns(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The order in which runs are taken up: each as often as it has rounds, in turns, and once more.

    The runs of one seed and one point of the matrix take turns with each other; they follow each other in a
    plan, and no label comes twice among them.
    """
    order: list[RunSpec] = []
    for group in _groups(specs):
        most = max(map(rounds_of, group))
        for number in range(1, most + 1):
            order += [spec for spec in group if number <= rounds_of(spec)]
        order += group
    return order


def _groups(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    groups: list[list[RunSpec]] = []
    labels: set[str] = set()
    for spec in specs:
        if not groups or spec.method.label in labels:
            groups.append([])
            labels.clear()
        groups[-1].append(spec)
        labels.add(spec.method.label)
    return groups


def kept_rounds(directory: Path, spec: RunSpec, environment: Environment) -> tuple[KeptRound, ...]:
    """The rounds of a run that were timed before, in order; what is of no use counts as not timed.

    Args:
        directory: the run's ``checkpoint/``; need not exist.
        spec: the run.
        environment: of what is timed now: rounds of another device or other versions don't count.
    """
    found = (_kept(directory / _name(number), spec, number) for number in range(1, rounds_of(spec) + 1))
    return tuple(one for one in found if one and _same_place(one.environment, environment))


def missing_round(kept: Sequence[KeptRound], spec: RunSpec) -> int | None:
    """The number of the first round that is still to be timed; ``None`` where there is none."""
    done = {one.number for one in kept}
    return next((number for number in range(1, rounds_of(spec) + 1) if number not in done), None)


def keep_round(directory: Path, kept: KeptRound) -> None:
    """Keeps a round until its run has a record.

    Raises:
        StoreError: it can't be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / _name(kept.number)) as file:
            file.write(kept.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise StoreError(
            f"can't keep a round in '{directory}': {error.strerror or error}",
            hint="Free some space there, or name another --results, and run the same command again.",
        ) from error


def _name(number: int) -> str:
    return f"round-{number}.json"


def _kept(path: Path, spec: RunSpec, number: int) -> KeptRound | None:
    try:
        kept = KeptRound.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    known = (kept.version, kept.run_id, kept.number) == (ROUND_VERSION, spec.run_id, number)
    return kept if known and kept.short.times is not None else None


def _same_place(one: Environment, other: Environment) -> bool:
    return one.model_dump(exclude=set(ELSEWHERE)) == other.model_dump(exclude=set(ELSEWHERE))


def joined(rounds: Sequence[KeptRound]) -> ShortResult:
    """One timing pass of all rounds, in their order; ``rounds`` says which samples are whose.

    Args:
        rounds: at least one, all of one run.
    """
    shorts = [one.short for one in rounds]
    told = [short.steady for short in shorts]
    return shorts[0].model_copy(
        update={
            "warmup_steps": min(short.warmup_steps for short in shorts),
            "steady": False if False in told else None if None in told else True,
            "stopped_by": "max_seconds" if any(s.stopped_by == "max_seconds" for s in shorts) else "steps",
            "real_tokens": tuple(tokens for short in shorts for tokens in short.real_tokens),
            "times": _joined_times([short.times for short in shorts if short.times is not None]),
            "rounds": tuple(map(_timed, rounds)),
        }
    )


def _timed(kept: KeptRound) -> TimedRound:
    short = kept.short
    return TimedRound(
        steps=len(short.times.step_s) if short.times is not None else 0,
        warmup_steps=short.warmup_steps,
        steady=short.steady,
        stopped_by=short.stopped_by,
        started_at=kept.started_at,
    )


def _joined_times(times: Sequence[StepTimes]) -> StepTimes:
    seconds = [one.pass_s for one in times if one.pass_s is not None]
    return StepTimes(
        clock=times[0].clock,
        host=_joined_phases([one.host for one in times if one.host is not None]),
        wall=_joined_phases([one.wall for one in times if one.wall is not None]),
        enqueue=_joined_phases([one.enqueue for one in times if one.enqueue is not None]),
        pass_s=sum(seconds) if len(seconds) == len(times) else None,
        **_columns(times),
    )


def _joined_phases(times: Sequence[PhaseTimes]) -> PhaseTimes | None:
    return PhaseTimes(**_columns(times)) if times else None


def _columns(times: Sequence[PhaseTimes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in PhaseTimes.model_fields:
        columns = [getattr(one, name) for one in times]
        found[name] = None if None in columns else tuple(value for column in columns for value in column)
    return found
