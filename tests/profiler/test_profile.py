"""``profile_step`` as people call it: examples, phases, what it prints."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from peprof import profile_step
from peprof.breakdown.values import StepProfile
from peprof.devices import Mark
from peprof.profiler import profile as profile_module
from peprof.profiler.errors import ProfileError
from tests.profiler.models import BATCH, CLASSIFIERS, LENGTH, WIDTH, batch_of, build, layers_prefixes
from tests.profiler.steps import MlpStep

F32 = 4


def test_the_example_in_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    documented = profile_module.profile_step.__doc__ or ""
    example = textwrap.dedent(documented.partition("Example::\n")[2].partition("Args:")[0])
    assert len([line for line in example.splitlines() if line.strip()]) == 10
    exec(example, {"nn": nn, "torch": torch})
    printed = capsys.readouterr().out
    assert printed.startswith("Peak ")
    assert "parameters.trainable" in printed


def phases_of(found: StepProfile) -> list[str]:
    return [phase.phase for phase in found.phases if phase.phase != "other"]


def test_phases_of_a_loop_that_marks_none_are_those_that_marks_would_say() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters())

    def marked(batch: torch.Tensor, mark: Mark) -> None:
        mark("forward")
        loss = model(batch).square().mean()
        mark("backward")
        loss.backward()
        mark("clip")
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        mark("optimizer")
        optimizer.step()
        mark(None)
        optimizer.zero_grad()

    def plain(batch: torch.Tensor) -> None:
        marked(batch, lambda phase: None)

    batch = torch.randn(8, 16)
    said, found = profile_step(model, batch, marked), profile_step(model, batch, plain)
    assert (said.phases_from, found.phases_from) == ("marks", "autograd")
    assert phases_of(said) == phases_of(found) == ["forward", "backward", "clip", "optimizer"]
    for phase in ("forward", "backward", "clip", "optimizer"):
        assert found.phase(phase).peak.total_bytes == said.phase(phase).peak.total_bytes
    with pytest.raises(KeyError, match="no phase 'evaluation', only forward, backward"):
        said.phase("evaluation")


def test_a_second_parameter_that_is_no_mark_keeps_its_default() -> None:
    step = MlpStep(4, 8, 2, adam=False)
    given: list[object] = []

    def with_default(batch: torch.Tensor, scale: float = 2.0) -> None:
        given.append(scale)
        step(batch)

    assert profile_step(step.model, torch.randn(3, 4), with_default).phases_from == "autograd"
    assert given == [2.0, 2.0]


@pytest.mark.parametrize("wrap", [lambda out: out, lambda out: (out,), lambda out: {"loss": out.sum()}])
def test_without_a_step_a_plain_one_is_run(wrap: Callable[[torch.Tensor], Any]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return wrap(self.linear(x))

    model = Model()
    before = model.linear.weight.detach().clone()
    found = profile_step(
        model, {"x": torch.randn(2, 4)}, optimizers=torch.optim.SGD(model.parameters()), warmup_steps=0
    )
    assert phases_of(found) == ["forward", "backward", "optimizer"]
    assert not torch.equal(model.linear.weight, before)


def test_what_makes_no_sense_is_an_error_that_says_what_to_do() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ProfileError, match="neither a step nor an optimizer"):
        profile_step(model, torch.randn(1, 2))
    with pytest.raises(ValueError, match="warmup_steps is -1"):
        profile_step(model, torch.randn(1, 2), lambda batch: None, warmup_steps=-1)

    class Wordless(nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "no loss"

    with pytest.raises(ProfileError, match="a str, has neither a loss nor a first tensor") as error:
        profile_step(Wordless(), torch.randn(1), optimizers=torch.optim.SGD([torch.ones(1)]))
    assert "step=" in (error.value.hint or "")


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_a_ladder_keeps_nothing_inside_the_layers_of_its_backbone(architecture: str) -> None:
    """Of the backbone only hidden states are kept: the embeddings and the output of each of two layers."""
    model = build(architecture, "lst", dropout=0.1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = profile_step(model, batch_of(architecture), optimizers=torch.optim.SGD(trained)).activations
    layers = layers_prefixes(architecture)
    assert not [item for item in found.saved if item.module and item.module.startswith(layers)]
    made_in_backbone = [item for item in found.saved if ".backbone." in (item.made_in or "")]
    assert [item.nbytes for item in made_in_backbone] == 3 * [F32 * BATCH * LENGTH * WIDTH]
    full = profile_step(
        (whole := build(architecture, "full", dropout=0.1)),
        batch_of(architecture),
        optimizers=torch.optim.SGD(whole.parameters()),
    ).activations
    assert found.total_bytes < full.total_bytes


def small_profile() -> StepProfile:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2))
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, foreach=True)
    batch = torch.randn(32, 64)
    return profile_step(model, batch, optimizers=optimizer, owner={"0": "backbone", "2": "head"})


def test_it_prints_the_same_numbers_that_a_hand_works_out() -> None:
    """17,154 parameters are 67.0 KiB, and so are their momentum and their gradients.

    The peak is where the last gradient is made, of the first layer's bias. There are then ReLU's gradient,
    32 KiB, the batch, 8 KiB, the loss and its gradient, 4 B each; what ReLU had saved is gone.
    """
    found = small_profile()
    parameters = 64 * 256 + 256 + 256 * 2 + 2
    assert found.peak_bytes == F32 * (3 * parameters + 32 * 256 + 32 * 64 + 1 + 1) == 246_816
    text = str(found)
    assert text.startswith("Peak 241 KiB on cpu, in backward, in aten.sum.dim_IntList of 0\n")
    lines = [re.sub(r" {2,}", " | ", line.strip()) for line in text.splitlines()]
    assert "parameters.trainable | 67.0 KiB" in " ".join(lines)
    assert "optimizer_state | 67.0 KiB" in " ".join(lines)
    assert "inputs | 8.00 KiB" in " ".join(lines)
    assert "Kept for backward: 32.0 KiB in 1 storage" in lines
    assert "aten.relu | 32.0 KiB | 100.0 % | ####################" in lines
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) <= 60


def test_it_is_json_and_html() -> None:
    found = small_profile()
    read = json.loads(json.dumps(found.to_dict()))
    assert read["peak"]["total_bytes"] == found.peak_bytes
    assert read["activations"]["saved"] == [
        {
            "module": "1",
            "operator": "aten.relu",
            "made_in": "1",
            "made_by": "aten.relu",
            "shape": [32, 256],
            "dtype": "float32",
            "nbytes": F32 * 32 * 256,
        }
    ]
    html = found._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 6
    assert "parameters.trainable" in html and "<script" not in html


def test_the_timeline_is_thinned_but_keeps_the_peak() -> None:
    found = small_profile()
    assert max(found.timeline.totals()) == found.peak_bytes
    assert len(set(map(len, found.timeline.categories.values()))) == 1
    assert list(dict.fromkeys(found.timeline.phases))[:3] == ["forward", "backward", "optimizer"]
