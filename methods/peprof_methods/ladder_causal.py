"""The ladder of a Llama-like decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from peprof_methods.ladder import Ladder, Rungs, without_cache

_OWN = ("past_key_values", "use_cache", "position_embeddings")  # of the backbone alone


class CausalLadder(Ladder):
    """Takes the place of the decoder in a classifier or a language model, whose own head and loss follow it.

    Args:
        backbone: the decoder.
        layers_path: of its list of layers.
        rungs: what stands beside it.
        final_norm: of the side width, after the last side layer.
        rotary: makes the position embeddings of a side layer's head width.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        layers_path: str,
        rungs: Rungs,
        final_norm: nn.Module,
        rotary: nn.Module,
    ) -> None:
        super().__init__(backbone, layers_path=layers_path, rungs=rungs)
        self.final_norm = final_norm
        self.rotary = rotary
        self.up = nn.Linear(rungs.side_width, rungs.width)

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All but the cache and the position embeddings: a layer may have another mask than its neighbour."""
        return {name: value for name, value in kwargs.items() if name not in _OWN}

    def begin(self, heard_first: Tensor, calls: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Position embeddings of the side width, (1 or batch, length, side head width) twice."""
        with torch.no_grad():
            return self.rotary(heard_first, calls[0]["position_ids"])

    def step(self, layer: nn.Module, x: Tensor, call: Any, carried: Any) -> tuple[Tensor, Any]:
        """Run one side layer; see ``Ladder``."""
        output: Tensor = layer(x, **call, position_embeddings=carried, past_key_values=None, use_cache=False)
        return output, carried

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
        """Run backbone and ladder.

        Args:
            args: as the backbone takes them.
            kwargs: as the backbone takes them.

        Returns:
            ``last_hidden_state``: (batch, length, width).

        Raises:
            ValueError: if there is a cache.
        """
        side, _ = self.climb(args, without_cache(kwargs))
        return BaseModelOutputWithPast(last_hidden_state=self.up(self.final_norm(side)))
