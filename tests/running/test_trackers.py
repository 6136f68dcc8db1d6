"""Whole runs with their trackers: TensorBoard, one of another distribution, one that fails, none."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS

from peprof.errors import UsageError
from peprof.running.runner import Outcome, run_suite
from peprof.suite.loading import load_suite
from tests.running.helpers import Listener, write_suite
from tests.tracking.reading import curves, plain, session_groups

TRACKERS = Path(__file__).parent / "trackers"
README = Path(__file__).parents[2] / "README.md"
LORA = 'name = "lora"\nrank = 3\nlearning_rate = 1e-3'


def block(marker: str) -> str:
    """The code block after a marker in README."""
    found = re.search(rf"<!-- your-tracker: {marker} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(autouse=True)
def trackers_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's tracker as pip would install it, with a stand-in for its service, and one that goes wrong."""
    folder = tmp_path / "site-packages"
    information = folder / "my_trackers-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "my_trackers.py").write_text(block("my_trackers.py"))
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-trackers\nVersion: 1.0\n")
    group = tomllib.loads(block("entry point"))["project"]["entry-points"]["peprof.trackers"]
    lines = "".join(f"{name} = {value}\n" for name, value in group.items())
    (information / "entry_points.txt").write_text(f"[peprof.trackers]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(TRACKERS))


def noted(directory: Path) -> list[dict[str, Any]]:
    """What README's tracker has told its service."""
    return [json.loads(line) for line in (directory / "wandb.jsonl").read_text().splitlines()]


def run(tmp_path: Path, *methods: str, phases: str = '"short", "full"', **options: object) -> Outcome:
    suite = write_suite(tmp_path, *methods, phases=phases)
    return run_suite(suite, results=tmp_path / "r", device="cpu", observer=Listener(), **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_tensorboard_has_all_that_the_record_has(tmp_path: Path) -> None:
    outcome = run(tmp_path, LORA, 'name = "head"')
    assert [record.status for record in outcome.records] == ["ok", "ok"]
    lora = outcome.records[0]
    assert lora.short and lora.full and lora.parameters and lora.short.memory and lora.short.breakdown
    history = outcome.store.read_history(lora.run_id)
    assert history is not None and len(history.loss) == 4

    found = curves(outcome.store.run_directory(lora.run_id) / "tensorboard")
    for name, values in (
        ("train/loss", history.loss),
        ("train/learning_rate", history.learning_rate),
        ("train/gradient_norm", history.gradient_norm),
        ("time/step_s", history.step_time_s),
        ("time/forward_s", history.forward_s),
        ("time/backward_s", history.backward_s),
        ("time/clip_s", history.clip_s),
        ("time/optimizer_s", history.optimizer_s),
        ("throughput/samples_per_s", [8 / seconds for seconds in history.step_time_s]),
    ):
        assert found[name] == [(step, pytest.approx(value)) for step, value in enumerate(values, start=1)]
    last = lora.full.evaluations[-1]
    assert found["evaluation/accuracy"] == [(4, pytest.approx(last.correct / last.total))]  # type: ignore[operator]
    assert found["evaluation/loss"] == [(4, pytest.approx(last.loss))]
    assert found["memory/peak_allocated_bytes"] == [
        (0, pytest.approx(lora.short.memory.peak_allocated_bytes))
    ]
    categories = sum(found[f"memory/{name}_bytes"][0][1] for name in lora.short.breakdown.categories)
    assert categories == pytest.approx(lora.short.breakdown.peak_bytes)
    assert {"short/forward_s", "short/backward_s", "short/optimizer_s"} <= set(found)
    assert not {name for name in found if name.startswith(("energy/", "power/"))}, "a CPU can't tell"

    metrics, groups = session_groups(outcome.store.directory)
    assert metrics[:5] == [
        "compare/accuracy",
        "compare/peak_allocated_bytes",
        "compare/step_s",
        "compare/train_time_s",
        "compare/trainable_parameters",
    ]
    rows = {hyperparameters["label"]: (hyperparameters, values, status)
            for hyperparameters, values, status in map(plain, groups)}  # fmt: skip
    assert set(rows) == {"lora", "head"}
    hyperparameters, values, status = rows["lora"]
    assert status == STATUS_SUCCESS
    assert hyperparameters["option.rank"] == 3 and hyperparameters["learning_rate"] == pytest.approx(1e-3)
    assert hyperparameters["batch_size"] == 8 and hyperparameters["data"] == "peprof/reviews"
    assert values["compare/trainable_parameters"] == (
        lora.parameters.trainable_backbone + lora.parameters.trainable_head
    )
    assert values["compare/train_time_s"] == pytest.approx(lora.full.train_time_s)


@pytest.mark.slow
def test_readmes_tracker_and_one_that_fails(tmp_path: Path) -> None:
    outcome = run(tmp_path, LORA, trackers=["broken", "wandb"])
    (record,) = outcome.records
    assert record.status == "ok"
    assert record.warnings == (
        "the tracker 'broken' failed and was told nothing more: ConnectionError: the service doesn't answer",
    )
    directory = outcome.store.run_directory(record.run_id)
    assert not (directory / "tensorboard").exists()
    begun, *told, finished = noted(directory)
    assert begun["init"]["id"] == record.run_id and begun["init"]["project"] == "t"
    assert begun["init"]["config"]["option.rank"] == 3
    assert {line["step"] for line in told} == {0, 1, 2, 3, 4}
    assert finished["finish"] == 0 and "compare/accuracy" in finished["summary"]


def test_a_run_out_of_memory_is_followed_too(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'name = "faulty"\nhow = "oom"\nstep = 2', phases='"short"', trackers=["wandb"])
    (record,) = outcome.records
    assert record.status == "oom"
    assert noted(outcome.store.run_directory(record.run_id))[-1]["finish"] == 1


def test_a_killed_run_goes_on_in_the_same_log(tmp_path: Path) -> None:
    """16 steps, evaluated and kept after each fourth; its process dies in the 14th step that it does."""
    suite = load_suite(
        write_suite(tmp_path, 'name = "faulty"\nhow = "kill"\nstep = 14', phases='"full"', rows=64),
        overrides=(
            "train.epochs=2", "train.evaluate_every_steps=4", "train.checkpoint_every_seconds=1e-9",
        ),
    )  # fmt: skip
    trackers = ("tensorboard", "wandb")
    for status in ("failed", "ok"):
        outcome = run_suite(suite, results=tmp_path / "r", device="cpu", trackers=trackers)
        (record,) = outcome.records
        assert record.status == status
    directory = outcome.store.run_directory(record.run_id)
    history = outcome.store.read_history(record.run_id)
    assert history is not None and record.full is not None and record.full.resumes == 1
    found = curves(directory / "tensorboard")
    assert found["train/loss"] == [
        (step, pytest.approx(loss)) for step, loss in enumerate(history.loss, start=1)
    ]
    assert [step for step, _ in found["evaluation/accuracy"]] == [4, 8, 12, 16]
    assert [line["init"]["resume"] for line in noted(directory) if "init" in line] == ["allow", "must"]
    _, (group,) = session_groups(directory)
    assert plain(group)[2] == STATUS_SUCCESS


def test_nobody_follows_unless_asked(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'name = "head"', phases='"full"', trackers=[])
    (record,) = outcome.records
    assert record.status == "ok" and record.warnings == ()
    assert not (outcome.store.run_directory(record.run_id) / "tensorboard").exists()


def test_an_unknown_tracker_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are: tensorboard, broken, wandb"):
        run(tmp_path, 'name = "head"', trackers=["wandbb"])
    assert not (tmp_path / "r").exists()
