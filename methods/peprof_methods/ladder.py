"""The modules of a ladder: a frozen backbone, and beside it a narrow network that reads its hidden states.

Ladder Side-Tuning (Sung, Cho, Bansal 2022, arXiv:2206.06522). What is common to all architectures, and the
ladder of an encoder that classifies; see ``ladder_t5.py`` and ``ladder_causal.py`` for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from peprof_methods.ladder_fusions import Fusion


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """The parts of a ladder that every architecture has.

    Args:
        feeds: for each side layer the backbone layers whose outputs feed it, ascending; the mean of several.
        side_layers: of the side width.
        fusion: what each side layer gets.
        width: of the backbone's hidden states.
        side_width: of the side network's.
        downsample_rank: rank of the downsampling of the layers' outputs; ``None`` for full.
        embeddings_to_every_layer: add the downsampled embeddings to the input of each later side layer, too.
    """

    feeds: Sequence[tuple[int, ...]]
    side_layers: Sequence[nn.Module]
    fusion: Fusion
    width: int
    side_width: int
    downsample_rank: int | None = None
    embeddings_to_every_layer: bool = False


@dataclass
class _Heard:
    """What was heard of one pass through the backbone.

    Args:
        first: the embeddings, downsampled: (batch, length, side_width).
        states: for each side layer what feeds it, downsampled.
        calls: for each side layer what the backbone layer that feeds it was called with, as ``keep`` left it.
    """

    first: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)


class Ladder(nn.Module):
    """Takes the place of a stack of layers and of what embeds its input.

    The backbone runs as it would alone, dropout included, but without gradient; the layers that feed a side
    layer are listened to, the others aren't. Each side layer is given what the backbone's layer was given, so
    the padding mask is the one that the backbone itself built for its attention implementation.

    Of the backbone, only the embeddings and the outputs that feed a side layer are kept for backward, as
    inputs of trained downsampling, and nothing else; without gradient (evaluation) not even these.

    Args:
        backbone: with its layers.
        layers_path: of its list of layers, below ``backbone``.
        rungs: what stands beside it.
    """

    def __init__(self, backbone: nn.Module, *, layers_path: str, rungs: Rungs) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers_path = layers_path
        self.feeds = tuple(rungs.feeds)
        self.down_first = nn.Linear(rungs.width, rungs.side_width)
        self.down = nn.ModuleList(
            _downsampling(rungs.width, rungs.side_width, rungs.downsample_rank) for _ in rungs.side_layers
        )
        self.fusion = rungs.fusion
        self.side_layers = nn.ModuleList(rungs.side_layers)
        self.embeddings_to_every_layer = rungs.embeddings_to_every_layer

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's, for whoever asks the model."""
        embeddings: nn.Module = cast(Any, self.backbone).get_input_embeddings()
        return embeddings

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a side layer needs of its backbone layer's arguments, the hidden states not among ``args``."""
        return args, kwargs

    def step(self, layer: nn.Module, x: Tensor, call: Any, carried: Any) -> tuple[Tensor, Any]:
        """Run one side layer.

        Args:
            layer: the side layer.
            x: its input, (batch, length, side_width).
            call: what ``keep`` left of the backbone layer's arguments.
            carried: what ``begin`` or the step before returned.

        Returns:
            Its output, (batch, length, side_width), and what the next step needs of it.
        """
        args, kwargs = call
        return _state(layer(x, *args, **kwargs)), carried

    def begin(self, heard_first: Tensor, calls: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the first step is given as ``carried``."""
        return None

    def climb(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Run backbone and side network.

        Args:
            args: as the backbone takes them.
            kwargs: as the backbone takes them.

        Returns:
            The last side layer's output, (batch, length, side_width), and what the backbone returned.
        """
        heard = _Heard()
        with self._listen(heard, with_grad=torch.is_grad_enabled()), torch.no_grad():
            output = self.backbone(*args, **kwargs)
        first = heard.first
        assert first is not None
        reads = self.fusion.prepare(heard.states, kwargs.get("attention_mask"))
        heard.states.clear()  # so that what a layer has read is gone before the next one runs
        side, carried = first, self.begin(first, heard.calls, kwargs)
        for index, layer in enumerate(self.side_layers):
            x = self.fusion(index, side, reads[index])
            reads[index] = None
            if self.embeddings_to_every_layer and index > 0:
                x = x + first
            side, carried = self.step(layer, x, heard.calls[index], carried)
        return side, output

    @contextmanager
    def _listen(self, heard: _Heard, *, with_grad: bool) -> Iterator[None]:
        """Downsample each hidden state as it is made, so that the wide one isn't kept without need."""
        rung_of = {index: rung for rung, fed_by in enumerate(self.feeds) for index in fed_by}
        total: Tensor | None = None  # of those heard so far of several that feed one side layer

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            state = _fitting(args[0], self.down_first)
            with torch.set_grad_enabled(with_grad):
                heard.first = self.down_first(state)

        def leave_of(index: int) -> Any:
            rung = rung_of[index]
            fed_by = self.feeds[rung]

            def leave(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                nonlocal total
                state = _state(output)
                if len(fed_by) > 1:
                    total = state if total is None else total + state
                    if index != fed_by[-1]:
                        return
                    state, total = total / len(fed_by), None
                state = _fitting(state, self.down[rung])
                with torch.set_grad_enabled(with_grad):
                    heard.states.append(self.down[rung](state))
                heard.calls.append(self.keep(args[1:], kwargs))

            return leave

        layers = cast(nn.ModuleList, self.backbone.get_submodule(self.layers_path))
        handles = [layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [
            layers[index].register_forward_hook(leave_of(index), with_kwargs=True) for index in rung_of
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class EncoderLadder(Ladder):
    """Takes the place of the encoder in a sequence classifier, whose own head and loss follow it.

    Args:
        backbone: the encoder; its pooler, if any, is taken over, as it belongs to the head.
        layers_path: of its list of layers, below ``backbone``.
        rungs: what stands beside it.
        head_reads_first: the head reads the first position only, so that the others needn't be upsampled.
    """

    def __init__(
        self, backbone: nn.Module, *, layers_path: str, rungs: Rungs, head_reads_first: bool
    ) -> None:
        super().__init__(backbone, layers_path=layers_path, rungs=rungs)
        self.pooler: nn.Module | None = getattr(backbone, "pooler", None)
        if self.pooler is not None:
            backbone.pooler = None  # type: ignore[assignment]  # nn.Module's annotation doesn't know None
        self.up = nn.Linear(rungs.side_width, rungs.width)
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
        side, _ = self.climb(args, kwargs)
        if self.head_reads_first:
            side = side[:, :1]
        hidden = self.up(side)
        pooled = None if self.pooler is None else self.pooler(hidden)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


def without_cache(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a decoder, so that it makes no cache of keys and values.

    Raises:
        ValueError: if there is one already, which knows nothing of the side network.
    """
    if kwargs.get("past_key_values") is not None:
        raise ValueError("a ladder keeps no cache of keys and values: call generate with use_cache=False")
    return {**kwargs, "use_cache": False}


def _downsampling(width: int, side_width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, side_width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, side_width))


def _fitting(state: Tensor, module: nn.Module) -> Tensor:
    """A state that isn't wider than the parameters of the module that reads it.

    T5 in float16 leaves part of itself in float32, so that its states become float32, and as large.
    """
    dtype = next(module.parameters()).dtype
    if torch.promote_types(state.dtype, dtype) == dtype:
        return state
    limit = torch.finfo(dtype).max
    return state.clamp(-limit, limit).to(dtype)


def _state(output: Any) -> Tensor:
    """A layer's hidden states: some classes return them alone, some as the first of a tuple."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state
