"""The comparison of many predicted steps with measured ones, on a processor, where both must be equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu_estimates
from benchmarks.gpu_estimates import DTYPES, METHODS, MODELS, main, suite_of
from peprof.suite.planning import plan


def test_there_are_at_least_sixty_cases_of_four_models() -> None:
    planned = {name: plan(suite_of(name, model).suite, device="cuda") for name, model in MODELS.items()}
    assert sum(map(len, planned.values())) == 4 * len(METHODS) * len(DTYPES) * 2 == 80
    assert all(spec.short.estimate and spec.model.weights == "random" for spec in planned["t5-base"])


@pytest.mark.slow(seconds=25)
def test_on_a_processor_predictions_are_what_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"name": "peprof/tiny", "length": 12, "batches": [2, 4]}
    monkeypatch.setattr(gpu_estimates, "MODELS", {"tiny": tiny})
    monkeypatch.setattr(gpu_estimates, "suite_of", lambda *found: suite_of(*found, methods=["lora"]))
    for _ in range(2):  # the second time from the records
        assert main(["--output", str(tmp_path), "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "estimates.json").read_text())
    assert report["cases"] == 4 and report["torch"]
    assert report["accuracy"]["peak"]["worst"] == 0 and report["accuracy"]["peak"]["runs"] == 4
    assert report["accuracy"]["reserved"] is None, "a processor has no pool"
    assert {row["peak_error"] for row in report["rows"]} == {0.0}
    assert report["rows"][0]["case"] == "peprof/tiny, lora, float32, 2 x 12"
    said = capsys.readouterr().out
    assert "peak: median absolute error 0.00 %" in said and "0.5 and 2 %: met" in said
    assert said.count("| peprof/tiny, lora, bfloat16, 4 x 12 |") == 2
