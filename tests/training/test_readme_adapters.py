"""README's lines on keeping what was trained, run as they stand; the peft library reads what they write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from tests.methods.method_geometries import batch, tiny

README = Path(__file__).parents[2] / "README.md"
TRAINING = "...  # train it\n"
SCATTER = """
import torch
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
"""


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch("bert")).logits
    return found


def test_the_lines_run_and_the_library_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    found = re.search(r"<!-- keep -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None and TRAINING in found[1]
    tiny("bert").save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(found[1].replace(TRAINING, SCATTER), names)

    plain = AutoModelForSequenceClassification.from_pretrained("backbone")
    theirs = peft.PeftModel.from_pretrained(plain, "adapter/peft")
    wanted = logits(names["model"])
    for model in (names["again"], names["also"], theirs):
        torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=1e-5)
    untouched = AutoModelForSequenceClassification.from_pretrained("backbone")
    assert (logits(untouched) - wanted).abs().max() > 0.05
