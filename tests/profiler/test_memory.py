from __future__ import annotations

import pytest
import torch

from peprof.devices import CpuDevice
from peprof.profiler.memory import measure_memory
from tests.profiler.steps import MlpStep

F32 = 4


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize(("n", "a", "h", "b"), [(64, 256, 512, 10), (8, 16, 32, 4)])
def test_live_bytes_are_those_worked_out_by_hand(n: int, a: int, h: int, b: int, adam: bool) -> None:
    """n rows, widths a -> h -> b. ReLU's output is what ReLU and the second layer save; they share it."""
    batch = torch.randn(n, a)
    found = measure_memory(MlpStep(a, h, b, adam=adam), [batch], CpuDevice())
    phases = {phase.phase: phase for phase in found.phases}

    parameters = a * h + h + h * b + b
    state = 2 * parameters + 4 if adam else 0  # AdamW also counts its steps: one number a parameter tensor
    start = F32 * (parameters + state + n * a)
    assert found.start_bytes == start

    # After forward: ReLU's output, the second layer's output (saved by square) and the loss live on.
    assert phases["forward"].end_bytes == start + F32 * (n * h + n * b + 1)
    # While ReLU runs, its input is alive too; so is the first layer's output, which is that input.
    assert phases["forward"].peak_bytes >= start + F32 * (2 * n * h)
    # After backward: the gradients are there, what was saved is gone but for the loss.
    assert phases["backward"].end_bytes == start + F32 * (parameters + 1)
    # After the step: gradients are cleared, only the loss is still held by the step's frame.
    assert phases["optimizer"].end_bytes == start + F32
    assert found.peak_bytes == max(phase.peak_bytes for phase in found.phases)


def test_a_frozen_layer_has_no_gradient_and_no_state() -> None:
    step = MlpStep(64, 128, 8, adam=True)
    step.model[0].requires_grad_(False)
    found = measure_memory(step, [torch.randn(16, 64)], CpuDevice())
    trained = 128 * 8 + 8
    everything = 64 * 128 + 128 + trained
    assert found.start_bytes == F32 * (everything + 2 * trained + 2 + 16 * 64)


def test_the_step_is_run_once_more_than_it_is_warmed_up() -> None:
    step = MlpStep(4, 4, 4, adam=False)
    measure_memory(step, [torch.randn(2, 4)], CpuDevice(), warmup_steps=3)
    assert step.calls == 4


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="batches is empty"):
        measure_memory(MlpStep(4, 4, 4, adam=False), [], CpuDevice())
