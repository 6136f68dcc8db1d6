"""A profiler within a profiler, and tensors that hide their bytes, met in the middle of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from peprof import profile_step
from peprof.breakdown.values import StepProfile
from peprof.profiler.errors import ProfileError, StepOutOfMemoryError
from tests.profiler.steps import MlpStep
from tests.profiler.test_ledger import Opaque, traces


class Wrapped(Opaque):
    """Computes with what it wraps, wraps the result, and doesn't say so."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Wrapped, lambda wrapper: wrapper.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, Wrapped, func(*args, **kwargs))


@pytest.fixture
def mlp() -> MlpStep:
    return MlpStep(64, 256, 2, adam=True)


BATCH = torch.randn(32, 64)


def nested(mlp: MlpStep, step: Callable[..., object]) -> tuple[StepProfile, list[StepProfile]]:
    found: list[StepProfile] = []

    def outer(batch: torch.Tensor) -> None:
        found.append(profile_step(mlp.model, batch, step, warmup_steps=0))

    return profile_step(mlp.model, BATCH, outer, warmup_steps=0), found


def test_a_profile_within_a_profile_and_the_one_around_it_are_as_one_alone(mlp: MlpStep) -> None:
    alone = profile_step(mlp.model, BATCH, mlp)
    before = traces(mlp.model)
    outer, (inner,) = nested(mlp, mlp)
    assert traces(mlp.model) == before
    assert outer.peak.categories == inner.peak.categories == alone.peak.categories
    assert outer.activations.saved == inner.activations.saved == alone.activations.saved


def test_memory_that_runs_out_within_both_is_told_by_both(mlp: MlpStep) -> None:
    before = traces(mlp.model)

    def greedy(batch: torch.Tensor) -> None:
        mlp.model(batch)
        torch.empty(2**55, dtype=torch.uint8)

    with pytest.raises(StepOutOfMemoryError) as raised:
        nested(mlp, greedy)
    inner = raised.value.__cause__
    assert isinstance(inner, StepOutOfMemoryError)
    assert raised.value.profile.ran_out == inner.profile.ran_out
    assert type(inner.__cause__) is RuntimeError
    assert traces(mlp.model) == before


def test_a_tensor_that_hides_its_bytes_is_refused_when_it_turns_up_in_the_step(mlp: MlpStep) -> None:
    before = traces(mlp.model)

    def step(batch: torch.Tensor) -> None:
        mlp.model(batch)
        Wrapped(torch.ones(3)) * 2

    with pytest.raises(ProfileError, match=r"test_bad_use.Wrapped has no storage of its own") as error:
        profile_step(mlp.model, BATCH, step)
    assert "__tensor_flatten__" in (error.value.hint or "")
    assert traces(mlp.model) == before
    assert profile_step(mlp.model, BATCH, mlp).peak_bytes > 0
