"""A real GPU's memory as a border: what fits is within, one more runs out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
MEMORY = 2 * 2**30

STEPS = """
import json, sys
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

size, memory = map(int, sys.argv[1:])
total = torch.cuda.mem_get_info(0)[1]
torch.cuda.set_per_process_memory_fraction(memory / total, 0)
model = DistilBertForSequenceClassification(DistilBertConfig()).to("cuda")
optimizer = torch.optim.AdamW(model.parameters())
inputs = {
    "input_ids": torch.randint(1000, 20000, (size, 128), device="cuda"),
    "attention_mask": torch.tril(torch.ones(size, 128, dtype=torch.int64, device="cuda"), 100),
    "labels": torch.zeros(size, dtype=torch.int64, device="cuda"),
}
try:
    for _ in range(2):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
except torch.OutOfMemoryError:
    print(json.dumps(None))
else:
    print(json.dumps(torch.cuda.max_memory_reserved()))
"""
"""The same training without peprof, or nearly: what it reserves, or nothing where it runs out."""


def reserved_without_peprof(size: int) -> int | None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(size), str(MEMORY)],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    found: int | None = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_fits_is_within_and_one_more_runs_out() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "peprof", "fit", "--model", "distilbert-base", "--method", "full",
         "--length", "128", "--largest", "batch", "--device", "cuda", "--memory", "2GiB", "--format", "json"],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)
    border: dict[str, Any] = next(one for one in row["tries"] if one["size"] == row["largest"])
    beyond: dict[str, Any] = next(one for one in row["tries"] if one["size"] == row["largest"] + 1)
    assert row["verified"] and row["device"] == "cuda:0" and row["memory_bytes"] == MEMORY
    assert border["ended"] == "fits" and 0.7 * MEMORY < border["peak_bytes"] <= border["reserved_bytes"]
    assert border["reserved_bytes"] <= MEMORY
    assert beyond["ended"] == "oom" and beyond["peak_bytes"] is None
    assert row["tried"] <= 12
    # Without peprof the border is about there: other masks, and gradients aren't clipped.
    few, many = round(0.8 * row["largest"]), round(1.25 * row["largest"]) + 1
    reserved = reserved_without_peprof(few)
    assert reserved is not None and reserved <= MEMORY
    assert reserved_without_peprof(many) is None
