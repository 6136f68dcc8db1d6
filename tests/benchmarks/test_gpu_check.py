"""The check of all that needs a GPU: what one part finds stays, whatever becomes of the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import main, run_child


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA Fake 100")


def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *parts: str) -> tuple[int, dict[str, Any]]:
    options = [word for part in parts for word in ("--part", part)]
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path), *options])
    code = main()
    return code, json.loads((tmp_path / "gpu_check.json").read_text())


@pytest.mark.usefixtures("with_a_gpu")
def test_a_part_that_fails_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(output: Path, seconds: float) -> dict[str, Any]:
        raise RuntimeError("no luck")

    parts = {"pools": broken, "clocks": lambda output, seconds: {"passed": seconds == 500}}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    code, report = check(monkeypatch, tmp_path)
    assert code == 1 and report["device"] == "NVIDIA Fake 100"
    assert report["pools"] == {"error": "RuntimeError: no luck", "passed": False}
    assert report["clocks"] == {"passed": True}
    monkeypatch.setitem(parts, "pools", lambda output, seconds: {"passed": True, "found": 7})
    code, report = check(monkeypatch, tmp_path, "pools")
    assert code == 0 and report["pools"]["found"] == 7 and report["clocks"] == {"passed": True}


def test_a_child_that_is_too_slow_leaves_what_it_has_said() -> None:
    code = "import time; print('begun', flush=True); time.sleep(60)"
    found = run_child(["-c", code], 1.5)
    assert found["exit_code"] is None and "begun" in found["output"] and "1.5 s" in found["error"]
    assert run_child(["-c", "print(1); raise SystemExit(3)"], 60)["exit_code"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path / "out")])
    assert main() == 1 and not (tmp_path / "out").exists()
    assert "no CUDA device" in capsys.readouterr().err
