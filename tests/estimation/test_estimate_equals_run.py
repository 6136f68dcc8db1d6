"""What is estimated is what a run on the CPU records, to the byte: peak, categories, owners, what is kept."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from peprof_methods.errors import UnsupportedModelError

from peprof.estimation.building import build_on_meta, known_data
from peprof.estimation.tracing import trace
from peprof.results.record import PeakBreakdown
from peprof.running import methods, worker
from peprof.suite.planning import RunSpec
from tests.estimation.small_models import ARCHITECTURES, METHODS, known_once, spec_of, write_configs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _do_slow_things_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass collects garbage, which takes longer than tiny steps; and each run looks up all methods."""
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(methods, "known_methods", known_once)


def recorded(spec: RunSpec) -> PeakBreakdown:
    found = worker.run(spec, device_name="cpu", source="a suite", attempt=1, say=lambda event: None)
    assert found.record.failure is None, found.record.failure.traceback
    assert found.record.short is not None and found.record.short.breakdown is not None
    return found.record.short.breakdown


def check(spec: RunSpec) -> None:
    try:
        built = build_on_meta(spec, known_data(spec.data, source="a suite"), "cpu", source="a suite")
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    found = trace(built.step, built.batch, "cpu")
    profile = found.profile(built.owners)
    run = recorded(spec)
    estimated: dict[str, Any] = {
        "peak_bytes": profile.peak_bytes,
        "peak_phase": profile.peak.phase,
        "categories": dict(profile.peak.categories),
        "owners": dict(profile.peak.owners),
        "saved_bytes": profile.activations.total_bytes,
    }
    assert estimated == run.model_dump(exclude={"uncounted_bytes"})
    assert found.peak_bytes == run.peak_bytes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_architecture(models: Path, method: str, architecture: str) -> None:
    check(spec_of(models, architecture, method))


SETTINGS: dict[str, dict[str, Any]] = {
    "checkpointing": {"method__gradient_checkpointing": True},
    "accumulation": {"train__gradient_accumulation_steps": 2},
    "unequal parts": {"train__batch_size": 6, "train__gradient_accumulation_steps": 3},
    "bfloat16": {"model__dtype": "bfloat16"},
    "eager": {"model__attention": "eager"},
    "sgd": {"train__optimizer": "sgd", "train__optimizer_options": {"momentum": 0.9}},
    "adafactor": {"train__optimizer": "adafactor"},
    "rmsprop in lists": {"train__optimizer": "rmsprop", "train__optimizer_options": {"foreach": True}},
    "fused": {"train__optimizer_options": {"fused": True}},
    "unclipped": {"train__max_grad_norm": None},
    "pretrained tiny": {"model__name": "peprof/tiny"},
    "longer": {"data__max_length": 37},
}


@pytest.mark.parametrize("architecture", ["distilbert", "llama-lm"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_way_of_training(models: Path, setting: str, architecture: str) -> None:
    if setting == "pretrained tiny" and architecture == "llama-lm":
        pytest.skip("it classifies")
    check(spec_of(models, architecture, "lora", **SETTINGS[setting]))
