"""Who is told what, and that a tracker's fault costs a warning and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from peprof.errors import UsageError
from peprof.results.record import Evaluation, TrainingHistory
from peprof.tracking import following, registry
from peprof.tracking.base import OpenTracker, TrackedRun
from peprof.tracking.following import Following
from peprof.tracking.registry import check_trackers, known_trackers
from tests.results.factory import make_full, make_record, make_short, make_spec

THREE = TrainingHistory(loss=(3.0, 2.0, 1.0), learning_rate=(0.0,) * 3, step_time_s=(0.5,) * 3)
EVALUATION = Evaluation(
    step=3, train_time_s=1.5, correct=6, total=8, loss=0.5, time_s=0.1, metrics={"accuracy": 0.75}
)


class Noted:
    """Notes what it is told, and raises when it is told for the n-th time."""

    def __init__(self, run: TrackedRun, *, raises_at: int | None = None) -> None:
        self.run = run
        self.told: list[tuple[Any, Mapping[str, float]]] = []
        self.raises_at = raises_at
        if raises_at == 0:
            raise ConnectionError("no service\nanswers")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, values))
        if len(self.told) == self.raises_at:
            raise ValueError("quota exceeded")

    def finish(self, status: str, metrics: Mapping[str, float]) -> None:
        self.scalars(status, metrics)  # type: ignore[arg-type]


def followed(
    monkeypatch: pytest.MonkeyPatch, directory: Path = Path("run"), /, **raises_at: int | None
) -> tuple[Following, dict[str, Noted], list[str]]:
    opened: dict[str, Noted] = {}
    warnings: list[str] = []

    def load(name: str) -> OpenTracker:
        def open_(run: TrackedRun) -> Noted:
            opened[name] = Noted(run, raises_at=raises_at[name])
            return opened[name]

        return open_

    monkeypatch.setattr(following, "load_tracker", load)
    one = Following(make_spec("lora"), directory, list(raises_at), warnings.append)
    return one, opened, warnings


def test_all_is_told_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened, warnings = followed(monkeypatch, noted=None)
    record = make_record("lora", short=make_short(), full=make_full())
    run.open(short=record.short)
    run.steps(1, THREE)
    run.evaluated(EVALUATION)
    run.finish(record)
    told = opened["noted"].told
    assert [step for step, _ in told] == [0, 1, 2, 3, 3, "ok"]
    assert told[0][1]["short/step_s"] == 0.2 and told[2][1]["train/loss"] == 2.0
    assert told[4][1]["evaluation/accuracy"] == 0.75 and told[5][1]["compare/train_time_s"] == 600.0
    assert opened["noted"].run.hyperparameters["label"] == "lora"
    assert not warnings


def test_a_run_that_goes_on_says_from_where_and_tells_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened, _ = followed(monkeypatch, noted=None)
    before = EVALUATION.model_copy(update={"step": 40, "train_time_s": 1.0, "energy_j": 10.0})
    run.open(resumed_step=40, short=make_short(), last_evaluation=before)
    run.steps(41, THREE)
    run.evaluated(EVALUATION.model_copy(update={"step": 43, "energy_j": 30.0}))
    assert opened["noted"].run.resumed_step == 40
    told = opened["noted"].told
    assert [step for step, _ in told] == [41, 42, 43, 43]
    assert told[3][1]["power/train_w"] == 40.0


def test_of_a_short_phase_that_failed_is_told_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened, _ = followed(monkeypatch, noted=None)
    run.finish(make_record("lora", status="oom", short=make_short(peak_mib=None)))
    (step, values), (status, metrics) = opened["noted"].told
    assert step == 0 and values["short/step_s"] == 0.2 and "memory/peak_allocated_bytes" not in values
    assert status == "oom" and metrics["compare/step_s"] == 0.2


def test_a_failure_before_training_leaves_an_earlier_log_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorboard").mkdir()
    run, opened, _ = followed(monkeypatch, tmp_path, noted=None)
    run.finish(make_record("lora", status="failed", short=make_short()))
    assert not opened and (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(("resumed_step", "kept"), [(0, False), (7, True)])
def test_a_run_that_begins_takes_away_a_log_from_before_whoever_follows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resumed_step: int, kept: bool
) -> None:
    (tmp_path / "tensorboard").mkdir()
    run, _, _ = followed(monkeypatch, tmp_path)
    run.open(resumed_step=resumed_step)
    assert (tmp_path / "tensorboard").exists() is kept


@pytest.mark.parametrize(
    ("at", "says"), [(0, "ConnectionError: no service answers"), (2, "ValueError: quota exceeded")]
)
def test_one_that_raises_is_told_nothing_more_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, at: int, says: str
) -> None:
    run, opened, warnings = followed(monkeypatch, broken=at, noted=None)
    run.open()
    run.steps(1, THREE)
    run.finish(make_record("lora", full=make_full()))
    assert warnings == [f"the tracker 'broken' failed and was told nothing more: {says}"]
    assert [step for step, _ in opened["noted"].told] == [1, 2, 3, "ok"]
    assert at == 0 or len(opened["broken"].told) == at


def test_a_tracker_that_cannot_be_imported_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.EntryPoint(name="gone", value="no_such_module:Tracker", group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    warnings: list[str] = []
    Following(make_spec(), Path("run"), ["gone"], warnings.append).open()
    (warning,) = warnings
    assert "'gone'" in warning and "ModuleNotFoundError" in warning and "no_such_module" in warning


def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.EntryPoint(name="wandb", value="mine:Tracker", group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert check_trackers(["wandb", "tensorboard", "wandb"]) == ("wandb", "tensorboard")
    with pytest.raises(UsageError) as error:
        check_trackers(["tensorbord"])
    assert error.value.message == "there is no tracker 'tensorbord'; there are: tensorboard, wandb"
    assert error.value.hint == "Did you mean 'tensorboard'?"


def test_two_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.EntryPoint(name="tensorboard", value="mine:Tracker", group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    assert len(known_trackers()["tensorboard"]) == 2
    with pytest.raises(UsageError, match="mine:Tracker"):
        check_trackers(["tensorboard"])
