"""A transformer written out by hand, whose memory can be worked out by hand as well."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from peprof.devices import Mark, no_mark


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # A number would do, if autograd didn't keep it in a tensor that only the allocator sees.
        self.register_buffer("scale", torch.tensor(1 / math.sqrt(width // heads)))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, width) -> the same."""

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        scores = split(self.query(x) * self.scale) @ split(self.key(x)).transpose(-2, -1)
        return self.out((scores.softmax(-1) @ split(self.value(x))).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, feedforward), nn.Linear(feedforward, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def stack(blocks: int, width: int, heads: int, feedforward: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(width, heads, feedforward) for _ in range(blocks)))


class SumStep:
    """Trains a model to have a small sum, whose gradient is one; gradients are dropped at the end.

    The sum itself isn't made: its gradient would be one number that stands for all, copied inside operators.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def __call__(self, batch: Tensor, mark: Mark = no_mark) -> None:
        mark("forward")
        out = self.model(batch)
        mark("backward")
        out.backward(torch.ones_like(out))
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        mark(None)

    def resident_tensors(self) -> list[Tensor]:
        state = [v for values in self.optimizer.state.values() for v in values.values()]
        return [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, state)]
