"""When a training stops, which weights it leaves, what it tells on the way: by scripts and clocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

from peprof.devices import CpuDevice, StepTime
from peprof.devices.base import PhaseClock
from peprof.results.record import Evaluation, Predictions, TrainingHistory
from peprof.suite.schema import TrainConfig
from peprof.training import trainer as trainer_module
from peprof.training.evaluation import Score
from peprof.training.trainer import Trainer
from peprof.training.training_state import Training
from tests.training.bag_of_words import CONFIG, BagOfWords, encoded, make_step

ROWS = 10  # three batches an epoch


class Counting(BagOfWords):
    """Its buffer counts the training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            self.seen += 1
        return super().forward(*args, **kwargs)


class Script:
    """Stands for evaluation: gives these values in turn and notes the weights that each was asked of."""

    def __init__(self, values: Sequence[float], metric: str = "accuracy") -> None:
        self._values: Iterator[float] = iter(values)
        self._metric = metric
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: nn.Module, split: object, device: object, **_: object) -> Score:
        self.weights.append(weights_of(model))
        value = next(self._values)
        return Score(
            correct=None,
            total=ROWS,
            loss=1.0,
            time_s=0.25,
            metrics={self._metric: value},
            predictions=Predictions(labels=(1.0,), predictions=(float(len(self.weights)),)),
        )


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in tensors}


def trained(
    monkeypatch: pytest.MonkeyPatch, script: Script, change: dict[str, Any], *, metric: str = "accuracy"
) -> tuple[Training, nn.Module]:
    monkeypatch.setattr(trainer_module, "evaluate", script)
    config = CONFIG.model_copy(update={"evaluate_every_steps": 2, **change})
    torch.manual_seed(0)
    step = make_step(config, ROWS, Counting())
    data = encoded(ROWS)
    found = Trainer(step, config, CpuDevice(), seed=7, metrics=(metric,)).train(data, data)
    return found, step.model


NAN = math.nan


# Nine steps: evaluations after 2, 4, 6, 8 and 9.
@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.5, 0.7, 0.6, 0.7, 0.6], 4),  # of equal ones the first
        ([0.9, 0.7, 0.6, 0.7, 0.6], 2),
        ([0.5, 0.7, 0.6, 0.7, 0.8], 9),
        ([NAN, 0.1, NAN, 0.0, NAN], 4),
        ([NAN, NAN, NAN, NAN, NAN], 9),  # nothing is best: the last is kept
    ],
)
def test_the_best_weights_are_put_back(
    monkeypatch: pytest.MonkeyPatch, values: list[float], best: int
) -> None:
    script = Script(values)
    found, model = trained(monkeypatch, script, {"keep": "best"})
    steps = [2, 4, 6, 8, 9]
    assert [one.step for one in found.evaluations] == steps
    assert found.result_step == best
    place = steps.index(best)
    expected = script.weights[place]
    assert expected["seen"] == best
    assert not torch.equal(expected["embedding.weight"], script.weights[place - 1]["embedding.weight"])
    for name, tensor in weights_of(model).items():
        assert torch.equal(tensor, expected[name]), name
    assert found.predictions is not None and found.predictions.predictions == (place + 1,)
    assert found.stopped_by == "epochs" and found.steps == 9


def test_where_less_is_better_the_least_is_best(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script([3.0, 2.0, 4.0, 2.5, 9.0], "mse")
    found, model = trained(monkeypatch, script, {"keep": "best"}, metric="mse")
    assert found.result_step == 4
    assert torch.equal(weights_of(model)["embedding.weight"], script.weights[1]["embedding.weight"])


def test_the_last_weights_stay_and_are_never_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "copied", lambda model: pytest.fail("a copy for nothing"))
    script = Script([0.9, 0.1, 0.1, 0.1, 0.1])
    found, model = trained(monkeypatch, script, {})
    assert (found.result_step, found.best_step) == (9, 2)
    assert torch.equal(weights_of(model)["embedding.weight"], script.weights[-1]["embedding.weight"])


@pytest.mark.parametrize(
    ("values", "patience", "stops_at"),
    [
        ([0.5, 0.4, 0.4], 2, 6),
        ([0.5, 0.4, 0.6, 0.6, 0.6], 2, 9),  # after the last step there is nothing to stop
        ([0.5, 0.5], 1, 4),  # as good is not better
        ([NAN, NAN], 2, 4),
    ],
)
def test_patience_ends(
    monkeypatch: pytest.MonkeyPatch, values: list[float], patience: int, stops_at: int
) -> None:
    script = Script(values)
    change = {"early_stopping_patience": patience, "keep": "best"}
    found, _ = trained(monkeypatch, script, change)
    assert found.steps == stops_at
    assert found.stopped_by == ("early_stopping" if stops_at < 9 else "epochs")
    assert len(found.evaluations) == len(values)
    assert found.epochs == pytest.approx(stops_at / 3)


def test_most_steps_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = trained(monkeypatch, Script([0.5] * 5), {"max_steps": 5})
    assert (found.steps, found.stopped_by) == (5, "max_steps")
    found, _ = trained(monkeypatch, Script([0.5] * 5), {"max_steps": 50})
    assert (found.steps, found.stopped_by) == (9, "epochs")


class Seconds(CpuDevice):
    """Each step takes 0.25 + 0.5 + 0.125 + 0.125 s and 5 J, what isn't training 100 J each time."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.looks = 0

    @override
    def clock(self) -> PhaseClock:
        device = self

        class Clock(PhaseClock):
            name = "perf_counter"
            waiting = 0

            def mark(self, phase: str | None) -> None:
                if phase is None:
                    self.waiting += 1
                    device.steps += 1

            def drain(self) -> list[StepTime]:
                done, self.waiting = self.waiting, 0
                phases = {"forward": 0.25, "backward": 0.5, "clip": 0.125, "optimizer": 0.125}
                return [StepTime(total_s=1.0, phases_s=phases) for _ in range(done)]

        return Clock()

    @override
    def energy_j(self) -> float:
        """Looked at when training begins, and before and after whatever isn't training."""
        self.looks += 1
        return 5.0 * self.steps + 100.0 * ((self.looks - 1) // 2)


@pytest.mark.parametrize(("flush_steps", "limit_s", "stops_at"), [(1, 3.5, 4), (3, 3.5, 6), (3, 6.0, 6)])
def test_time_ends_it_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch, flush_steps: int, limit_s: float, stops_at: int
) -> None:
    monkeypatch.setattr(trainer_module, "FLUSH_STEPS", flush_steps)
    monkeypatch.setattr(trainer_module, "FLUSH_SECONDS", math.inf)
    config = CONFIG.model_copy(update={"max_seconds": limit_s, "evaluate_every_steps": 100})
    data = encoded(ROWS)
    found = Trainer(make_step(config, ROWS), config, Seconds(), seed=0).train(data, data)
    assert (found.steps, found.stopped_by) == (stops_at, "max_seconds")
    assert [one.step for one in found.evaluations] == [stops_at], "the last weights are evaluated"
    assert found.evaluations[0].train_time_s == stops_at


class Watching:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, TrainingHistory]] = []
        self.evaluations: list[Evaluation] = []

    def steps(self, first: int, history: TrainingHistory) -> None:
        self.told.append((first, history))

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


def test_what_watchers_are_told_is_the_history() -> None:
    config = CONFIG.model_copy(update={"evaluate_every_steps": 4})
    data, watching = encoded(ROWS), Watching()
    trainer = Trainer(make_step(config, ROWS), config, Seconds(), seed=7, watchers=(watching,))
    found = trainer.train(data, data)
    joined: dict[str, tuple[float, ...]] = {}
    for first, history in watching.told:
        assert first == len(joined.get("loss", ())) + 1
        for name in TrainingHistory.model_fields:
            joined[name] = joined.get(name, ()) + getattr(history, name)
    assert TrainingHistory.model_validate(joined) == found.history()
    assert tuple(watching.evaluations) == tuple(found.evaluations)
    assert [one.step for one in watching.evaluations] == [4, 8, 9]
    history = found.history()
    assert history.step_time_s == (1.0,) * 9
    assert (history.forward_s, history.backward_s) == ((0.25,) * 9, (0.5,) * 9)
    assert (history.clip_s, history.optimizer_s) == ((0.125,) * 9, (0.125,) * 9)
    assert history.samples == (4, 4, 2) * 3
    masks = [
        int(batch.inputs["attention_mask"].sum())
        for epoch in range(3)
        for batch in data.epoch(4, seed=7 * 1_000_003 + epoch)
    ]
    assert history.real_tokens == tuple(masks)
    assert found.waiting_time_s < found.wall_time_s


def test_gradient_norms_are_those_of_a_loop_written_out_and_unknown_without_clipping() -> None:
    data = encoded(ROWS)
    config = CONFIG.model_copy(update={"schedule": "constant", "warmup_fraction": 0.0, "epochs": 1})
    found = Trainer(make_step(config, ROWS), config, CpuDevice(), seed=7).train(data, data)
    torch.manual_seed(0)
    model = BagOfWords()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    norms = []
    for batch in data.epoch(4, seed=7 * 1_000_003):
        model(**batch.inputs).loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norms.append(math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in gradients)))
        for gradient in gradients:
            gradient.mul_(min(1.0, 1.0 / (norms[-1] + 1e-6)))
        optimizer.step()
        optimizer.zero_grad()
    assert found.gradient_norm == pytest.approx(norms, rel=1e-5)
    unclipped = config.model_copy(update={"max_grad_norm": None})
    found = Trainer(make_step(unclipped, ROWS), unclipped, CpuDevice(), seed=7).train(data, data)
    assert found.history().gradient_norm == found.history().clip_s == ()


@pytest.mark.parametrize("parts", [2, 4])
def test_a_training_in_parts_has_the_losses_of_one_that_is_not(parts: int) -> None:
    data = encoded(ROWS)
    losses = []
    for count in (1, parts):
        config = TrainConfig.model_validate(
            {"batch_size": 4, "learning_rate": 0.05, "gradient_accumulation_steps": count}
        )
        found = Trainer(make_step(config, ROWS), config, CpuDevice(), seed=3).train(data, data)
        losses.append(found.loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


class Everything:
    """Keeps the training at each look, as plain values."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.elapsed: list[float] = []

    def due(self, elapsed_s: float) -> bool:
        self.elapsed.append(elapsed_s)
        return True

    def keep(self, training: Training) -> None:
        lengths = {len(getattr(training, name)) for name in TrainingHistory.model_fields}
        assert lengths == {training.steps}, "nothing is pending"
        self.kept.append({**training.as_state(), "loss": list(training.loss)})


def test_it_is_kept_between_steps_but_not_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "FLUSH_STEPS", 2)
    monkeypatch.setattr(trainer_module, "FLUSH_SECONDS", math.inf)
    data, keeper = encoded(ROWS), Everything()
    device = Seconds()
    found = Trainer(make_step(CONFIG, ROWS), CONFIG, device, seed=7, keeper=keeper).train(data, data)
    # Every second step, and where an epoch ends.
    assert [len(state["loss"]) for state in keeper.kept] == [2, 3, 4, 6, 8]
    assert all(seconds >= 0 for seconds in keeper.elapsed)
    assert 0 < found.checkpoint_time_s < found.wall_time_s
    # Keeping and evaluating take joules, of which none are the training's.
    assert found.energy_j == pytest.approx(5.0 * 9)
    assert [one.energy_j for one in found.evaluations] == pytest.approx([15.0, 30.0, 45.0])


def test_a_state_is_plain_and_comes_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = trained(monkeypatch, Script([0.9, 0.1, 0.1, 0.1, 0.1]), {"keep": "best"})
    again = Training.of_state(found.as_state())
    for item in fields(Training):
        if item.name != "kept":
            assert getattr(again, item.name) == getattr(found, item.name), item.name
    assert again.kept.keys() == {"embedding.weight", "classifier.weight", "classifier.bias", "seen"}
