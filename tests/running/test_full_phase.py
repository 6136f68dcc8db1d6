"""What the full phase makes of a training for the record."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peprof.devices import CpuDevice
from peprof.errors import SuiteError
from peprof.results.record import FullResult, TrainingHistory
from peprof.running.full_phase import run_full_phase
from peprof.running.preparing import prepare
from peprof.suite.loading import load_suite
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import Suite
from tests.running.helpers import write_suite
from tests.training.bag_of_words import BagOfWords, encoded, make_step

ROWS = 10


class Steep(BagOfWords):
    """Its first gradients overflow in float16, until the scale of the loss has fallen."""

    def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        output = super().forward(*args, **kwargs)
        return SimpleNamespace(logits=output.logits, loss=output.loss * 1e3)


def spec_of(train: dict[str, Any]) -> RunSpec:
    suite = Suite.model_validate(
        {
            "name": "t",
            "model": {"name": "peprof/tiny", "weights": "random"},
            "data": {"name": "peprof/reviews", "metrics": ("accuracy", "f1")},
            "train": {"batch_size": 4, "learning_rate": 0.05, **train},
            "methods": ({"name": "full", "label": "full"},),
        }
    )
    return plan(suite, device="cpu")[0]


def run(
    train: dict[str, Any], model: BagOfWords, judged_by: tuple[str, ...] = ("accuracy", "f1")
) -> tuple[FullResult, TrainingHistory, list[str]]:
    spec, warnings, histories = spec_of(train), list[str](), list[TrainingHistory]()
    data = encoded(ROWS)
    data.judged_by = judged_by
    result = run_full_phase(
        spec,
        make_step(spec.train, ROWS, model),
        data,
        data,
        SimpleNamespace(),
        CpuDevice(),
        lambda event: None,
        histories.append,
        warn=warnings.append,
    )
    return result, histories[0], warnings


def test_the_record_holds_what_the_training_took_and_why_it_ended() -> None:
    torch.manual_seed(0)
    train = {"max_steps": 7, "keep": "best", "gradient_accumulation_steps": 2, "autocast": "bfloat16"}
    found, history, warnings = run(train, BagOfWords())
    assert (found.steps, found.stopped_by) == (7, "max_steps")
    assert [one.step for one in found.evaluations] == [3, 6, 7]
    best = max(found.evaluations, key=lambda one: one.metrics["accuracy"])  # of equal ones the first
    assert found.result_step == best.step
    assert found.result == best and list(best.metrics) == ["accuracy", "f1"]
    assert found.train_time_s == pytest.approx(sum(history.step_time_s))
    parts = (history.forward_s, history.backward_s, history.clip_s, history.optimizer_s)
    for whole, *phases in zip(history.step_time_s, *parts, strict=True):
        assert sum(phases) == pytest.approx(whole)
    assert found.wall_time_s is not None and found.waiting_time_s is not None
    spent = found.train_time_s + found.evaluation_time_s + found.waiting_time_s
    assert spent < found.wall_time_s
    assert (found.checkpoint_time_s, found.resumes) == (0.0, 0)
    assert found.energy_j is None, "a processor doesn't tell"
    assert found.peak is not None and found.peak.source == "process_rss"
    assert found.peak.peak_bytes >= found.peak.start_bytes > 50_000_000, "torch alone takes more"
    assert not warnings


def test_steps_that_overflowed_are_said() -> None:
    torch.manual_seed(0)
    found, history, warnings = run({"autocast": "float16", "epochs": 20}, Steep())
    (warning,) = warnings
    skipped = history.learning_rate.count(0.0) - 1  # the warm-up begins at 0 and goes on when a step counts
    assert 5 < skipped < found.steps / 2
    assert warning.startswith(f"in {skipped} of {found.steps} steps gradients overflowed in float16")
    overflowed = [not math.isfinite(norm) for norm in history.gradient_norm]
    assert sum(overflowed) == skipped and all(overflowed[:5])
    again = TrainingHistory.model_validate_json(history.model_dump_json())
    assert [not math.isfinite(norm) for norm in again.gradient_norm] == overflowed


def test_wrong_options_of_an_optimizer_are_found_before_the_first_run(tmp_path: Any) -> None:
    path = write_suite(tmp_path, 'name = "head"')
    loaded = load_suite(path, overrides=("train.optimizer=sgd", "train.optimizer_options={nesterov=true}"))
    with pytest.raises(SuiteError) as caught:
        prepare(loaded, device="cpu", fetch=False, say=lambda event: None)
    assert [fault.key for fault in caught.value.faults] == ["train.optimizer_options"]
