"""Estimates with weights and states of 4 and 8 bits: as bitsandbytes runs them, and as published."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from peprof.errors import SuiteError
from peprof.estimation.building import known_data
from peprof.estimation.estimating import estimate_run, memory_key
from peprof.estimation.quantised import nf4_bytes
from peprof.results.estimates import Estimate
from peprof.running import worker
from peprof.running.preparing import _check_training
from peprof.suite.planning import RunSpec
from peprof.training.quantised_on_meta import FUSED_ROWS, Linear4bitOnMeta, stand_for_kernels
from tests.estimation.small_models import METHODS, spec_of, write_configs
from tests.estimation.test_estimate_equals_run import check
from tests.estimation.test_quantised import Peak

LINEAR_ROLES = (
    "attention.query", "attention.key", "attention.value", "attention.output",
    "feedforward.up", "feedforward.gate", "feedforward.down",
)  # fmt: skip
REFUSED = {"full", "last_layers", "parameters", "sparse", "pissa", "siva"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


def estimated(spec: RunSpec, kind: Any = "cuda") -> Estimate:
    return estimate_run(spec, known_data(spec.data, source="a suite"), kind, source="a suite")


EVERY = bool(os.environ.get("PEPROF_EVERY_SETTING"))
"""All pairs (minutes), and not a sample that has two thirds of the methods, each setting and both types;
tests/methods/test_quantised.py runs each method beside bitsandbytes' layers."""
TRAINED = [*(m for m in METHODS if m not in REFUSED), "peft:LORA", "peft:VERA", "peft:LN_TUNING"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "quantization"),
    [
        (method, held)
        for turn, method in enumerate(TRAINED)
        for place, held in enumerate(("nf4", "int8"))
        if EVERY or turn % 3 == place
    ],
)
def test_what_is_estimated_is_what_a_run_records(models: Path, method: str, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    check(spec_of(models, "llama-lm", method, model__quantization=quantization, model__dtype="bfloat16"))


SETTINGS: dict[str, dict[str, Any]] = {
    "single": {"model__quantization": "nf4-single"},
    "float32": {"model__quantization": "nf4", "model__dtype": "float32"},
    "checkpointing": {"model__quantization": "nf4", "method__gradient_checkpointing": True},
    "parts": {"model__quantization": "int8", "train__gradient_accumulation_steps": 2},
    "adamw-8bit": {"model__quantization": "nf4", "train__optimizer": "adamw-8bit"},
    "lion-8bit": {"train__optimizer": "lion-8bit"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "architecture"),
    [
        (setting, architecture)
        for turn, setting in enumerate(SETTINGS)
        for place, architecture in enumerate(("bert", "t5", "llama"))
        if EVERY or turn % 3 == place
    ],
)
def test_so_it_is_in_every_way_of_training(models: Path, setting: str, architecture: str) -> None:
    pytest.importorskip("bitsandbytes")
    check(spec_of(models, architecture, "lora", **SETTINGS[setting]))


@pytest.mark.slow
def test_8_bit_states_of_full_fine_tuning_too(models: Path) -> None:
    pytest.importorskip("bitsandbytes")
    check(spec_of(models, "llama-lm", "full", train__optimizer="adamw-8bit"))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_has_a_figure_or_a_reason(models: Path, method: str, kind: str) -> None:
    found = estimated(spec_of(models, "llama-lm", method, model__quantization="nf4"), kind)
    if method in REFUSED:
        assert found.peak_bytes is None and "quantised weights have no gradient" in str(found.problem)
    elif method == "head":
        assert "no head" in str(found.problem)
    else:
        assert found.problem is None and not found.exact


def test_parameters_count_as_many_as_before(models: Path) -> None:
    plain = estimated(spec_of(models, "llama-lm", "lora")).counts
    assert estimated(spec_of(models, "llama-lm", "lora", model__quantization="nf4")).counts == plain
    assert estimated(spec_of(models, "llama-lm", "lora", model__quantization="int8")).counts == plain


def test_runs_in_other_bits_need_other_memory(models: Path) -> None:
    specs = [spec_of(models, "llama-lm", "lora", model__quantization=q) for q in (None, "nf4", "int8")]
    assert len({memory_key(spec) for spec in specs}) == len({spec.run_id for spec in specs}) == 3


def test_a_gpu_makes_the_weight_dense_for_each_product() -> None:
    """Of 512 by 256 weights, in bfloat16: two copies of the maxima in float32, the weight, and the output."""
    layer = Linear4bitOnMeta(nn.Linear(256, 512, False, device="meta", dtype=torch.bfloat16), double=True)
    rows = torch.empty(3, 5, 256, dtype=torch.bfloat16, device="meta", requires_grad=True)
    state: Any = layer.weight
    known = [rows, layer.weight, state.quant_state.absmax]
    output = 3 * 5 * 512 * 2
    with Peak(known) as on_cpu:
        layer(rows)
    stand_for_kernels(layer, "cuda")
    with Peak(known) as on_gpu:
        result = layer(rows)
    assert on_cpu.peak == output
    assert on_gpu.peak == output + 2 * 512 * 256 + 2 * 4 * (512 * 256 // 64)
    # In backward it's the weight again, with its maxima once; nothing but the output was kept until then.
    assert on_gpu.live == output
    gradient = torch.empty_like(result)
    with Peak([*known, result, gradient]) as backward:
        result.backward(gradient)
    assert backward.peak == 2 * 512 * 256 + 4 * (512 * 256 // 64) > 2 * 512 * 256 + 3 * 5 * 256 * 2


def test_what_is_assumed_of_kernels_is_said(models: Path) -> None:
    few = estimated(spec_of(models, "llama-lm", "lora", model__quantization="nf4"))
    assert any(f"{FUSED_ROWS:,} rows" in text for text in few.assumptions)
    many = spec_of(models, "llama-lm", "lora", model__quantization="nf4", train__batch_size=128)
    assert not any("rows" in text for text in estimated(many).assumptions)
    rounded = estimated(spec_of(models, "llama-lm", "lora", model__quantization="int8"))
    assert any("outliers" in text for text in rounded.assumptions)
    assert estimated(spec_of(models, "llama-lm", "lora", model__quantization="nf4"), "cpu").assumptions == ()


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_over_quantised_layers_is_refused_in_estimates_as_in_runs(
    models: Path, autocast: str
) -> None:
    spec = spec_of(models, "llama-lm", "bitfit", model__quantization="int8", train__autocast=autocast)
    with pytest.raises(SuiteError, match=r"train\.autocast: layers in int8 compute in model\.dtype"):
        estimated(spec)
    with pytest.raises(SuiteError, match=r"train\.autocast: layers in int8 compute in model\.dtype"):
        _check_training("a suite", (spec,))
    assert (
        estimated(
            spec.model_copy(update={"model": spec.model.model_copy(update={"quantization": None})})
        ).problem
        is None
    )


def test_rows_of_a_decoder_count_for_what_is_assumed_too(models: Path) -> None:
    """Of 128 examples with 24 tokens (3,072 rows) read and 4 (512) written."""
    spec = spec_of(
        models, "t5", "lora",
        model__quantization="nf4", train__batch_size=128, data__max_target_length=4,
    )  # fmt: skip
    assert any(f"{FUSED_ROWS:,} rows" in text for text in estimated(spec).assumptions)


def large(directory: Path, **geometry: Any) -> Path:
    config = LlamaConfig(
        vocab_size=32000, pad_token_id=0, max_position_embeddings=2048, tie_word_embeddings=False, **geometry
    )
    config.save_pretrained(directory / "llama-lm")
    return directory


@pytest.mark.slow
def test_65_billion_parameters_are_fine_tuned_on_48_gb(tmp_path: Path) -> None:
    """As QLoRA's abstract says; the weights by its 4.127 bits, embeddings and output layer in 16."""
    models = large(
        tmp_path,
        hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64,
    )  # fmt: skip
    spec = spec_of(
        models, "llama-lm", "lora",
        model__quantization="nf4", model__dtype="bfloat16", data__max_length=512, train__batch_size=1,
        method__options={"rank": 64, "targets": LINEAR_ROLES}, method__gradient_checkpointing=True,
    )  # fmt: skip
    found = estimated(spec)
    assert found.counts is not None and found.profile is not None
    assert found.counts.backbone == pytest.approx(65.3e9, rel=0.001)
    frozen = found.profile.peak.categories["parameters.frozen"]
    outside = 2 * 32000 * 8192
    assert frozen == pytest.approx((found.counts.backbone - outside) * 4.127 / 8 + 2 * outside, rel=1e-4)
    assert found.peak_bytes is not None and found.peak_bytes < 48e9


def test_the_weights_of_a_layer_are_the_sum_of_the_formula(models: Path) -> None:
    found = estimated(spec_of(models, "llama-lm", "layernorm", model__quantization="nf4"))
    plain = estimated(spec_of(models, "llama-lm", "layernorm"))
    assert found.profile is not None and plain.profile is not None
    sizes = [32 * 32, 16 * 32, 16 * 32, 32 * 32, 64 * 32, 64 * 32, 32 * 64] * 2
    saved = sum(4 * size - nf4_bytes(size) for size in sizes)
    frozen = "parameters.frozen"
    assert plain.profile.peak.categories[frozen] - found.profile.peak.categories[frozen] == saved


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_operations_are_those_beside_dense_weights(models: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    found = []
    for held, optimizer in ((quantization, "adamw-8bit"), ("none", "adamw")):
        spec = spec_of(models, "llama-lm", "lora", model__quantization=held, train__optimizer=optimizer)
        done = worker.run(spec, device_name="cpu", source="a suite", attempt=1, say=lambda event: None)
        assert done.record.short is not None and done.record.short.work is not None
        work = done.record.short.work
        assert not work.uncounted
        found.append([(phase.phase, phase.flops) for phase in work.phases])
    assert found[0] == found[1]


def test_a_training_in_4_bits_learns_and_is_evaluated_on_the_way(models: Path) -> None:
    """bitsandbytes lays weights out anew for evaluation on some CPUs, and could then train no more."""
    pytest.importorskip("bitsandbytes")
    spec = spec_of(
        models, "llama", "lora",
        model__quantization="nf4", train__optimizer="adamw-8bit", train__evaluate_every_steps=2,
        train__epochs=2, train__learning_rate=1e-2,
    ).model_copy(update={"phases": ("full",)})  # fmt: skip
    done = worker.run(spec, device_name="cpu", source="a suite", attempt=1, say=lambda event: None)
    assert done.record.failure is None, done.record.failure.traceback
    assert done.history is not None
    losses, norms = done.history.loss, done.history.gradient_norm
    assert len(losses) == 16 and all(math.isfinite(loss) for loss in losses)
    assert len(norms) == 16 and all(0 < norm < math.inf for norm in norms)
