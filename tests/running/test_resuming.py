"""A run that was killed goes on from its last checkpoint and leaves one record, as one that wasn't."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from peprof.results.record import Environment, RunRecord, TrainingHistory
from peprof.results.store import ResultStore
from peprof.running import resuming
from peprof.running.resuming import RunCheckpoint, conditions_of, source_digest
from peprof.running.runner import run_suite
from peprof.running.worker import run as run_here
from peprof.suite.loading import LoadedSuite, load_suite
from peprof.suite.planning import plan
from peprof.training import checkpoints
from peprof.training.checkpoints import read_checkpoint, write_checkpoint
from tests.running.helpers import Listener, write_suite

LORA = 'name = "lora"\nrank = 2\ndropout = 0.1'


def full_suite(directory: Path, method: str, *, phases: str = '"short", "full"') -> LoadedSuite:
    """Kept after each evaluation, every fourth step, but for the last; where steps are slow, oftener."""
    path = write_suite(directory, method, phases=phases, rows=64)
    return load_suite(path, overrides=OVERRIDES)


OVERRIDES = (
    "train.epochs=2",
    "train.evaluate_every_steps=4",
    "train.checkpoint_every_seconds=1e-9",
    "train.keep=best",
    "train.learning_rate=3e-3",
)


def run(suite: LoadedSuite, results: Path) -> tuple[RunRecord, ResultStore, Listener]:
    heard = Listener()
    outcome = run_suite(suite, results=results, device="cpu", observer=heard)
    (record,) = outcome.records
    return record, outcome.store, heard


def found(record: RunRecord, store: ResultStore) -> tuple[Any, ...]:
    """What decides nothing but itself: no times."""
    history = store.read_history(record.run_id)
    assert history is not None and record.full is not None
    full = record.full
    return (
        history.loss,
        history.learning_rate,
        history.gradient_norm,
        history.samples,
        history.real_tokens,
        full.steps,
        full.epochs,
        full.final_loss,
        full.result_step,
        full.correct_bits,
        full.intervals,
        full.stopped_by,
        [(e.step, e.loss, e.correct, e.metrics) for e in full.evaluations],
    )


def resumed_at(heard: Listener) -> list[int]:
    return [int(notice.rpartition(" ")[2]) for notice in heard.notices if "resumed at step" in notice]


def checkpoint_of(store: ResultStore, record: RunRecord) -> Path:
    return store.run_directory(record.run_id) / "checkpoint"


def faulty(how: str, step: int) -> str:
    return f'name = "faulty"\nhow = "{how}"\nstep = {step}'


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """The method kills its process in its tenth training step, counted anew in each process."""
    suite = full_suite(tmp_path, faulty("kill", 10))
    first, store, _ = run(suite, tmp_path / "r")
    assert first.status == "failed" and first.failure is not None and first.failure.phase == "full: training"
    place = checkpoint_of(store, first)
    assert sorted(path.name for path in place.iterdir()) == ["short.json", "training.pt"]
    kept = resuming.KeptShort.model_validate_json((place / "short.json").read_bytes())

    record, store, heard = run(suite, tmp_path / "r")
    assert (record.status, record.attempt, record.warnings) == ("ok", 2, ())
    assert record.full is not None and record.full.resumes == 1
    (step,) = resumed_at(heard)
    assert 8 <= step <= 9 and f"{record.run_id}: resumed at step {step}" in heard.notices
    phases = [event.phase for event in heard.events]
    assert "full: training" in phases and not any(phase.startswith("short") for phase in phases)
    assert min(event.step for event in heard.events if event.phase == "full: training") == step
    assert record.short == kept.short and record.short is not None and record.short.breakdown is not None
    assert store.read_memory(record.run_id) == kept.memory is not None
    assert not place.exists(), "a run with a result has nothing to go on with"

    plain, plain_store, _ = run(full_suite(tmp_path, faulty("ok", 1)), tmp_path / "plain")
    assert plain.full is not None and plain.full.resumes == 0 and plain.full.steps == 16
    assert found(record, store) == found(plain, plain_store)
    assert [e.step for e in record.full.evaluations] == [4, 8, 12, 16]
    assert record.full.wall_time_s is not None
    assert record.full.wall_time_s > record.full.train_time_s > 0
    assert record.full.checkpoint_time_s is not None and record.full.checkpoint_time_s > 0


@pytest.mark.slow
def test_an_attempt_that_fails_after_a_newer_checkpoint_costs_only_the_steps_since(tmp_path: Path) -> None:
    """Each attempt fails in its sixth step: 6, at the latest 11, and 16; the fourth has too few left."""
    suite = full_suite(tmp_path, faulty("raise", 6), phases='"full"')
    resumed = []
    for attempt in range(1, 5):
        record, store, heard = run(suite, tmp_path / "r")
        assert record.attempt == attempt and record.warnings == ()
        assert record.status == ("ok" if attempt == 4 else "failed")
        resumed += resumed_at(heard)
    assert len(resumed) == 3
    assert all(low <= step <= high for step, low, high in zip(resumed, (4, 8, 12), (5, 10, 15), strict=True))
    assert record.full is not None and record.full.resumes == 3
    plain, plain_store, _ = run(full_suite(tmp_path, faulty("ok", 1), phases='"full"'), tmp_path / "plain")
    assert found(record, store) == found(plain, plain_store)


def test_a_state_from_which_an_attempt_failed_is_not_tried_for_ever(tmp_path: Path) -> None:
    path = write_suite(tmp_path, faulty("raise", 6), phases='"full"', rows=64)
    often = load_suite(path, overrides=OVERRIDES)
    seldom = load_suite(path, overrides=(*OVERRIDES, "train.checkpoint_every_seconds=1000"))
    run(often, tmp_path / "r")  # kept at step 4, failed at step 6
    second, store, heard = run(seldom, tmp_path / "r")  # from step 4, failed at step 10, kept nothing
    (step,) = resumed_at(heard)
    history = store.read_history(second.run_id)
    assert history is not None and step >= 4 and len(history.loss) == step + 5
    third, store, heard = run(seldom, tmp_path / "r")
    assert resumed_at(heard) == []
    history = store.read_history(third.run_id)
    assert history is not None and len(history.loss) == 5
    (warning,) = third.warnings
    assert warning == (
        "the training began anew and not from its checkpoint: the attempt that went on from it failed"
    )
    assert not (checkpoint_of(store, third) / "training.pt").exists()


def test_memory_that_runs_out_is_a_result_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    record, store, _ = run(full_suite(tmp_path, faulty("oom", 10), phases='"full"'), tmp_path / "r")
    assert record.status == "oom"
    assert store.read_history(record.run_id) is not None
    assert not checkpoint_of(store, record).exists()


def test_what_a_killed_runner_left_beside_a_result_is_cleared_away(tmp_path: Path) -> None:
    suite = full_suite(tmp_path, LORA, phases='"full"')
    record, store, _ = run(suite, tmp_path / "r")
    place = checkpoint_of(store, record)
    place.mkdir()
    (place / "training.pt").write_bytes(b"x")
    again, _, heard = run(suite, tmp_path / "r")
    assert again == record and heard.started == [] and not place.exists()


@pytest.mark.slow
def test_who_wants_no_checkpoints_has_none(tmp_path: Path) -> None:
    path = write_suite(tmp_path, faulty("kill", 10), rows=64)
    suite = load_suite(path, overrides=(*OVERRIDES, "train.checkpoint_every_seconds=none"))
    record, store, _ = run(suite, tmp_path / "r")
    assert record.status == "failed"
    assert not checkpoint_of(store, record).exists()


def flipped(place: Path) -> None:
    path = place / "training.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another_run(place: Path) -> None:
    rewritten(place, run_id="lora-s1-0123456789")


def of_another_torch(place: Path) -> None:
    rewritten(place, torch="1.0")


def of_another_source(place: Path) -> None:
    rewritten(place, **{"the method's source": "0123"})


def without_a_part(place: Path) -> None:
    rewritten(place, moving={})


def rewritten(place: Path, run_id: str | None = None, moving: Any = None, **conditions: str) -> None:
    whole = torch.load(place / "training.pt", weights_only=True)
    content = whole["content"] if moving is None else {**whole["content"], "moving": moving}
    write_checkpoint(
        place / "training.pt",
        content,
        run_id=run_id or whole["run_id"],
        conditions={**whole["conditions"], **conditions},
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    directory = tmp_path_factory.mktemp("plain")
    record, store, _ = run(full_suite(directory, LORA, phases='"full"'), directory / "r")
    return found(record, store)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (flipped, "it is damaged"),
        (of_another_run, "it is of another run, 'lora-s1-0123456789'"),
        (of_another_torch, f"it was made with torch 1.0, not {torch.__version__}"),
        (of_another_source, "it was made with the method's source 0123, not "),
        (without_a_part, "it doesn't fit: KeyError('frozen')"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_that_can_not_be_used_means_a_start_anew_with_a_warning(
    spoil: Any, reason: str, tmp_path: Path, plain: tuple[Any, ...]
) -> None:
    result, place = in_this_process(tmp_path, dies_at=10)
    spoil(place)
    result, place = in_this_process(tmp_path)
    record = result.record
    assert record.status == "ok" and record.full is not None and record.full.resumes == 0
    (warning,) = record.warnings
    assert warning.startswith("the training began anew and not from its checkpoint: " + reason)
    assert result.history is not None
    assert (result.history.loss, record.full.correct_bits) == (plain[0], plain[9])


def in_this_process(directory: Path, *, dies_at: int | None = None) -> tuple[Any, Path]:
    """One attempt without a child; it may be broken off at a step."""
    (spec,) = plan(full_suite(directory, LORA, phases='"full"').suite, device="cpu")

    def say(event: Any) -> None:
        if dies_at is not None and event.phase == "full: training" and event.step == dies_at:
            raise KeyboardInterrupt

    place = directory / "checkpoint"
    result = None
    try:
        result = run_here(
            spec, device_name="cpu", source="t.toml", attempt=1, say=say, checkpoint_directory=place
        )
    except KeyboardInterrupt:
        assert dies_at is not None and (place / "training.pt").exists()
    return result, place


ROOM = 200_000
"""Bytes: for a checkpoint of ``LORA`` and some of a second. The head has 4,290 parameters, updates 2,048;
with AdamW's state that is 12 * 6,338 bytes, and 4 * 6,338 more where the best weights are kept."""


def test_a_full_disk_costs_no_training_and_leaves_no_half_file(
    tmp_path: Path, plain: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = checkpoints._Digesting.write

    def write_until_full(self: Any, data: Any) -> int:
        nonlocal written
        written += len(data)
        if written > ROOM:
            self.refusal = OSError(28, "No space left on device")
            raise self.refusal
        return write(self, data)

    monkeypatch.setattr(checkpoints._Digesting, "write", write_until_full)
    result, place = in_this_process(tmp_path)
    assert written > ROOM
    assert result.record.status == "ok" and result.history.loss == plain[0]
    (warning,) = result.record.warnings
    assert warning.startswith("not every checkpoint was kept: can't write '")
    assert warning.endswith("training.pt': No space left on device")
    assert [path.name for path in place.iterdir()] == ["training.pt"]
    whole = torch.load(place / "training.pt", weights_only=True)
    kept = read_checkpoint(place / "training.pt", run_id=whole["run_id"], conditions=whole["conditions"])
    assert kept is not None
    losses = kept["training"]["loss"]
    assert 0 < len(losses) < 16 and losses == list(plain[0][: len(losses)])


def test_where_no_directory_can_be_made_nothing_is_kept(tmp_path: Path, plain: tuple[Any, ...]) -> None:
    (tmp_path / "checkpoint").write_text("a file")
    result, _ = in_this_process(tmp_path)
    assert result.record.status == "ok" and result.history.loss == plain[0]
    assert any("not every checkpoint was kept: can't write into" in text for text in result.record.warnings)


def test_a_damaged_short_phase_is_measured_again(tmp_path: Path) -> None:
    warnings: list[str] = []

    def attempt() -> RunCheckpoint:
        return RunCheckpoint(
            tmp_path,
            run_id="a",
            attempt=1,
            after_failure=False,
            conditions={"torch": "2"},
            warn=warnings.append,
        )

    assert attempt().short() is None and warnings == []
    (tmp_path / "short.json").write_text('{"run_id": "a"')
    assert attempt().short() is None
    assert warnings == ["the short phase was measured again: it is damaged"]
    assert not (tmp_path / "short.json").exists()


def environment_on(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "peprof": "1", "python": "3.11", "torch": "2.13", "transformers": "5", "platform": "Linux",
        "hostname": "a", "device": "cuda", "device_name": "H100", "device_uuid": "GPU-1", "driver": "1",
        "cuda": "13", "threads": 1,
    }  # fmt: skip
    return Environment(**{**values, **changes})


def test_what_must_be_equal_in_all_attempts() -> None:
    method = object()
    here = conditions_of(environment_on(), method)
    for same in ({"hostname": "b"}, {"device_uuid": "GPU-2"}, {"git_commit": "f00"}, {"platform": "Linux 7"}):
        assert conditions_of(environment_on(**same), method) == here
    for other in (
        {"device_name": "A100"},
        {"torch": "2.14"},
        {"driver": "2"},
        {"threads": 2},
        {"peprof": "2"},
    ):
        assert conditions_of(environment_on(**other), method) != here


def test_a_method_whose_source_was_changed_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "somebodys_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from somebodys_methods.parts import *\nclass Method: pass\n")
    (package / "parts.py").write_text("scale = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = importlib.import_module("somebodys_methods.method").Method
    before = source_digest(kind)
    assert source_digest(kind) == before
    (package / "parts.py").write_text("scale = 2\n")
    assert source_digest(kind) != before


def test_the_history_has_each_step_once(tmp_path: Path) -> None:
    suite = full_suite(tmp_path, faulty("kill", 10), phases='"full"')
    run(suite, tmp_path / "r")
    record, store, _ = run(suite, tmp_path / "r")
    history = store.read_history(record.run_id)
    assert history is not None
    lengths = {name: len(getattr(history, name)) for name in TrainingHistory.model_fields}
    assert set(lengths.values()) == {16}, lengths
