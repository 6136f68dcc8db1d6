"""The try before a training: what it finds out, and that it leaves nothing behind."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from typing_extensions import override

from peprof.devices import CpuDevice
from peprof.devices.cuda_determinism import deterministic, repeatable
from peprof.running.full_phase import run_full_phase
from peprof.running.repeating import make_repeatable
from tests.running.test_phases import Examples, make_spec, make_step


class StrictDevice(CpuDevice):
    """A processor that is asked for the same values each time, as a GPU is."""

    def __init__(self) -> None:
        super().__init__()
        self.kind: Any = "cuda"

    @override
    def deterministic(self) -> AbstractContextManager[None]:
        return deterministic()

    @override
    def repeatable(self) -> AbstractContextManager[None]:
        return repeatable()


def in_no_order(module: torch.nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
    """Writes twice to one place: torch says that which of both stays is chance."""
    torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_it_leaves_weights_numbers_and_counts_as_they_were() -> None:
    step, spec = make_step(), make_spec()
    state, numbers = copy.deepcopy(step.state_dict()), torch.get_rng_state()
    weights = copy.deepcopy(step.model.state_dict())
    seen: list[bool] = []
    step.model.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_deterministic_algorithms_warn_only_enabled())
    )
    with deterministic():
        assert make_repeatable(step, Examples(), spec, StrictDevice()) is None
    assert seen == [False], "one pass, in which warnings aren't enough"
    assert torch.equal(numbers, torch.get_rng_state()) and step.state_dict() == state
    after = step.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert all(parameter.grad is None for parameter in step.model.parameters())
    [batch] = Examples().fixed_shape(4, 1, seed=0)
    step(batch)
    assert seen == [False, False] and not torch.are_deterministic_algorithms_enabled()


def test_an_operator_that_knows_no_way_is_named_and_training_goes_on_without() -> None:
    step = make_step()
    step.model.register_forward_pre_hook(in_no_order, with_kwargs=True)
    warned: list[str] = []
    spec = make_spec().model_copy(update={"phases": ("full",)})
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"max_steps": 2})})
    with pytest.warns(UserWarning, match="put_"):
        found = run_full_phase(
            spec, step, Examples(), Examples(), object(), StrictDevice(), lambda event: None,
            lambda history: None, warn=warned.append,
        )  # fmt: skip
    assert found.steps == 2 and step.around is nullcontext
    [words] = warned
    assert "another run of the same seed can differ" in words and "put_" in words


def test_what_fails_for_other_reasons_fails() -> None:
    step = make_step()

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    step.model.register_forward_pre_hook(fail)
    with deterministic(), pytest.raises(torch.OutOfMemoryError):
        make_repeatable(step, Examples(), make_spec(), StrictDevice())
