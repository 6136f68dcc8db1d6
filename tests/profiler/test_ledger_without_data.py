"""The same step on ``meta`` tensors, which hold no data, and on the CPU: the same bytes, all of them.

Every method and setting is in ``test_every_method``; here are the kinds of attention and checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from peprof.breakdown.values import StepProfile
from peprof.profiler.profile import profile_step
from tests.profiler.models import BATCH, LENGTH, METHODS, batch_of, build


def profile_on(device: str, architecture: str, method: str, **settings: Any) -> StepProfile:
    model = build(architecture, method, **settings).to(device)
    if device == "meta" and architecture == "t5":
        model.tie_weights()  # moving to meta makes new parameters, two where one was shared
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)  # the default differs by device
    batch = {name: tensor.to(device) for name, tensor in batch_of(architecture).items()}

    def step(batch: Any) -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=False)
        optimizer.step()
        optimizer.zero_grad()

    return profile_step(model, batch, step, optimizers=optimizer)


def check_sums(profile: StepProfile) -> None:
    for moment in (profile.peak, *(phase.peak for phase in profile.phases)):
        assert sum(moment.categories.values()) == moment.total_bytes
        assert sum(moment.operators.values()) == moment.total_bytes
        assert moment.modules.total_bytes == moment.total_bytes
        assert sum(module.own_bytes for module in moment.modules.walk()) == moment.total_bytes
    assert max(phase.peak.total_bytes for phase in profile.phases) == profile.peak_bytes
    assert max(profile.timeline.totals()) == profile.peak_bytes
    assert (profile.timeline.totals()[0], profile.timeline.totals()[-1]) == (
        profile.start_bytes,
        profile.end_bytes,
    )


def check_same(real: StepProfile, without_data: StepProfile) -> None:
    check_sums(real)
    assert without_data.device == "meta" and real.device == "cpu"
    expected, found = real.to_dict(), without_data.to_dict()
    assert found.pop("device") != expected.pop("device")
    assert found["peak"]["categories"] == expected["peak"]["categories"]
    assert found["activations"] == expected["activations"]
    assert found == expected


def check_same_but_for_norms(real: StepProfile, without_data: StepProfile, norms: int) -> None:
    """LayerNorm in bf16 keeps its mean and its deviation in bf16 on a CPU, in float32 on CUDA and meta."""
    check_sums(real)
    check_sums(without_data)
    for kept, expected in zip(without_data.activations.saved, real.activations.saved, strict=True):
        if kept.made_by == "aten.native_layer_norm" and kept.shape[-1] == 1:
            assert (kept.dtype, expected.dtype) == ("float32", "bfloat16")
            assert kept == replace(expected, dtype="float32", nbytes=2 * expected.nbytes)
        else:
            assert kept == expected
    for found, phase in zip(without_data.phases, real.phases, strict=True):
        assert found.phase == phase.phase
        if found.peak.event != phase.peak.event:  # two moments so close that the norms' bytes decide
            assert abs(found.peak.total_bytes - phase.peak.total_bytes) <= norms * 2 * BATCH * LENGTH * 2
            continue
        operators, expected = dict(found.peak.operators), dict(phase.peak.operators)
        more = operators.pop("aten.native_layer_norm", 0) - expected.pop("aten.native_layer_norm", 0)
        assert operators == expected
        assert found.peak.total_bytes - phase.peak.total_bytes == more >= 0


@pytest.mark.parametrize("method", METHODS)
def test_meta_equals_cpu_with_a_named_fused_attention_kernel(method: str) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        real = profile_on("cpu", "bert", method, attention="sdpa")
        check_same(real, profile_on("meta", "bert", method, attention="sdpa"))


def test_reentrant_checkpoints_are_the_same_without_data() -> None:
    settings = {"checkpointing": True, "dropout": 0.1}
    check_same(
        profile_on("cpu", "distilbert", "full", **settings),
        profile_on("meta", "distilbert", "full", **settings),
    )
