"""Methods timed in turns: the order, what is kept between rounds, and whole suites of rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peprof.results.record import PhaseTimes
from peprof.results.store import CHECKPOINT_DIRECTORY
from peprof.running import worker
from peprof.running.rounds import KeptRound, in_turns, joined, keep_round, kept_rounds, missing_round
from peprof.running.runner import Outcome, run_suite
from peprof.running.tasks import RunResult
from peprof.suite.loading import load_suite
from tests.results.factory import ENVIRONMENT, make_short, make_spec, make_times
from tests.running.helpers import Listener, write_suite
from tests.running.test_phases import make_spec as phases_spec


def names(*specs_and_rounds: tuple[str, int, int]) -> str:
    specs = [make_spec(label, seed=seed, rounds=rounds) for label, seed, rounds in specs_and_rounds]
    return " ".join(f"{spec.method.label}{spec.seed}" for spec in in_turns(specs))


def test_methods_take_turns_and_then_come_the_runs() -> None:
    found = names(("a", 0, 3), ("b", 0, 3), ("c", 0, 3))
    assert found == "a0 b0 c0 a0 b0 c0 a0 b0 c0 a0 b0 c0"


def test_each_seed_has_its_table_before_the_next_begins() -> None:
    found = names(("a", 0, 2), ("b", 0, 2), ("a", 1, 2), ("b", 1, 2))
    assert found == "a0 b0 a0 b0 a0 b0 a1 b1 a1 b1 a1 b1"


def test_one_round_is_none_and_runs_with_fewer_rounds_drop_out() -> None:
    assert names(("a", 0, 1), ("b", 0, 1)) == "a0 b0"
    assert names(("a", 0, 3), ("b", 0, 1), ("c", 0, 2)) == "a0 c0 a0 c0 a0 a0 b0 c0"
    assert in_turns([]) == []
    full = make_spec("a", phases=("full",), rounds=3)
    assert in_turns([full]) == [full], "only the short phase has rounds"


SPEC = make_spec("lora", rounds=3)


def kept(number: int, *step_ms: float, **short: object) -> KeptRound:
    times = make_times(step_ms)
    few = PhaseTimes.model_validate(times.model_dump(include=set(PhaseTimes.model_fields)))
    update = {"times": times.model_copy(update={"host": few, "pass_s": sum(step_ms) / 1000}), **short}
    return KeptRound(
        run_id=SPEC.run_id,
        number=number,
        started_at=f"2026-01-02T03:04:0{number}Z",
        total_time_s=10.0 * number,
        environment=ENVIRONMENT,
        method_source="abc",
        short=make_short(step_ms=step_ms).model_copy(update=update),
    )


def test_what_was_kept_is_found_and_the_first_missing_round_is_next(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "checkpoint"
    assert kept_rounds(directory, SPEC, ENVIRONMENT) == ()
    assert missing_round((), SPEC) == 1
    for number in (1, 3):
        keep_round(directory, kept(number, 100, 101, 102))
    found = kept_rounds(directory, SPEC, ENVIRONMENT)
    assert found == (kept(1, 100, 101, 102), kept(3, 100, 101, 102))
    assert missing_round(found, SPEC) == 2
    keep_round(directory, kept(2, 5, 6, 7))
    assert missing_round(kept_rounds(directory, SPEC, ENVIRONMENT), SPEC) is None


@pytest.mark.parametrize("wrong", ["damaged", "other run", "other number", "other torch", "no times"])
def test_a_round_that_is_of_no_use_is_timed_again(wrong: str, tmp_path: Path) -> None:
    update = {
        "other run": {"run_id": "x"},
        "other number": {"number": 2},
        "other torch": {"environment": ENVIRONMENT.model_copy(update={"torch": "2.11.0"})},
        "no times": {"short": make_short(step_ms=None)},
    }.get(wrong, {})
    one = kept(1, 100, 101, 102).model_copy(update=update)
    (tmp_path / "round-1.json").write_text(one.model_dump_json()[: 50 if wrong == "damaged" else None])
    assert kept_rounds(tmp_path, SPEC, ENVIRONMENT) == ()


def test_another_machine_of_the_same_kind_goes_on(tmp_path: Path) -> None:
    keep_round(tmp_path, kept(1, 100, 101, 102))
    elsewhere = ENVIRONMENT.model_copy(update={"hostname": "other", "git_commit": "f00", "device_uuid": "u"})
    assert len(kept_rounds(tmp_path, SPEC, elsewhere)) == 1


def test_joined_rounds_have_all_samples_in_order_and_say_whose_they_are() -> None:
    found = joined(
        [
            kept(1, 100, 101, 102, steady=True, warmup_steps=6),
            kept(2, 200, 201, steady=False, warmup_steps=9, stopped_by="max_seconds"),
            kept(3, 300, 301, 302, steady=None, warmup_steps=8),
        ]
    )
    assert found.times is not None and found.times.host is not None and found.times.wall is None
    assert found.times.step_s == (0.1, 0.101, 0.102, 0.2, 0.201, 0.3, 0.301, 0.302)
    assert found.times.clip_s == tuple(value / 8 for value in found.times.step_s)
    assert found.times.host.step_s == found.times.step_s
    assert found.times.pass_s == pytest.approx(0.303 + 0.401 + 0.903)
    assert len(found.real_tokens) == 8
    assert (found.warmup_steps, found.steady, found.stopped_by) == (6, False, "max_seconds")
    assert [(one.steps, one.warmup_steps, one.steady, one.stopped_by) for one in found.rounds] == [
        (3, 6, True, "steps"),
        (2, 9, False, "max_seconds"),
        (3, 8, None, "steps"),
    ]
    assert found.rounds[1].started_at == "2026-01-02T03:04:02Z"


@pytest.mark.slow
def test_a_run_takes_its_rounds_for_its_timing_unless_the_method_has_changed_since() -> None:
    spec = phases_spec(steps=3)
    spec = spec.model_copy(update={"short": spec.short.model_copy(update={"rounds": 2})})

    def work(**options: Any) -> RunResult:
        return worker.run(spec, device_name="cpu", source="", attempt=1, say=lambda event: None, **options)

    def as_kept(number: int, result: RunResult) -> KeptRound:
        record = result.record
        assert record.environment is not None and record.short is not None and record.status == "ok"
        assert record.short.memory is None and record.short.work is None, "a round times and does no more"
        return KeptRound(
            run_id=spec.run_id,
            number=number,
            started_at=record.started_at,
            total_time_s=100.0,
            environment=record.environment,
            method_source=result.method_source or "",
            short=record.short,
        )

    rounds = tuple(as_kept(number, work(timing_only=True)) for number in (1, 2))
    taken = work(rounds=rounds).record
    assert taken.short is not None and taken.short.memory is not None and taken.warnings == ()
    assert taken.short.times == joined(rounds).times
    assert 200 < taken.total_time_s < 300, "the rounds' time is the run's"

    changed = (rounds[0], rounds[1].model_copy(update={"method_source": "another"}))
    own = work(rounds=changed).record
    assert own.short is not None and own.short.times is not None and own.short.rounds == ()
    assert len(own.short.times.step_s) == 3
    assert own.warnings == (worker.ROUNDS_WARNING,)


def run(path: Path, results: Path, listener: Listener, rounds: int) -> Outcome:
    loaded = load_suite(path, overrides=[f"short.rounds={rounds}"])
    return run_suite(loaded, results=results, device="cpu", observer=listener, trackers=())


@pytest.mark.slow
def test_a_suite_of_rounds_times_in_turns_and_leaves_one_record_a_run(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', 'name = "bitfit"')
    listener = Listener()
    outcome = run(path, tmp_path / "r", listener, 2)
    assert listener.rounds == [("head", 1), ("bitfit", 1), ("head", 2), ("bitfit", 2)]
    assert listener.rounds_finished == 4
    assert listener.started == [record.run_id for record in outcome.records] and len(listener.started) == 2
    for record in outcome.records:
        assert record.status == "ok" and record.warnings == () and record.full is not None
        short = record.short
        assert short is not None and short.times is not None
        assert short.memory is not None and short.breakdown is not None and short.work is not None
        assert [one.steps for one in short.rounds] == [3, 3]
        assert len(short.times.step_s) == len(short.real_tokens) == 6
        assert short.rounds[0].started_at <= short.rounds[1].started_at <= record.started_at
        assert not (outcome.store.run_directory(record.run_id) / CHECKPOINT_DIRECTORY).exists()

    again = Listener()
    assert run(path, tmp_path / "r", again, 2).records == outcome.records
    assert again.rounds == [] and again.started == []


@pytest.mark.slow
def test_rounds_that_are_never_of_use_are_timed_once_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with two kinds of GPU: what one has timed doesn't count for the other."""
    monkeypatch.setattr("peprof.running.loop.kept_rounds", lambda *_: ())
    listener = Listener()
    path = write_suite(tmp_path, 'name = "head"', phases='"short"')
    (record,) = run(path, tmp_path / "r", listener, 2).records
    assert listener.rounds_finished == 2
    assert record.status == "ok" and record.warnings == (worker.ROUNDS_WARNING,)
    assert record.short is not None and record.short.rounds == ()


class Stopping(Listener):
    """Interrupts the suite when so many rounds are timed, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def round_finished(self, spec: object) -> None:
        self.rounds_finished += 1
        if self.rounds_finished == self.after:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_stopped_suite_goes_on_with_the_rounds_that_are_missing(tmp_path: Path) -> None:
    path = write_suite(tmp_path, 'name = "head"', 'name = "bitfit"', phases='"short"')
    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "r", Stopping(3), 2)
    listener = Listener()
    outcome = run(path, tmp_path / "r", listener, 2)
    assert listener.rounds == [("bitfit", 2)], "a finished round isn't repeated"
    assert [len(record.short.rounds) for record in outcome.records if record.short] == [2, 2]


@pytest.mark.slow
def test_a_round_that_fails_is_its_runs_row_and_costs_the_others_nothing(tmp_path: Path) -> None:
    bad = 'name = "faulty"\nhow = "oom"\nstep = 3'
    path = write_suite(tmp_path, bad, 'name = "head"', phases='"short"')
    listener = Listener()
    broken, healthy = run(path, tmp_path / "r", listener, 2).records
    assert listener.rounds == [("faulty", 1), ("head", 1), ("head", 2)]
    assert broken.status == "oom" and broken.failure is not None
    assert broken.failure.phase == "short: timing" and broken.failure.requested_bytes == 2**55
    assert healthy.status == "ok" and healthy.short is not None and len(healthy.short.rounds) == 2
    assert [record.status for record in listener.finished] == ["oom", "ok"]
