"""The modules of a ladder: a frozen backbone, and beside it a narrow network that reads its hidden states.

Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling


class Fusion(Protocol):
    """How the side network's state and the backbone's states become the input of a side layer."""

    def __call__(self, index: int, side: Tensor, states: Sequence[Tensor]) -> Tensor:
        """The input of side layer ``index``.

        Args:
            index: of the side layer, from 0.
            side: output of the side layer before, (batch, length, side_width).
            states: every backbone layer's output, downsampled: (batch, length, side_width) each.

        Returns:
            (batch, length, side_width)
        """
        ...


class StaticFusion(nn.Module):
    """x_i = mu_i * s_(i-1) + (1 - mu_i) * down_i(h_i), where mu_i = sigmoid(alpha_i / temperature).

    Every alpha_i is 0 at first, so that both streams weigh the same.

    Args:
        side_layers: how many gates there are.
        temperature: the smaller, the faster a gate moves with its alpha.
    """

    def __init__(self, side_layers: int, temperature: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(side_layers))
        self.temperature = temperature

    def forward(self, index: int, side: Tensor, states: Sequence[Tensor]) -> Tensor:
        """Mix the two streams; see ``Fusion`` for arguments and shapes."""
        state = states[index]
        mu = torch.sigmoid(self.alpha[index] / self.temperature)
        return state + mu * (side - state)  # saves one tensor for backward; mu * s + (1 - mu) * d saves two


@dataclass
class _Heard:
    """What was heard of one pass through the backbone.

    Args:
        first: the embeddings, downsampled: (batch, length, side_width).
        states: each layer's output, downsampled.
        arguments: what each layer was given after its input by position: the attention mask.
        options: what each layer was given by name.
    """

    first: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


class Ladder(nn.Module):
    """Takes the place of the encoder in a sequence classifier, whose own head and loss follow it.

    The backbone runs as it would alone, dropout included, but without gradient; its layers are listened to.
    Each side layer is then given what the backbone's layers were given, so the padding mask is the one that
    the backbone itself built for its attention implementation.

    Of the backbone, only the embeddings and the outputs of its layers are kept for backward, as inputs of
    trained downsampling, and nothing else; without gradient (evaluation) not even these.

    Args:
        backbone: the encoder; its pooler, if any, is taken over, as it belongs to the head.
        layers_path: of its list of layers, below ``backbone``.
        side_layers: as many, of the side width.
        fusion: what each side layer gets.
        width: of the backbone's hidden states.
        side_width: of the side network's.
        head_reads_first: the head reads the first position only, so that the others needn't be upsampled.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layers_path: str,
        side_layers: Sequence[nn.Module],
        fusion: nn.Module,
        width: int,
        side_width: int,
        head_reads_first: bool,
    ) -> None:
        super().__init__()
        self.pooler: nn.Module | None = getattr(backbone, "pooler", None)
        if self.pooler is not None:
            backbone.pooler = None  # type: ignore[assignment]  # nn.Module's annotation doesn't know None
        self.backbone = backbone
        self.layers_path = layers_path
        self.down_first = nn.Linear(width, side_width)
        self.down = nn.ModuleList(nn.Linear(width, side_width) for _ in side_layers)
        self.fusion = fusion
        self.side_layers = nn.ModuleList(side_layers)
        self.up = nn.Linear(side_width, width)
        self.head_reads_first = head_reads_first

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Run backbone and ladder.

        Args:
            args: as the backbone takes them.
            kwargs: as the backbone takes them; none is recorded into the result.

        Returns:
            ``last_hidden_state``: (batch, length, width), or (batch, 1, width) where the head reads only
            the first position; ``pooler_output``: (batch, width) if the architecture has a pooler.
        """
        heard = _Heard()
        with self._listen(heard, with_grad=torch.is_grad_enabled()), torch.no_grad():
            self.backbone(*args, **kwargs)
        side = heard.first
        assert side is not None
        for index, layer in enumerate(self.side_layers):
            side = _state(layer(self.fusion(index, side, heard.states), *heard.arguments, **heard.options))
        if self.head_reads_first:
            side = side[:, :1]
        hidden = self.up(side)
        pooled = None if self.pooler is None else self.pooler(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)

    @contextmanager
    def _listen(self, heard: _Heard, *, with_grad: bool) -> Iterator[None]:
        """Downsample each hidden state as it is made, so that the wide one isn't kept without need."""

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            with torch.set_grad_enabled(with_grad):
                heard.first = self.down_first(args[0])
            heard.arguments, heard.options = args[1:], kwargs

        def leave(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            with torch.set_grad_enabled(with_grad):
                heard.states.append(self.down[len(heard.states)](_state(output)))

        layers = cast(nn.ModuleList, self.backbone.get_submodule(self.layers_path))
        handles = [layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [layer.register_forward_hook(leave) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _state(output: Any) -> Tensor:
    """A layer's hidden states: some classes return them alone, some as the first of a tuple."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state
