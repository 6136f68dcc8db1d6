"""Each built-in method's peaks against the counters of a real GPU; without one, that the steps run at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peprof_methods.errors import UnsupportedModelError

from benchmarks.gpu_pools import METHODS, SETTINGS, Setting, check_method, profile_method

ROOT = Path(__file__).parents[2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_every_byte_of_both_peaks_has_an_owner(method: str, setting: Setting) -> None:
    device = torch.device("cuda", 0)
    try:
        found = profile_method(method, device, setting)
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    assert found.pool is not None and found.pool.unmatched_storages == 0
    for moment in (found.pool.requested, found.pool.allocated):
        assert moment.residual_bytes == 0
        assert sum(moment.categories.values()) == moment.total_bytes
    assert found.pool.requested.total_bytes >= found.peak_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_step_that_runs_out_says_where() -> None:
    from peprof import profile_step
    from peprof.profiler.errors import StepOutOfMemoryError

    model = torch.nn.Linear(1024, 1024, device="cuda")

    def step(batch: torch.Tensor) -> None:
        hidden = model(batch)
        hidden.repeat(2**14, 2**14).sum().backward()

    with pytest.raises(StepOutOfMemoryError) as raised:
        profile_step(model, torch.randn(64, 1024, device="cuda"), step, warmup_steps=0)
    ran_out = raised.value.profile.ran_out
    assert ran_out is not None and ran_out.phase == "forward" and ran_out.module is None
    assert ran_out.requested_bytes == pytest.approx(4 * 64 * 1024 * 2**28, rel=0.01)
    assert ran_out.live.categories["parameters.trainable"] == 4 * (1024 * 1024 + 1024)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_without_a_gpu_the_steps_run_but_there_is_no_pool_to_be_equal_to(method: str) -> None:
    found = check_method(method, torch.device("cpu"), SETTINGS[0])
    assert found["pool"] is None and found["equal"] is False
    assert sum(found["ledger_categories"].values()) == found["ledger_peak_bytes"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_check_refuses_where_there_is_no_gpu(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py", "--output", str(output)],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().endswith("there is no CUDA device here: nothing was measured")
    assert not output.exists()
