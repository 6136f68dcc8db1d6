"""What a run computes of its own step: on the CPU what it measures, of a GPU what its settings make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peprof.estimation.attention_kernels import AttentionCall, GpuKernels
from peprof.estimation.building import known_data
from peprof.estimation.estimating import estimate_run
from peprof.estimation.gpu_memory import memory_of
from peprof.estimation.own_run import (
    SUPPOSED_PADDING,
    UNEVEN_PADDING,
    _recorded,
    estimate_own_run,
)
from peprof.estimation.pool_here import PoolHere, pool_here
from peprof.estimation.scratch import UNTOLD
from peprof.results.predicted import by_phase, prediction_of
from peprof.results.record import EstimatedMemory
from peprof.running import worker
from peprof.running.estimate_pass import OwnRun
from peprof.running.tasks import RunResult
from peprof.suite.planning import RunSpec
from tests.estimation.small_models import spec_of
from tests.estimation.test_estimate_equals_run import _do_slow_things_once, models

__all__ = ["_do_slow_things_once", "models"]  # fixtures


def run(spec: RunSpec) -> RunResult:
    result = worker.run(spec, device_name="cpu", source="a suite", attempt=1, say=lambda event: None)
    assert result.record.failure is None, result.record.failure.traceback
    return result


def check(spec: RunSpec) -> EstimatedMemory:
    """The estimate in the record is what the ledger counted, in each phase and to the byte."""
    result = run(spec)
    record = result.record
    estimate, prediction = record.estimate, prediction_of(record)
    assert estimate is not None and estimate.problem is None and prediction is not None
    assert record.short is not None and record.short.breakdown is not None
    assert prediction.error("peak") == 0.0
    assert estimate.peak_bytes == record.short.breakdown.peak_bytes
    assert estimate.peak_phase == record.short.breakdown.peak_phase
    assert sum(estimate.categories.values()) == estimate.peak_bytes
    phases = by_phase(record, result.memory)
    assert {"forward", "backward", "clip", "optimizer"} <= {part.phase for part in phases}
    assert [part.held.error for part in phases] == [0.0] * len(phases)
    assert (estimate.reserved_bytes, estimate.device_bytes, estimate.gpu) == (None, None, None)
    assert estimate.there_bytes is not None and estimate.there_bytes > 2**28
    return estimate


@pytest.mark.parametrize(
    ("architecture", "method"),
    [("distilbert", "full"), ("bert", "lora"), ("t5", "lst"), ("llama-lm", "lora"), ("roberta", "bitfit")],
)
def test_it_is_what_the_ledger_counts(models: Path, architecture: str, method: str) -> None:
    estimate = check(spec_of(models, architecture, method, short__estimate=True))
    assert estimate.standing == {"tensors": "exact"} and not estimate.assumptions


def test_what_a_library_s_source_says_is_not_called_exact(models: Path) -> None:
    spec = spec_of(models, "bert", "lora", model__quantization="nf4", short__estimate=True)
    found = estimate_own_run(replace(own(models), kind="cpu", spec=spec))
    assert found.problem is None and found.standing == {"tensors": "assumed"}, "there is no batch yet"
    estimate = estimate_run(spec, known_data(spec.data, source="a suite"), "cpu", source="a suite")
    recorded = _recorded(replace(own(models), kind="cpu", spec=spec), estimate, PoolHere(), ())
    assert recorded.standing == {"tensors": "by formula"}
    supposed = _recorded(replace(own(models), kind="cuda"), estimate, PoolHere(kernels_known=False), ())
    assert supposed.standing == {"tensors": "assumed"}


SETTINGS: dict[str, dict[str, Any]] = {
    "without padding": {"data__max_length": 4},
    "several labels": {"data__path": "labels", "data__name": None},
    "numbers": {"data__path": "numbers", "data__name": None, "data__task": "regression"},
    "with a tokenizer of its own": {"model__name": "peprof/tiny", "model__weights": "pretrained"},
    "under autocast": {"train__autocast": "bfloat16"},
    "in parts": {"train__gradient_accumulation_steps": 2},
    "fewer rows than a batch": {"data__train_rows": 3},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_takes_the_batch_from_the_data(models: Path, tmp_path: Path, setting: str) -> None:
    changes = dict(SETTINGS[setting])
    if changes.get("data__path") is not None:
        label = str if changes["data__path"] == "labels" else (lambda number: f"{number}.5")
        lines = [f"a film of some kind\t{label(number % 5)}" for number in range(20)]
        for split in ("train", "validation"):
            (tmp_path / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
        changes["data__path"] = str(tmp_path)
    estimate = check(spec_of(models, "distilbert", "lora", short__estimate=True, **changes))
    assert estimate.standing == {"tensors": "exact"}


def test_padding_decides_what_attention_needs(models: Path) -> None:
    """Both are what their runs measured, and they differ by more than their lengths."""
    short = {name: check(spec_of(models, "distilbert", "full", short__estimate=True, data__max_length=length))
             for name, length in (("unpadded", 4), ("padded", 24))}  # fmt: skip
    assert not any(estimate.assumptions for estimate in short.values())


def test_nobody_who_did_not_ask_has_one(models: Path) -> None:
    assert run(spec_of(models, "distilbert", "lora")).record.estimate is None


def own(models: Path, **values: Any) -> OwnRun:
    spec = spec_of(models, "distilbert", "lora", train__batch_size=32)
    return OwnRun(**{"spec": spec, "source": "a suite", "kind": "cuda", **values})


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG",
                 "CUBLASLT_WORKSPACE_SIZE", "TORCH_CUBLASLT_UNIFIED_WORKSPACE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch


def test_of_a_known_gpu_the_pool_is_simulated(models: Path, bare: pytest.MonkeyPatch) -> None:
    found = estimate_own_run(own(models, device_name="NVIDIA H100 80GB HBM3", memory_bytes=80 * 2**30))
    gpu = memory_of("H100")
    spec = own(models).spec
    known = known_data(spec.data, source="a suite")
    same = estimate_run(spec, known, "cuda", source="a suite", gpu=gpu)
    assert (found.gpu, found.kind, found.there_bytes) == ("H100", "cuda", 80 * 2**30)
    assert (found.peak_bytes, found.reserved_bytes) == (same.peak_bytes, same.reserved_bytes)
    assert found.reserved_bytes is not None and found.device_bytes is not None
    assert found.device_bytes - found.reserved_bytes == gpu.context.nbytes
    assert found.assumptions == (SUPPOSED_PADDING, UNTOLD["efficient"])
    assert found.standing == dict.fromkeys(("tensors", "reserved_bytes", "device_bytes"), "assumed")


def test_the_environment_sets_the_pool_up(models: Path, bare: pytest.MonkeyPatch) -> None:
    def reserved() -> int:
        found = estimate_own_run(own(models, device_name="NVIDIA H100 80GB HBM3"))
        assert found.reserved_bytes is not None
        return found.reserved_bytes

    bare.setenv("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "1")  # as torch 2.13 has it of its own
    before = reserved()
    bare.setenv("CUBLAS_WORKSPACE_CONFIG", ":8192:16")  # twice 128 MiB instead of Hopper's 32
    assert reserved() - before == 2 * 96 * 2**20
    bare.delenv("CUBLAS_WORKSPACE_CONFIG")
    bare.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # The workspaces are the only large blocks: 32 MiB each for itself, or four pages of 20 MiB for both.
    assert reserved() - before == 16 * 2**20
    bare.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:False")
    assert reserved() - before == 16 * 2**20, "torch asks for CUDA's own variable first"
    bare.delenv("PYTORCH_ALLOC_CONF")
    bare.delenv("PYTORCH_CUDA_ALLOC_CONF")
    bare.setenv("TORCH_CUBLASLT_UNIFIED_WORKSPACE", "0")
    bare.setenv("CUBLASLT_WORKSPACE_SIZE", "16384")  # 16 MiB, for itself
    assert reserved() - before == 16 * 2**20


def test_an_allocator_that_is_not_torchs_own_is_not_simulated(models: Path, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync")
    found = estimate_own_run(own(models, device_name="NVIDIA H100 80GB HBM3"))
    assert found.peak_bytes is not None
    assert (found.reserved_bytes, found.device_bytes) == (None, None)
    assert set(found.standing) == {"tensors"}
    assert any("isn't simulated" in text for text in found.assumptions)


def test_a_limit_of_the_process_is_said_not_to_be_simulated(models: Path, bare: pytest.MonkeyPatch) -> None:
    plain = estimate_own_run(own(models, device_name="NVIDIA H100 80GB HBM3"))
    bare.setenv("PYTORCH_CUDA_ALLOC_CONF", "per_process_memory_fraction:0.5")
    found = estimate_own_run(own(models, device_name="NVIDIA H100 80GB HBM3"))
    assert found.reserved_bytes == plain.reserved_bytes is not None
    assert set(found.assumptions) - set(plain.assumptions) == {
        "room for all in the pool, though per_process_memory_fraction:0.5 limits it"
    }


def test_of_an_unknown_gpu_tensors_alone_are_told(models: Path, bare: pytest.MonkeyPatch) -> None:
    found = estimate_own_run(own(models, device_name="NVIDIA Fake 100"))
    assert found.peak_bytes is not None and found.gpu is None
    assert (found.reserved_bytes, found.device_bytes) == (None, None)
    assert "attention's kernels as on an Ampere, as NVIDIA Fake 100 isn't known" in found.assumptions
    assert found.standing == {"tensors": "assumed"}, "so are the kernels of attention"


def test_what_the_process_has_decides_on_attention_s_kernels(bare: pytest.MonkeyPatch) -> None:
    """Where it uses the device: sdp_utils.cpp prefers cuDNN above 9.15.0 alone, and on Hopper."""
    call = AttentionCall(dtype="bfloat16", batch=2, heads=4, queries=40, keys=40, head_dim=64)
    h100 = "NVIDIA H100 80GB HBM3"
    assert pool_here("cuda", h100).kernels.chosen(call) == "cudnn"  # what torch's wheels come with
    bare.setattr(torch.version, "cuda", "12.6")
    bare.setattr(torch.backends.cudnn, "version", lambda: 91_002)
    old = pool_here("cuda", h100)
    assert old.gpu is not None and old.kernels == old.gpu.kernels
    assert old.kernels == GpuKernels(capability=(9, 0), cudnn_version=91_002)
    assert old.kernels.chosen(call) == "flash"
    bare.setattr(torch.backends.cudnn, "version", lambda: None)
    assert pool_here("cuda", h100).kernels.chosen(call) == "flash"


def test_an_unknown_gpu_says_its_capability_to_a_process_that_uses_it(bare: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def capability() -> tuple[int, int]:
        asked.append(1)
        return (9, 0)

    bare.setattr(torch.cuda, "get_device_capability", capability)
    elsewhere = pool_here("cuda", "NVIDIA Fake 100")
    assert (elsewhere.kernels.capability, elsewhere.kernels_known, asked) == ((8, 0), False, [])
    bare.setattr(torch.cuda, "is_initialized", lambda: True)
    here = pool_here("cuda", "NVIDIA Fake 100")
    assert (here.kernels.capability, here.kernels_known, here.assumptions) == ((9, 0), True, ())
    assert (here.gpu, here.settings) == (None, None)


def test_the_kernels_of_the_process_reach_its_own_estimate(models: Path, bare: pytest.MonkeyPatch) -> None:
    """In 16 bits with a mask on an H200 cuDNN is taken where it is new enough, and the efficient one else."""
    taken: list[str] = []
    real = GpuKernels.chosen

    def chosen(self: GpuKernels, call: AttentionCall) -> str:
        taken.append(kernel := real(self, call))
        return kernel

    bare.setattr(GpuKernels, "chosen", chosen)
    bare.setattr(torch.version, "cuda", "12.6")
    spec = spec_of(models, "llama-lm", "lora", model__dtype="bfloat16", train__batch_size=2)
    for version, expected in ((91_002, "efficient"), (91_501, "cudnn")):
        bare.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        found = estimate_own_run(OwnRun(spec=spec, source="a suite", kind="cuda", device_name="NVIDIA H200"))
        assert found.problem is None and set(taken) == {expected}
        taken.clear()


def test_what_can_not_be_told_is_said(models: Path) -> None:
    spec = spec_of(models, "llama-lm", "bitfit", method__options={"add_missing": False})
    found = estimate_own_run(OwnRun(spec=spec, source="a suite", kind="cpu", memory_bytes=7))
    assert found.peak_bytes is None and found.problem is not None and "no bias terms" in found.problem
    assert (found.there_bytes, found.standing) == (7, {})
    unknown = spec_of(models, "distilbert", "lora", model__name="some/where", model__weights="random")
    missing = estimate_own_run(OwnRun(spec=unknown, source="a suite", kind="cpu"))
    assert missing.problem is not None and "geometry of 'some/where' isn't known" in missing.problem


def test_parts_of_which_some_have_padding_are_said(models: Path) -> None:
    """Where each part is one example, and some are as long as the longest length."""
    spec = spec_of(
        models, "distilbert", "lora", short__estimate=True, data__max_length=14,
        train__gradient_accumulation_steps=4,
    )  # fmt: skip
    estimate = run(spec).record.estimate
    assert estimate is not None and estimate.problem is None
    assert estimate.assumptions == (UNEVEN_PADDING,) and estimate.standing == {"tensors": "assumed"}
