"""One seed, one sequence of losses, for every method; and what is set on a GPU to get there is set back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from peprof.devices import CpuDevice, open_device
from peprof.devices.cuda_determinism import deterministic, repeatable, settle_cublas
from peprof.suite.schema import TrainConfig
from peprof.training.step import ClassifierStep
from peprof.training.trainer import Trainer
from tests.methods.test_every_method_trains import CASES, Case
from tests.training.test_checkpoints import DATA, built

CONFIG = TrainConfig(batch_size=4, epochs=1, max_steps=4, learning_rate=3e-3, warmup_fraction=0.0)
VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def losses(case: Case, seed: int) -> list[float]:
    """Of a training with dropout; the model is built in the same way each time."""
    step, _ = built(case, CONFIG)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return Trainer(step, CONFIG, CpuDevice(), seed=seed).train(DATA, DATA).loss


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_seed_gives_the_same_losses_and_another_seed_does_not(case: Case) -> None:
    first = losses(case, 3)
    assert len(first) == 4
    assert losses(case, 3) == first
    assert losses(case, 4) != first


def test_what_makes_a_gpu_deterministic_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    with pytest.raises(ZeroDivisionError), deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert VARIABLE not in os.environ, "torch 2.11 would tell cuBLAS of memory that it hasn't got"
        with repeatable():
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        _ = 1 / 0
    assert VARIABLE not in os.environ
    assert before == (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )


def test_a_users_own_setting_of_cublas_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ":4096:8")
    seen: list[str | None] = []
    product = torch.mm

    def mm(*tensors: torch.Tensor) -> torch.Tensor:
        seen.append(os.environ.get(VARIABLE))
        return product(*tensors)

    monkeypatch.setattr(torch, "mm", mm)
    settle_cublas(SimpleNamespace(device=nullcontext, current_blas_handle=list), torch.device("cpu"))
    assert seen == [":4096:8"] and os.environ[VARIABLE] == ":4096:8"


def test_cublas_gets_its_usual_memory_before_torch_looks_at_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    seen: list[tuple[str, str | None]] = []

    class Cuda:
        def device(self, device: torch.device) -> torch.device:
            return device  # a context that makes it the current one

        def current_blas_handle(self) -> None:
            seen.append(("memory", os.environ.get(VARIABLE)))

    product = torch.mm

    def mm(*tensors: torch.Tensor) -> torch.Tensor:
        seen.append(("first product", os.environ.get(VARIABLE)))
        return product(*tensors)

    monkeypatch.setattr(torch, "mm", mm)
    settle_cublas(Cuda(), torch.device("cpu"))
    assert seen == [("memory", None), ("first product", ":16:8")]
    assert VARIABLE not in os.environ


def repeat_on_a_gpu() -> None:
    """Two trainings of one seed, attention's kernels included; in a process in which nothing was done yet."""
    device = open_device("cuda")
    device.get_ready()
    case = next(case for case in CASES if case.name == "full")
    runs = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            step, _ = built(case, CONFIG)
            step = ClassifierStep(step.model.cuda(), torch.optim.AdamW(step.model.parameters(), lr=3e-3))
            step.around = device.repeatable
            torch.manual_seed(3)
            with device.deterministic():
                runs.append(Trainer(step, CONFIG, device, seed=3).train(DATA, DATA).loss)
    assert runs[0] == runs[1]
    assert not [one for one in said if "deterministic" in str(one.message).lower()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_repeats_itself_and_nothing_warns_of_what_isnt_deterministic() -> None:
    """torch asks for cuBLAS's setting at a process's first product: here others have done one."""
    code = "from tests.training.test_determinism import repeat_on_a_gpu as repeat; repeat()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
