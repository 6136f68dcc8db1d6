"""How the side network's stream and what it reads of the backbone become the input of a side layer.

``static`` is Ladder Side-Tuning's own (Sung, Cho, Bansal 2022, arXiv:2206.06522), the others are variants.
Shapes: batch, length, side_width; s is the output of the side layer before, d_i the downsampled output of
the backbone layer that feeds side layer i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FusionName = Literal["static", "dynamic", "attention", "window"]


class Fusion(nn.Module):
    """One way to fuse, for all side layers of a ladder."""

    def prepare(self, states: Sequence[Tensor], real: Tensor | None) -> list[Any]:
        """What each side layer reads, from what was heard of the backbone.

        Args:
            states: d_i of each side layer, (batch, length, side_width).
            real: (batch, length), not 0 where there is a token and not padding; ``None`` where all are real.
        """
        return list(states)

    def forward(self, index: int, side: Tensor, read: Any) -> Tensor:
        """The input of side layer ``index``.

        Args:
            index: of the side layer, from 0.
            side: s, (batch, length, side_width).
            read: what ``prepare`` made for this layer.

        Returns:
            (batch, length, side_width)
        """
        raise NotImplementedError


class StaticFusion(Fusion):
    """x_i = mu_i s + (1 - mu_i) d_i, where mu_i = sigmoid(alpha_i / temperature).

    Every alpha_i is 0 at first, so that both streams weigh the same. As in the authors' code there is one for
    each backbone layer, used or not.

    Args:
        gates: how many alphas there are.
        gate_of: which of them each side layer uses.
        temperature: the smaller, the faster a gate moves with its alpha.
    """

    def __init__(self, gates: int, gate_of: Sequence[int], temperature: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(gates))
        self.gate_of = tuple(gate_of)
        self.temperature = temperature

    def forward(self, index: int, side: Tensor, read: Tensor) -> Tensor:
        """Mix the two streams; see ``Fusion`` for arguments and shapes."""
        mu = torch.sigmoid(self.alpha[self.gate_of[index]] / self.temperature)
        return _mix(mu, side, read)


class DynamicFusion(Fusion):
    """x_i = g s + (1 - g) d_i, where g = sigmoid(linear_i(mean of d_i over the real positions)).

    There is one g an example. Where a position may not know of later ones, the mean at each goes up to that
    one only, and each has its own g: a mean over all would tell a language model the words that it is to
    predict.

    Args:
        side_layers: how many there are.
        side_width: of their inputs.
        causal: a position may not know of later ones.
    """

    def __init__(self, side_layers: int, side_width: int, *, causal: bool) -> None:
        super().__init__()
        self.gate = nn.ModuleList(nn.Linear(side_width, 1) for _ in range(side_layers))
        self.causal = causal

    def prepare(self, states: Sequence[Tensor], real: Tensor | None) -> list[Any]:
        """Each state with the weights of its positions, (batch, length, 1), the same for all of them."""
        counts = torch.ones_like(states[0][..., :1]) if real is None else (_checked(real) != 0)[..., None]
        counts = counts.to(states[0].dtype)
        return [(state, counts) for state in states]

    def forward(self, index: int, side: Tensor, read: tuple[Tensor, Tensor]) -> Tensor:
        """Mix the two streams; see ``Fusion`` for arguments and shapes."""
        state, counts = read
        # Sums in float32 at least: bfloat16 counts to 256 only, and float16 ends at 65504.
        wide = torch.promote_types(state.dtype, torch.float32)
        if self.causal:  # the linear of a mean is the mean of the linear: one number a position to sum up
            sums = (self.gate[index](state) * counts).cumsum(1, dtype=wide)
            score = sums / counts.cumsum(1, dtype=wide).clamp(min=1)
        else:
            sums = (state * counts).sum(1, True, dtype=wide)
            score = self.gate[index]((sums / counts.sum(1, True, dtype=wide).clamp(min=1)).to(state.dtype))
        return _mix(torch.sigmoid(score).to(side.dtype), side, state)


class AttentionFusion(Fusion):
    """x_i = s + attention_i(s, d_i): each position of s queries the real positions of d_i, multi-headed.

    Where a position may not know of later ones, it queries those up to its own.

    Args:
        side_layers: how many there are.
        side_width: of their inputs.
        heads: a divisor of ``side_width``.
        dropout: rate on the attention's probabilities.
        causal: a position may not know of later ones.
    """

    def __init__(
        self, side_layers: int, side_width: int, *, heads: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        self.attention = nn.ModuleList(_Projections(side_width) for _ in range(side_layers))
        self.heads = heads
        self.dropout = dropout
        self.causal = causal

    def prepare(self, states: Sequence[Tensor], real: Tensor | None) -> list[Any]:
        """Each state with what is added to its attention scores, the same for all of them."""
        mask = None
        if real is not None:
            seen = (_checked(real) != 0)[:, None, None, :]
            if self.causal:
                length = seen.shape[-1]
                earlier = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
                # Itself, too: padding before the first token would otherwise see nothing, and become nan.
                seen = (seen & earlier) | torch.eye(length, dtype=torch.bool, device=seen.device)
            mask = torch.zeros_like(seen, dtype=states[0].dtype).masked_fill_(~seen, -math.inf)
        return [(state, mask) for state in states]

    def forward(self, index: int, side: Tensor, read: tuple[Tensor, Tensor | None]) -> Tensor:
        """Attend, and add to ``side``; see ``Fusion`` for arguments and shapes."""
        state, mask = read
        ask = cast(_Projections, self.attention[index])
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (ask.query(side), ask.key(state), ask.value(state))
        )
        found = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and mask is None,
        )
        output: Tensor = side + ask.output(found.transpose(1, 2).flatten(-2))
        return output


class WindowFusion(Fusion):
    """k-LST: x_i = s + attention_i(s, w_i), where w_i are the k states around d_i, from layer to layer.

    Side layer i looks at the backbone from i - k//2 to i + k//2: at each position s queries the k states of
    that same position, so that padding can't matter. Above the last and below the first layer the states are
    0. To each of the k a trained embedding of its place in the window is added.

    "A window of k backbone states, zero-padded at the ends" could also mean k positions of one layer. It is
    read as layers, since a ladder's states h_1, h_2 ... are those of layers, as in all its other options; the
    ends of a stack of layers need something to stand for what isn't there, while the ends of a sequence have
    padding and a mask for it; and a window of positions would be ``attention`` that sees less, where more
    states were published to give more (93.2, 94.0 and 95.1 % on SST-2 for LST, k = 5 and k = 9). Published
    memory doesn't decide it: either way each side state queries k keys and values of its own width.

    Args:
        side_layers: how many there are.
        side_width: of their inputs.
        window: k, odd.
        heads: a divisor of ``side_width``.
        dropout: rate on the attention's probabilities.
    """

    def __init__(self, side_layers: int, side_width: int, *, window: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.ModuleList(_Projections(side_width) for _ in range(side_layers))
        self.position = nn.ParameterList(
            nn.Parameter(0.02 * torch.randn(window, side_width)) for _ in range(side_layers)
        )
        self.window = window
        self.heads = heads
        self.dropout = dropout

    def prepare(self, states: Sequence[Tensor], real: Tensor | None) -> list[Any]:
        """Windows into one stack of all states, (window, batch, length, side_width) each."""
        nothing = [torch.zeros_like(states[0])] * (self.window // 2)
        stack = torch.stack([*nothing, *states, *nothing])  # the layer comes first: a window is no copy
        return [stack[index : index + self.window] for index in range(len(states))]

    def forward(self, index: int, side: Tensor, read: Tensor) -> Tensor:
        """Attend, and add to ``side``; see ``Fusion`` for arguments and shapes."""
        ask = cast(_Projections, self.attention[index])
        # A projection of w + p is made as that of w, plus that of p: the sum w + p needn't be kept then.
        key, value = (
            (F.linear(read, linear.weight) + linear(self.position[index])[:, None, None, :]).unflatten(
                -1, (self.heads, -1)
            )
            for linear in (ask.key, ask.value)
        )  # (window, batch, length, heads, head_width)
        query = ask.query(side).unflatten(-1, (self.heads, -1))
        # One query for k keys: products summed by hand keep no more than these, and no layout is copied.
        score = (query * key).sum(-1) / math.sqrt(query.shape[-1])
        weight = F.dropout(score.softmax(0), self.dropout, self.training)
        found = (weight[..., None] * value).sum(0)
        output: Tensor = side + ask.output(found.flatten(-2))
        return output


class _Projections(nn.Module):
    """The four projections of an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)


def _mix(gate: Tensor, side: Tensor, state: Tensor) -> Tensor:
    """gate * side + (1 - gate) * state, so that one tensor is kept for backward and not two."""
    return state + gate * (side - state)


def _checked(real: Tensor) -> Tensor:
    if real.dim() != 2:
        raise ValueError(
            f"attention_mask has the shape {tuple(real.shape)}: expected (batch, length) for this fusion"
        )
    return real
