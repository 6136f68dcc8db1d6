"""One step against loops written out: in parts, under autocast, with its loss scaled."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from peprof.devices import CpuDevice
from peprof.devices.cpu import storage_bytes
from peprof.profiler.memory import measure_memory
from peprof.profiler.profile import profile_step
from peprof.suite.schema import TrainConfig
from peprof.training.batches import Batch
from peprof.training.schedules import make_schedule
from peprof.training.step import IGNORED, ClassifierStep
from tests.methods.method_geometries import batch as tiny_batch
from tests.methods.method_geometries import tiny
from tests.training.bag_of_words import BagOfWords, encoded


class Squared(nn.Module):
    """A regression: how far the mean of the embeddings is from a number."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 3)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            loss=nn.functional.mse_loss(self.embedding(input_ids).mean(dim=(1, 2)), labels)
        )


def subject(task: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model in float64 and eight examples; parts of them have unlike numbers of targets, or none."""
    torch.manual_seed(1)
    if task == "classification":
        return BagOfWords().double(), encoded(8).batch(range(8)).inputs
    if task == "regression":
        return Squared().double(), {
            "input_ids": torch.randint(64, (8, 5)),
            "labels": torch.randn(8, dtype=torch.float64),
        }
    architecture = {"text-to-text": "t5", "language-modelling": "llama-lm"}[task]
    inputs = tiny_batch(architecture, lengths=(9, 5, 7, 3, 8, 2, 6, 4))
    if task == "language-modelling":
        inputs["labels"] = inputs["labels"].clone()
        inputs["labels"][:, 0] = IGNORED
    inputs["labels"][5, 1] = IGNORED
    targets = (inputs["labels"] != IGNORED).sum(1)
    assert len(set(targets.tolist())) > 1
    return tiny(architecture).double(), inputs


def gradients_of(step: ClassifierStep, batch: Batch) -> tuple[dict[str, torch.Tensor], float]:
    """Seen where the optimizer sees them."""
    seen: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        seen.update({n: p.grad.clone() for n, p in step.model.named_parameters() if p.grad is not None})

    step.optimizer.register_step_pre_hook(look)
    return seen, float(step(batch))


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
@pytest.mark.parametrize("task", ["classification", "regression", "text-to-text", "language-modelling"])
def test_the_gradients_of_parts_are_those_of_the_whole_batch(task: str, parts: int) -> None:
    model, inputs = subject(task)
    whole = copy.deepcopy(model).train()
    loss = whole(**inputs).loss
    loss.backward()
    step = ClassifierStep(model, torch.optim.SGD(model.parameters(), lr=0.0), max_grad_norm=None, parts=parts)
    found, found_loss = gradients_of(step, Batch(inputs=inputs, real_tokens=0))
    expected = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-6)
    assert found_loss == pytest.approx(float(loss.detach()), abs=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


@pytest.mark.parametrize("parts", [1, 4])
def test_a_methods_own_term_counts_once(parts: int) -> None:
    model, inputs = subject("classification")
    whole = copy.deepcopy(model)
    (whole(**inputs).loss + whole.classifier.weight.pow(2).sum()).backward()
    step = ClassifierStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        max_grad_norm=None,
        parts=parts,
        loss_term=lambda: model.classifier.weight.pow(2).sum(),
    )
    found, _ = gradients_of(step, Batch(inputs=inputs, real_tokens=0))
    torch.testing.assert_close(found["classifier.weight"], whole.classifier.weight.grad)


def test_each_part_has_its_phases_and_the_norm_is_that_before_clipping() -> None:
    model, inputs = subject("classification")
    whole = copy.deepcopy(model)
    whole(**inputs).loss.backward()
    expected = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in whole.parameters()))  # type: ignore[union-attr]
    step = ClassifierStep(
        model, torch.optim.SGD(model.parameters(), lr=0.0), max_grad_norm=expected / 2, parts=2
    )
    seen: list[str | None] = []
    norms: list[torch.Tensor] = []
    step(Batch(inputs=inputs, real_tokens=0), seen.append, norms)
    assert seen == ["forward", "backward", "forward", "backward", "clip", "optimizer", None]
    assert [float(norm) for norm in norms] == pytest.approx([expected], rel=1e-5)


@pytest.mark.slow
def test_the_memory_of_a_step_in_parts_is_counted_and_is_less() -> None:
    """A layer's output is 8 x 64 x 1000 float32, 2 MB, or a quarter of it."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 1000), nn.Linear(1000, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(
                loss=(self.second(self.first(x).tanh()).mean((1, 2)) - labels).pow(2).mean()
            )

    batch = Batch(inputs={"x": torch.randn(8, 64, 4), "labels": torch.zeros(8)}, real_tokens=0)
    peaks, categories = {}, {}
    for parts in (1, 4):
        torch.manual_seed(0)
        model = Wide()
        step = ClassifierStep(model, torch.optim.AdamW(model.parameters()), parts=parts)
        memory = measure_memory(step, [batch], CpuDevice())
        assert [phase.phase for phase in memory.phases] == ["forward", "backward", "clip", "optimizer"]
        assert memory.start_bytes == storage_bytes([*step.resident_tensors(), *batch.inputs.values()])
        assert memory.phases[-1].end_bytes - memory.start_bytes <= 8, "but for the loss, all is given back"
        peaks[parts] = memory.peak_bytes
        profile = profile_step(model, batch, step, optimizers=step.optimizer, warmup_steps=0)
        categories[parts] = profile.peak.categories
        assert profile.peak.total_bytes <= memory.peak_bytes
    activation = 8 * 64 * 1000 * 4
    # At the highest, in backward: what tanh gave, its gradient, and the gradient of what it was given.
    assert 3 * activation * 3 / 4 == pytest.approx(peaks[1] - peaks[4], rel=0.05)
    assert categories[4]["activations"] < categories[1]["activations"] / 3


def trained_by_hand(
    dtype: torch.dtype, batches: list[Batch], *, scale_loss: float = 1.0
) -> tuple[list[float], list[float], int]:
    """Losses, learning rates and skipped steps of a loop as PyTorch's own examples have it."""
    torch.manual_seed(0)
    model = BagOfWords()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses, rates, skipped = [], [], 0
    for batch in batches:
        rates.append(optimizer.param_groups[0]["lr"])
        with torch.autocast("cpu", dtype=dtype):
            loss = model(**batch.inputs).loss * scale_loss
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < before:
            skipped += 1
        else:
            schedule.step()
        optimizer.zero_grad()
    return losses, rates, skipped


class Scaled(BagOfWords):
    """The loss times a number: with a large one the first gradients overflow, until the scale has fallen."""

    factor = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        output = super().forward(*args, **kwargs)
        return SimpleNamespace(loss=output.loss * self.factor)


@pytest.mark.parametrize(
    ("autocast", "factor", "skips"), [("bfloat16", 1.0, 0), ("float16", 1.0, 0), ("float16", 1e3, 6)]
)
def test_autocast_is_that_of_a_loop_written_out(autocast: str, factor: float, skips: int) -> None:
    data = encoded(10)
    batches = [batch for epoch in range(6) for batch in data.epoch(4, seed=epoch)]
    expected = trained_by_hand(getattr(torch, autocast), batches, scale_loss=factor)

    torch.manual_seed(0)
    model = Scaled()
    model.factor = factor
    config = TrainConfig.model_validate(
        {"learning_rate": 0.05, "warmup_fraction": 0, "autocast": autocast, "optimizer": "adamw"}
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    step = ClassifierStep(
        model,
        optimizer,
        schedule=make_schedule(config, optimizer, len(batches)),
        autocast=config.autocast,
    )
    losses, rates = [], []
    for batch in batches:
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(float(step(batch)))
    assert losses == pytest.approx(expected[0], rel=1e-6)
    assert rates == pytest.approx(expected[1])
    assert step.steps_skipped == expected[2] >= skips
    assert step.steps_skipped < len(batches) - 2, "the scale was found"
    assert (step.steps_skipped == 0) == (factor == 1.0)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_autocast_reaches_the_models_operations_and_not_a_methods_term() -> None:
    seen: list[torch.dtype] = []
    model, inputs = subject("classification")
    model = model.float()
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(output.dtype))

    def term() -> torch.Tensor:
        product = model.classifier.weight @ model.classifier.weight.T
        seen.append(product.dtype)
        return product.sum()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = ClassifierStep(model, optimizer, loss_term=term, autocast="bfloat16", parts=2)
    step(Batch(inputs=inputs, real_tokens=0))
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_a_state_that_is_loaded_goes_on_as_before() -> None:
    data = encoded(10)
    batches = [batch for epoch in range(3) for batch in data.epoch(4, seed=epoch)]

    def made() -> ClassifierStep:
        torch.manual_seed(0)
        model = BagOfWords()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        config = TrainConfig.model_validate({"learning_rate": 0.05})
        return ClassifierStep(
            model, optimizer, schedule=make_schedule(config, optimizer, len(batches)), autocast="float16"
        )

    step = made()
    whole = [float(step(batch)) for batch in batches]
    first = made()
    begun = [float(first(batch)) for batch in batches[:4]]
    second = made()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert begun + [float(second(batch)) for batch in batches[4:]] == whole
