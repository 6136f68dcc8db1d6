"""A method of another distribution that goes wrong in every way there is, at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


class FaultyModel(nn.Module):
    """Passes on to the model, and goes wrong in its n-th forward pass in training, on real data."""

    def __init__(self, model: nn.Module, how: str, step: int, above: int) -> None:
        super().__init__()
        self.model, self.how, self.steps_left, self.above = model, how, step, above
        self.then = how.removeprefix("oom-then-") if how.startswith("oom-then-") else None
        if self.then is not None:
            self.how = "oom"

    def forward(self, **inputs: torch.Tensor) -> Any:
        if self.training:
            self.steps_left -= 1
        output = self.model(**inputs)
        if len(inputs["labels"]) <= self.above or inputs["labels"].is_meta:
            return output
        if self.steps_left < 0 and self.training and self.then is not None:
            output.loss = go_wrong(self.then, output.loss)
        if self.steps_left == 0 and self.training:
            output.loss = go_wrong(self.how, output.loss)
        return output


def go_wrong(how: str, loss: torch.Tensor) -> torch.Tensor:
    if how == "nan":
        return loss * float("nan")
    if how == "raise":
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")
    if how == "oom":
        torch.empty(2**55, dtype=torch.uint8)
    if how == "exit":
        print("these are my last words", flush=True)
        sys.stderr.flush()
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(3600)
    return loss


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Goes wrong.

    Args:
        how: in which way.
        step: in which training step, counted from 1; 0 is in ``apply``.
        above: only where a batch has more examples than this.
    """

    how: Literal["ok", "nan", "raise", "oom", "exit", "kill", "hang", "oom-then-kill", "oom-then-hang"] = "ok"
    step: int = 1
    above: int = 0

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ValueError(f"step={self.step}: expected 0 or more")

    def apply(self, model: nn.Module) -> nn.Module:
        if self.step == 0:
            go_wrong(self.how, torch.zeros(()))
        return FaultyModel(model, self.how, self.step, self.above)
