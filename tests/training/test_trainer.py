from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from peprof.devices import CpuDevice
from peprof.events import Progress
from peprof.training.evaluation import evaluate
from peprof.training.optimizers import default_groups
from peprof.training.step import ClassifierStep
from peprof.training.trainer import DivergedError, Trainer, planned_steps
from tests.training.bag_of_words import CONFIG, BagOfWords, encoded, make_step


def test_losses_are_those_of_a_loop_written_out() -> None:
    data = encoded(10)
    found = Trainer(make_step(CONFIG, 10), CONFIG, CpuDevice(), seed=7).train(data, data)

    torch.manual_seed(0)
    model = BagOfWords()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    expected, total = [], 9
    for epoch in range(3):
        for batch in data.epoch(4, seed=7 * 1_000_003 + epoch):
            step = len(expected)
            # Linear warm-up over round(0.06 x 9) = 1 step, then linearly to zero.
            optimizer.param_groups[0]["lr"] = 0.05 * (0.0 if step == 0 else (total - step) / (total - 1))
            loss = model(**batch.inputs).loss
            expected.append(loss.item())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert found.loss == pytest.approx(expected, abs=1e-6)
    assert found.loss[-1] < found.loss[0]


def test_times_add_up_and_evaluation_is_not_in_them() -> None:
    data = encoded(10)
    found = Trainer(make_step(CONFIG, 10), CONFIG, CpuDevice(), seed=0).train(data, data)
    assert len(found.step_time_s) == len(found.loss) == len(found.learning_rate) == 9
    assert len(found.epoch_times_s) == 3
    assert sum(found.epoch_times_s) == pytest.approx(sum(found.step_time_s))
    assert [e.step for e in found.evaluations] == [3, 6, 9]
    assert found.evaluations[-1].train_time_s == pytest.approx(sum(found.step_time_s))
    assert found.epochs == 3.0


@pytest.mark.parametrize(
    ("change", "steps", "evaluated"),
    [
        ({"max_steps": 4}, 4, [3, 4]),
        ({"max_steps": 4, "evaluate_every_steps": 2}, 4, [2, 4]),
        ({"epochs": 1, "evaluate_every_steps": 2}, 3, [2, 3]),
        ({"max_steps": 100}, 9, [3, 6, 9]),
    ],
)
def test_when_it_stops_and_when_it_evaluates(
    change: dict[str, int], steps: int, evaluated: list[int]
) -> None:
    config = CONFIG.model_copy(update=change)
    data = encoded(10)
    found = Trainer(make_step(config, 10), config, CpuDevice(), seed=0).train(data, data)
    assert len(found.loss) == steps == planned_steps(config, 10)
    assert [e.step for e in found.evaluations] == evaluated
    assert found.epochs == pytest.approx(steps / 3)


def test_two_trainings_with_one_seed_are_equal_and_another_seed_is_not() -> None:
    data = encoded(10)
    runs = [
        Trainer(make_step(CONFIG, 10), CONFIG, CpuDevice(), seed=seed).train(data, data).loss
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_loss_that_is_not_a_number_ends_the_training() -> None:
    data = encoded(10)
    step = make_step(CONFIG, 10)
    with torch.no_grad():
        step.model.classifier.bias.fill_(math.nan)
    with pytest.raises(DivergedError, match="became nan at step 1"):
        Trainer(step, CONFIG, CpuDevice(), seed=0).train(data, data)


def break_weights_at(step: ClassifierStep, number: int) -> None:
    """The ``number``-th update (from 1) makes the weights NaN; that step's own loss is still a number."""
    done = 0

    def after_update(*_: object) -> None:
        nonlocal done
        done += 1
        if done == number:
            with torch.no_grad():
                step.model.classifier.bias.fill_(math.nan)

    step.optimizer.register_step_post_hook(after_update)


def test_weights_that_the_last_update_broke_end_the_training_without_a_result() -> None:
    data = encoded(10)
    step = make_step(CONFIG, 10)
    break_weights_at(step, 9)
    trainer = Trainer(step, CONFIG, CpuDevice(), seed=0)
    with pytest.raises(DivergedError, match="validation loss became nan after step 9"):
        trainer.train(data, data)
    assert [e.step for e in trainer.found.evaluations] == [3, 6]
    assert len(trainer.found.loss) == 9 and all(map(math.isfinite, trainer.found.loss))


@pytest.mark.parametrize("failing", [1, 6, 9])
def test_what_came_before_a_failure_is_kept(failing: int) -> None:
    """The losses are looked at when an epoch ends, at steps 3 and 6; later ones are still on the device."""
    config = CONFIG.model_copy(update={"evaluate_every_steps": 100})
    data = encoded(10)
    whole = Trainer(make_step(config, 10), config, CpuDevice(), seed=0).train(data, data).history()

    step = make_step(config, 10)
    seen = 0

    def fail(module: nn.Module, arguments: object) -> None:
        nonlocal seen
        seen += 1
        if seen == failing:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    step.model.register_forward_pre_hook(fail)
    trainer = Trainer(step, config, CpuDevice(), seed=0)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train(data, data)
    kept = trainer.found.history()
    assert kept.loss == whole.loss[: failing - 1]
    assert kept.learning_rate == whole.learning_rate[: failing - 1]
    assert len(kept.step_time_s) == failing - 1


def test_the_loss_that_diverged_is_the_last_one_kept() -> None:
    data = encoded(10)
    step = make_step(CONFIG, 10)
    break_weights_at(step, 4)
    trainer = Trainer(step, CONFIG, CpuDevice(), seed=0)
    with pytest.raises(DivergedError, match="became nan at step 5"):
        trainer.train(data, data)
    kept = trainer.found.history()
    assert [math.isfinite(loss) for loss in kept.loss] == [True] * 4 + [False]
    assert len(kept.learning_rate) == len(kept.step_time_s) == 5


def test_evaluation_counts_each_example_once_and_leaves_the_model_training() -> None:
    data = encoded(13)
    model = BagOfWords().train()
    score = evaluate(model, data, CpuDevice(), batch_size=5)
    whole = data.batch(range(13))
    with torch.no_grad():
        output = model.eval()(**whole.inputs)
    assert score.correct == int((output.logits.argmax(1) == whole.inputs["labels"]).sum())
    assert score.total == 13
    assert score.loss == pytest.approx(output.loss.item(), abs=1e-6)


def test_progress_names_the_phase_and_the_time_left() -> None:
    heard: list[Progress] = []
    data = encoded(10)
    Trainer(make_step(CONFIG, 10), CONFIG, CpuDevice(), seed=0, progress=heard.append).train(data, data)
    training = [event for event in heard if event.phase == "full: training"]
    assert [event.step for event in training] == list(range(10))
    assert {event.total for event in training} == {9}
    assert training[-1].seconds_left == 0.0
    # 10 rows in batches of 5 after each of three epochs, told before the first batch.
    evaluations = [(e.step, e.total) for e in heard if e.phase == "full: evaluation"]
    assert evaluations == [(0, 10), (5, 10), (10, 10)] * 3


def test_a_phase_is_named_before_its_first_step() -> None:
    heard: list[Progress] = []
    at_forward: list[tuple[bool, str]] = []
    data = encoded(10)
    step = make_step(CONFIG, 10)
    step.model.register_forward_pre_hook(
        lambda module, arguments: at_forward.append((module.training, heard[-1].phase))
    )
    Trainer(step, CONFIG, CpuDevice(), seed=0, progress=heard.append).train(data, data)
    assert len(at_forward) == 9 + 3 * 2
    assert set(at_forward) == {(True, "full: training"), (False, "full: evaluation")}


def test_only_matrices_decay() -> None:
    groups = default_groups(BagOfWords(), 0.1)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.1), (1, 0.0)]


def test_without_clipping_there_is_no_clip_phase() -> None:
    config = CONFIG.model_copy(update={"max_grad_norm": None})
    seen: list[str | None] = []
    make_step(config, 10)(encoded(4).batch(range(4)), seen.append)
    assert seen == ["forward", "backward", "optimizer", None]
