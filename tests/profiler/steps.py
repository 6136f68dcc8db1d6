"""Small training steps whose cost can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from peprof.devices import Mark, no_mark


class MlpStep:
    """Linear - ReLU - Linear - mean of squares, with SGD or AdamW."""

    def __init__(self, width_in: int, width: int, width_out: int, *, adam: bool) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width_out))
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters) if adam else torch.optim.SGD(parameters, lr=0.1)
        self.calls = 0

    def __call__(self, batch: torch.Tensor, mark: Mark = no_mark) -> None:
        self.calls += 1
        mark("forward")
        loss = self.model(batch).square().mean()
        mark("backward")
        loss.backward()
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        mark(None)

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        yield from self.model.parameters()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))
