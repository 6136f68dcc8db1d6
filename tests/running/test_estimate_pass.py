"""When a run computes its own memory, and that nothing which goes wrong then costs it anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peprof.events import Progress
from peprof.results.predicted import prediction_of
from peprof.results.record import DataFacts, EstimatedMemory
from peprof.running import estimate_pass, subject, worker
from peprof.running.estimate_pass import UNFINISHED, OwnRun, run_estimate_pass
from peprof.running.tasks import RunResult
from peprof.suite.planning import RunSpec
from tests.running import test_phases
from tests.running.test_out_of_memory import TIMED, Greed

SEEN: list[OwnRun] = []


def stand_in(run: OwnRun) -> EstimatedMemory:
    """Takes the estimator's place."""
    SEEN.append(run)
    return EstimatedMemory(kind=run.kind, peak_bytes=1, there_bytes=run.memory_bytes)


def broken(run: OwnRun) -> EstimatedMemory:
    """One that fails as nobody foresaw."""
    raise ZeroDivisionError("on\n purpose")


def make_spec(*, estimate: bool = True, **values: Any) -> RunSpec:
    spec = test_phases.make_spec(steps=TIMED, **values)
    return spec.model_copy(update={"short": spec.short.model_copy(update={"estimate": estimate})})


class Heard:
    """A run, and what was said and kept on its way."""

    def __init__(self, spec: RunSpec, **options: Any) -> None:
        self.phases: list[str] = []
        self.kept: list[RunResult] = []
        self.result = worker.run(
            spec, device_name="cpu", source="", attempt=1, say=self._hear, keep=self.kept.append, **options
        )
        self.record = self.result.record

    def _hear(self, event: Progress) -> None:
        if not self.phases or self.phases[-1] != event.phase:
            self.phases.append(event.phase)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[OwnRun]:
    SEEN.clear()
    monkeypatch.setattr(estimate_pass, "ESTIMATOR", f"{__name__}:stand_in")
    return SEEN


@pytest.mark.slow
def test_it_comes_last_and_what_was_found_is_kept_before(seen: list[OwnRun]) -> None:
    heard = Heard(make_spec())
    assert heard.record.status == "ok" and heard.phases[-1] == "estimate"
    [kept] = heard.kept
    assert kept.record.short is not None and kept.record.short.work is not None
    assert kept.record.estimate is not None and kept.record.estimate.problem == UNFINISHED
    assert heard.record.estimate is not None and heard.record.estimate.peak_bytes == 1
    [own] = seen
    assert isinstance(own.facts, DataFacts) and own.train is not None
    assert (own.kind, own.device_name) == ("cpu", heard.record.environment.device_name)  # type: ignore[union-attr]
    assert own.memory_bytes is not None and own.memory_bytes > 2**28


def test_where_it_is_not_asked_for_nothing_is_done(seen: list[OwnRun]) -> None:
    heard = Heard(make_spec(estimate=False))
    assert heard.record.estimate is None and not seen and not heard.kept and "estimate" not in heard.phases
    spec = make_spec()
    train = spec.train.model_copy(update={"max_steps": 2})
    full = spec.model_copy(update={"phases": ("full",), "train": train})
    assert Heard(full).record.estimate is None and not seen, "no step of it is measured"


@pytest.mark.slow
def test_a_round_has_none_unless_it_fails(seen: list[OwnRun], monkeypatch: pytest.MonkeyPatch) -> None:
    assert Heard(make_spec(), timing_only=True).record.estimate is None and not seen
    Greed(range(1, 100), monkeypatch)
    assert Heard(make_spec(), timing_only=True).record.estimate is not None, "it is the run's record"


@pytest.mark.slow
def test_a_run_that_ran_out_of_memory_has_one_before_its_cause_is_looked_into(
    seen: list[OwnRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    Greed(range(1, 100), monkeypatch)
    heard = Heard(make_spec())
    assert heard.record.status == "oom" and heard.record.failure is not None
    assert heard.record.failure.memory is not None, "whose the memory was is still found out"
    assert [kept.record.estimate.problem for kept in heard.kept if kept.record.estimate] == [UNFINISHED, None]
    assert all(kept.record.status == "oom" for kept in heard.kept)
    assert heard.kept[-1].record.estimate == heard.record.estimate
    assert seen[0].train is not None


@pytest.mark.slow
def test_its_step_is_the_one_that_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted of a run without enough memory is what the same run needs where there is enough."""
    needed = Heard(make_spec()).record.short
    assert needed is not None and needed.breakdown is not None
    Greed(range(1, 100), monkeypatch)
    prediction = prediction_of(Heard(make_spec()).record)
    assert prediction is not None and prediction.ran_out is not None
    assert prediction.ran_out.need_bytes == needed.breakdown.peak_bytes
    assert prediction.ran_out.standing == "exact" and prediction.ran_out.phase == "short: warm-up"
    assert prediction.ran_out.foreseen is False, "it was made to ask for more than any step needs"


@pytest.mark.slow
def test_an_attempt_that_goes_on_predicts_what_the_one_before_has_measured(tmp_path: Path) -> None:
    spec = make_spec()
    data = spec.data.model_copy(update={"train_rows": 32, "validation_rows": 8})
    train = spec.train.model_copy(update={"max_steps": 2})
    spec = spec.model_copy(update={"phases": ("short", "full"), "data": data, "train": train})
    first = Heard(spec, checkpoint_directory=tmp_path).record
    second = Heard(spec, checkpoint_directory=tmp_path)
    assert not any(phase.startswith("short") for phase in second.phases), "it was taken over"
    assert second.phases[-1] == "estimate"
    assert second.record.short == first.short and second.record.estimate == first.estimate
    prediction = prediction_of(second.record)
    assert prediction is not None and prediction.error("peak") == 0.0


def test_memory_that_ran_out_while_the_model_was_made_is_predicted_too(
    seen: list[OwnRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply_method(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(subject, "apply_method", apply_method)
    heard = Heard(make_spec())
    assert heard.record.status == "oom" and heard.record.failure is not None
    assert heard.record.failure.phase == "setup"
    assert heard.record.estimate is not None and seen[0].train is None and seen[0].facts is not None


@pytest.mark.slow
def test_an_estimator_that_fails_costs_the_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_pass, "ESTIMATOR", f"{__name__}:broken")
    record = Heard(make_spec()).record
    assert record.status == "ok" and record.failure is None and not record.warnings
    assert record.estimate is not None and record.estimate.problem == "ZeroDivisionError: on purpose"
    assert record.estimate.there_bytes is not None


def test_an_estimator_that_is_not_there_is_a_problem_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_pass, "ESTIMATOR", "peprof.nowhere:estimate")
    found = run_estimate_pass(OwnRun(spec=make_spec(), source="", kind="cpu"))
    assert found.problem is not None and "peprof.nowhere" in found.problem
