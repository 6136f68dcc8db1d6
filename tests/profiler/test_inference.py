"""The cost of using a model: what is run, in which order, and bytes worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.lora import LoRA
from torch import nn

from peprof.devices import CpuDevice
from peprof.devices.base import PhaseClock, StepTime
from peprof.profiler.inference import measure_inference
from tests.methods.method_geometries import batch, tiny

F32 = 4


class Ticks(PhaseClock):
    """Each mark is one second; what runs between two of them takes what it says."""

    name = "perf_counter"

    def __init__(self) -> None:
        self.now = 0.0
        self._steps: list[StepTime] = []
        self._phase: tuple[str, float] | None = None
        self._phases: dict[str, float] = {}

    def mark(self, phase: str | None) -> None:
        if self._phase is not None:
            name, since = self._phase
            self._phases[name] = self.now - since
        self._phase = (phase, self.now) if phase is not None else None
        if phase is None:
            self._steps.append(StepTime(total_s=sum(self._phases.values()), phases_s=dict(self._phases)))
            self._phases.clear()

    def drain(self) -> list[StepTime]:
        steps, self._steps = self._steps, []
        return steps


class Ticking(CpuDevice):
    def __init__(self) -> None:
        super().__init__()
        self.ticks = Ticks()

    def clock(self) -> Ticks:
        return self.ticks


class Slow(nn.Module):
    """Takes so many seconds a forward pass, and so many to generate a token; writes down its turns."""

    def __init__(self, device: Ticking, turns: list[str], name: str, seconds: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.device, self.turns, self.name, self.seconds = device, turns, name, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.turns.append(self.name)
        self.device.ticks.now += self.seconds
        return x + 1

    def generate(self, x: torch.Tensor, *, max_new_tokens: int, min_new_tokens: int, **options: Any) -> None:
        assert max_new_tokens == min_new_tokens and options["do_sample"] is False
        self.device.ticks.now += 10 + self.seconds * (max_new_tokens - 1)


def slow(*seconds: float) -> tuple[Ticking, list[str], list[Slow]]:
    device, turns = Ticking(), []
    return device, turns, [Slow(device, turns, name, s) for name, s in zip("abc", seconds, strict=False)]


@pytest.mark.slow
def test_the_model_and_the_plain_backbone_take_turns() -> None:
    device, turns, (model, plain) = slow(3.0, 2.0)
    found = measure_inference(model, [{"x": torch.zeros(2)}], device, plain=plain, warmup_rounds=1, rounds=3)
    assert turns[:8] == ["a", "b"] * 4
    assert found.adapted.times.forward_s == (3.0,) * 3
    assert found.adapted.plain is not None and found.adapted.plain.forward_s == (2.0,) * 3
    assert found.merged is None and found.new_tokens == 0 and found.adapted.times.token_s == ()
    assert model.training and plain.training


@pytest.mark.slow
def test_what_is_merged_is_measured_beside_the_plain_backbone_anew() -> None:
    device, turns, (model, plain, merged) = slow(3.0, 2.0, 1.0)
    found = measure_inference(
        model, [{"x": torch.zeros(2)}], device, merge=lambda _: merged, plain=plain, warmup_rounds=0, rounds=2
    )
    assert [turn for turn in turns if turn != "b"] == ["a"] * 3 + ["c"] * 3  # the last of each: its peak
    assert found.merged is not None and found.merged.times.forward_s == (1.0, 1.0)
    assert found.merged.plain is not None and found.merged.plain.forward_s == (2.0, 2.0)


def test_further_tokens_are_told_from_the_first() -> None:
    device, _, (model,) = slow(0.5)
    found = measure_inference(model, [{"x": torch.zeros(2)}], device, rounds=3, new_tokens=5)
    times = found.adapted.times
    assert times.prefill_s == (10.0,) * 3
    assert times.token_s == (0.5,) * 3  # (10 + 4 x 0.5 - 10) / 4
    assert found.adapted.cached is True


def test_bytes_are_those_of_the_model_the_batch_and_a_forward_pass_without_autograd() -> None:
    n, a, b = 6, 5, 40
    model = nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, 1))
    rows = torch.randn(n, a)
    weights = F32 * (a * b + b + b + 1)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, rows: torch.Tensor) -> Any:
            return self.inner(rows)

    found = measure_inference(Named(), [{"rows": rows}], CpuDevice(), rounds=1).adapted
    assert found.model_bytes == weights
    # Most is alive while tanh runs: its argument and its result; nothing is kept for a backward.
    assert found.peak_bytes == weights + F32 * n * a + 2 * F32 * n * b


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["distilbert", "t5", "llama-lm"])
def test_real_models_are_measured_merged_and_not(architecture: str) -> None:
    method = LoRA(rank=2)
    inputs = {name: value for name, value in batch(architecture).items() if name != "labels"}
    if architecture == "t5":
        inputs["decoder_input_ids"] = torch.zeros(4, 2, dtype=torch.long)
    new_tokens = 0 if architecture == "distilbert" else 3
    found = measure_inference(
        method.apply(tiny(architecture)), [inputs], CpuDevice(), merge=method.merge, plain=tiny(architecture),
        warmup_rounds=0, rounds=2, new_tokens=new_tokens,
    )  # fmt: skip
    assert found.merged is not None and found.plain_peak_bytes is not None
    plain = tiny(architecture)
    weights = sum(p.numel() for p in plain.parameters()) * F32
    buffers = sum(b.numel() * b.element_size() for b in plain.buffers())
    assert found.merged.model_bytes == weights + buffers < found.adapted.model_bytes
    assert found.merged.peak_bytes == found.plain_peak_bytes < found.adapted.peak_bytes
    for times in (found.adapted.times, found.merged.times):
        assert len(times.forward_s) == 2 and min(times.forward_s) > 0
        assert len(times.prefill_s) == len(times.token_s) == (2 if new_tokens else 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": 0}, "rounds at least 1, not 2 and 0"),
        ({"new_tokens": 1}, "must be 0, or at least 2"),
        ({"batches": []}, "at least one batch"),
    ],
)
def test_bad_use_is_refused(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"batches": [{"x": torch.zeros(1)}], **options}
    batches = given.pop("batches")
    with pytest.raises(ValueError, match=words):
        measure_inference(nn.Identity(), batches, CpuDevice(), **given)


def test_no_round_begins_when_the_time_is_over_but_three_are_done() -> None:
    device, turns, (model,) = slow(1.0)
    found = measure_inference(
        model, [{"x": torch.zeros(2)}], device, warmup_rounds=0, rounds=50, max_seconds=0.0
    )
    assert len(found.adapted.times.forward_s) == 3
    assert len(turns) == 4
