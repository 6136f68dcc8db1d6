"""Where a step ran out of memory, and whose it was then: with real errors of the CPU's allocator."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peprof import profile_step
from peprof.breakdown.values import RanOut, StepProfile
from peprof.devices import Mark
from peprof.profiler.errors import StepOutOfMemoryError

F32 = 4
TOO_MUCH = 2**55
ROWS, IN, WIDTH, OUT = 32, 64, 256, 2
PARAMETERS = F32 * (IN * WIDTH + WIDTH + WIDTH * OUT + OUT)
INPUTS = F32 * ROWS * IN
HIDDEN = F32 * ROWS * WIDTH


def ask_for_too_much() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


class Greedy(torch.autograd.Function):
    """Passes on, and asks for too much in forward or in backward, where it holds a temporary."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, where: str) -> torch.Tensor:
        ctx.where = where
        if where == "forward":
            ask_for_too_much()
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        held = gradient * 2
        if ctx.where == "backward":
            ask_for_too_much()
        return held, None


class GreedyModule(nn.Module):
    where = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Greedy.apply(x, self.where)


class GreedySGD(torch.optim.SGD):
    where = ""

    def step(self, closure: Any = None) -> None:
        if self.where == "optimizer":
            ask_for_too_much()
        super().step()


class Subject:
    """Linear - ReLU - greedy - Linear, its loss, and SGD."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.greedy = GreedyModule()
        self.model = nn.Sequential(nn.Linear(IN, WIDTH), nn.ReLU(), self.greedy, nn.Linear(WIDTH, OUT))
        self.optimizer = GreedySGD(self.model.parameters(), lr=0.1, foreach=True)
        self.batch = torch.randn(ROWS, IN)

    def step(self, batch: torch.Tensor, mark: Mark) -> None:
        mark("forward")
        loss = self.model(batch).square().mean()
        mark("backward")
        loss.backward()
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark(None)

    def run_out(self, step: Callable[..., object] | None = None) -> tuple[StepOutOfMemoryError, RanOut]:
        with pytest.raises(StepOutOfMemoryError) as raised:
            profile_step(self.model, self.batch, step or self.step, warmup_steps=0)
        assert torch._C._len_torch_dispatch_stack() == 0
        assert raised.value.profile.ran_out is not None
        return raised.value, raised.value.profile.ran_out


def test_in_forward_what_the_layers_before_have_kept_is_live() -> None:
    subject = Subject()
    subject.greedy.where = "forward"
    error, ran_out = subject.run_out()
    assert (ran_out.phase, ran_out.module, ran_out.operator) == ("forward", "2", "aten.empty.memory_format")
    assert ran_out.requested_bytes == TOO_MUCH
    # What ReLU has saved is also what goes into the greedy one.
    assert ran_out.live.categories == {
        "parameters.trainable": PARAMETERS,
        "activations": HIDDEN,
        "inputs": INPUTS,
    }
    assert ran_out.live.total_bytes == PARAMETERS + HIDDEN + INPUTS
    assert ran_out.live.modules.find("1") is not None
    assert str(ran_out) == (
        "ran out of memory in forward, in aten.empty.memory_format of 2, asking for 36,028,797,018,963,968 "
        f"bytes; {PARAMETERS + HIDDEN + INPUTS:,} bytes live"
    )
    assert str(error).startswith(f"{ran_out}: [enforce fail at alloc_cpu.cpp")


def test_in_backward_nothing_that_the_error_frees_is_missing() -> None:
    """The last layer's gradients are there, ReLU's output, the gradient that came in, and what is held."""
    subject = Subject()
    subject.greedy.where = "backward"
    _, ran_out = subject.run_out()
    assert (ran_out.phase, ran_out.module) == ("backward", "2")
    categories = dict(ran_out.live.categories)
    assert categories.pop("parameters.trainable") == PARAMETERS
    assert categories.pop("inputs") == INPUTS
    assert categories.pop("gradients") == F32 * (WIDTH * OUT + OUT)
    assert categories.pop("activations") == HIDDEN
    assert categories.pop("temporaries.backward") == 2 * HIDDEN + F32  # and the loss's gradient, which is 1
    # The loss lives in the step.
    assert categories == {"temporaries.forward": F32}


def test_in_the_optimizer_no_module_runs() -> None:
    subject = Subject()
    subject.optimizer.where = "optimizer"
    _, ran_out = subject.run_out()
    assert (ran_out.phase, ran_out.module) == ("optimizer", None)
    assert ran_out.live.categories == {
        "parameters.trainable": PARAMETERS,
        "gradients": PARAMETERS,
        "inputs": INPUTS,
        "temporaries.forward": F32,
    }


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer"])
def test_phases_that_are_not_marked_are_found(where: str) -> None:
    subject = Subject()
    subject.greedy.where = subject.optimizer.where = where
    _, ran_out = subject.run_out(lambda batch: subject.step(batch, lambda phase: None))
    assert ran_out.phase == where


def test_the_error_is_what_code_that_handles_such_errors_expects() -> None:
    subject = Subject()
    subject.greedy.where = "forward"
    error, ran_out = subject.run_out()
    assert isinstance(error, torch.OutOfMemoryError) and isinstance(error, RuntimeError)
    assert type(error.__cause__) is RuntimeError and "can't allocate memory" in str(error.__cause__)
    assert ".profile" in (error.hint or "")
    again = pickle.loads(pickle.dumps(error))
    assert (again.message, again.profile.ran_out) == (error.message, ran_out)


class ShortOfMemory(TorchDispatchMode):
    """Raises at an operator what torch raises on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.relu.default:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total")
        return func(*args, **(kwargs or {}))


def test_a_gpus_error_is_one_too() -> None:
    subject = Subject()
    with ShortOfMemory(), pytest.raises(StepOutOfMemoryError) as raised:
        profile_step(subject.model, subject.batch, subject.step, warmup_steps=0)
    ran_out = raised.value.profile.ran_out
    assert ran_out is not None and ran_out.requested_bytes == 5 * 2**29
    assert (ran_out.module, ran_out.operator) == ("1", "aten.relu")
    assert ran_out.live.categories["temporaries.forward"] == HIDDEN


def test_memory_that_runs_out_beside_torch_has_no_operator() -> None:
    subject = Subject()

    def step(batch: torch.Tensor, mark: Mark) -> None:
        mark("forward")
        kept = subject.model(batch)
        raise MemoryError(kept.shape)

    _, ran_out = subject.run_out(step)
    assert (ran_out.operator, ran_out.module, ran_out.requested_bytes) == (None, None, None)
    assert "outside of torch's operators" in str(ran_out)


def test_an_error_that_the_step_handles_is_none() -> None:
    subject = Subject()

    def step(batch: torch.Tensor, mark: Mark) -> None:
        with pytest.raises(RuntimeError, match="can't allocate"):
            ask_for_too_much()
        subject.step(batch, mark)

    assert profile_step(subject.model, subject.batch, step).ran_out is None


def test_another_error_comes_as_it_is_even_after_one_that_was_handled() -> None:
    subject = Subject()

    def step(batch: torch.Tensor) -> None:
        with pytest.raises(RuntimeError, match="can't allocate"):
            ask_for_too_much()
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        profile_step(subject.model, subject.batch, step, warmup_steps=0)


def test_a_profile_is_written_and_read_with_and_without() -> None:
    subject = Subject()
    whole = profile_step(subject.model, subject.batch, subject.step)
    subject.greedy.where = "forward"
    error, _ = subject.run_out()
    for found in (whole, error.profile):
        written = json.loads(json.dumps(found.to_dict()))
        assert TypeAdapter(StepProfile).validate_python(written, strict=False).ran_out == found.ran_out
    older = whole.to_dict()
    del older["ran_out"]
    assert TypeAdapter(StepProfile).validate_python(older).ran_out is None
