"""The log as TensorBoard's own reader and its hyper-parameters tab find it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN

from peprof.tracking.base import Hyperparameter, TrackedRun
from peprof.tracking.tensorboard import TensorBoard
from tests.results.factory import make_spec
from tests.tracking.reading import curves, plain, session_groups


def tracked(directory: Path, resumed_step: int = 0, **hyperparameters: Hyperparameter) -> TensorBoard:
    return TensorBoard(
        TrackedRun(
            spec=make_spec(),
            hyperparameters=hyperparameters,
            directory=directory,
            resumed_step=resumed_step,
        )
    )


def test_scalars_are_found_while_the_run_goes_on(tmp_path: Path) -> None:
    log = tracked(tmp_path)
    log.scalars(0, {"memory/peak_allocated_bytes": 2.0**30})
    log.scalars(1, {"train/loss": 0.75, "time/step_s": 0.5})
    log.scalars(2, {"train/loss": 0.5, "time/step_s": 0.25})
    assert curves(tmp_path / "tensorboard") == {
        "memory/peak_allocated_bytes": [(0, 2.0**30)],
        "train/loss": [(1, 0.75), (2, 0.5)],
        "time/step_s": [(1, 0.5), (2, 0.25)],
    }


def test_the_tab_has_the_options_of_all_methods_and_the_metrics_first(tmp_path: Path) -> None:
    lora = tracked(tmp_path / "runs" / "lora", label="lora", seed=0, **{"option.rank": 8, "offline": False})
    full = tracked(tmp_path / "runs" / "full", label="full", seed=0, offline=False)
    for log, accuracy in ((lora, 0.875), (full, 0.75)):
        log.scalars(1, {"train/loss": 0.5, "evaluation/accuracy": accuracy, "energy/train_j": 1.0})
        log.finish("ok", {"compare/accuracy": accuracy, "compare/step_s": 0.5})
    metrics, groups = session_groups(tmp_path)
    assert metrics[:2] == ["compare/accuracy", "compare/step_s"]
    rows = {hyperparameters["label"]: (hyperparameters, values, status)
            for hyperparameters, values, status in map(plain, groups)}  # fmt: skip
    assert rows["lora"][0] == {"label": "lora", "seed": 0.0, "option.rank": 8.0, "offline": False}
    assert rows["full"][0].get("option.rank") is None
    assert rows["lora"][1]["compare/accuracy"] == 0.875 and rows["full"][1]["compare/accuracy"] == 0.75
    assert rows["lora"][1]["train/loss"] == 0.5
    assert rows["lora"][2] == rows["full"][2] == STATUS_SUCCESS


@pytest.mark.parametrize(
    ("status", "shown"),
    [("oom", STATUS_FAILURE), ("diverged", STATUS_FAILURE), ("failed", STATUS_UNKNOWN)],
)
def test_how_a_run_ended(tmp_path: Path, status: str, shown: int) -> None:
    log = tracked(tmp_path / "run", label="full")
    log.scalars(0, {"short/step_s": 0.5})
    log.finish(status, {})
    _, (group,) = session_groups(tmp_path)
    assert plain(group)[2] == shown


def test_a_run_that_goes_on_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    """Killed twice, the first time in the middle of a write."""
    first = tracked(tmp_path, label="full")
    first.scalars(0, {"short/step_s": 0.5})
    for step in range(1, 8):
        first.scalars(step, {"train/loss": 10.0 + step})
    first.scalars(7, {"evaluation/accuracy": 0.1})
    (file,) = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as torn:
        torn.write(b"\x18\0\0\0")

    second = tracked(tmp_path, 4, label="full")
    second.scalars(5, {"train/loss": 25.0})
    second.scalars(6, {"train/loss": 26.0})
    third = tracked(tmp_path, 5, label="full")
    third.scalars(6, {"train/loss": 36.0})
    third.scalars(7, {"train/loss": 37.0})
    third.scalars(7, {"evaluation/accuracy": 0.75})
    third.finish("ok", {"compare/accuracy": 0.75})

    found = curves(tmp_path / "tensorboard")
    losses = [11.0, 12.0, 13.0, 14.0, 25.0, 36.0, 37.0]
    assert found["train/loss"] == list(enumerate(losses, start=1))
    assert found["evaluation/accuracy"] == [(7, 0.75)]
    assert found["short/step_s"] == [(0, 0.5)]
    _, (group,) = session_groups(tmp_path)
    hyperparameters, metrics, status = plain(group)
    assert hyperparameters == {"label": "full"}
    assert metrics["compare/accuracy"] == 0.75 and status == STATUS_SUCCESS
