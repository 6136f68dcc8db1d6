"""The two ladders of T5: the side decoder's blocks attend to the side encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from peprof_methods.ladder import Ladder, Rungs, without_cache

_SIDE = "side_states"  # under which the encoder's output takes the side encoder's along


class _T5Ladder(Ladder):
    """What the ladders of encoder and decoder have in common.

    Args:
        backbone: the stack.
        layers_path: of its list of blocks.
        rungs: what stands beside it.
        final_norm: of the side width, after the last side block.
        dropout: rate after ``final_norm``.
    """

    def __init__(
        self, backbone: nn.Module, *, layers_path: str, rungs: Rungs, final_norm: nn.Module, dropout: float
    ) -> None:
        super().__init__(backbone, layers_path=layers_path, rungs=rungs)
        self.final_norm = final_norm
        self.dropout = nn.Dropout(dropout)

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The masks of a block's own attention and of that to the encoder; a side block has its own bias."""
        names = ("attention_mask", "position_bias", "encoder_hidden_states", "encoder_attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return given.get("attention_mask"), given.get("encoder_attention_mask")

    def begin(self, heard_first: Tensor, calls: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Position biases of both attentions, made by the first side block, and the side encoder's output.

        Raises:
            ValueError: if the side encoder's output got lost, as it does in beam search.
        """
        hidden = kwargs.get("encoder_hidden_states")
        side = getattr(hidden, _SIDE, None)
        if hidden is not None and side is None:
            raise ValueError(
                "the encoder's output doesn't carry the side encoder's along: expected the output of this "
                "model's encoder, unchanged; generate with num_beams=1 and num_return_sequences=1"
            )
        return None, None, side

    def step(self, layer: nn.Module, x: Tensor, call: Any, carried: Any) -> tuple[Tensor, Any]:
        """Run one side block; see ``Ladder``."""
        mask, encoder_mask = call
        bias, encoder_bias, side_encoder = carried
        x, bias, encoder_bias = layer(x, mask, bias, side_encoder, encoder_mask, encoder_bias)
        return x, (bias, encoder_bias, side_encoder)


class T5EncoderLadder(_T5Ladder):
    """Takes the place of T5's encoder. Its output is the backbone's, for the backbone's decoder; the side
    encoder's goes along as an attribute of that tensor, through whatever hands it on: nothing is copied.
    """

    @property
    def main_input_name(self) -> str:
        """What ``generate`` asks of an encoder."""
        return str(self.backbone.main_input_name)

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        """Run backbone and ladder.

        Args:
            args: as the backbone takes them.
            kwargs: as the backbone takes them.

        Returns:
            ``last_hidden_state``: (batch, length, width), and with it the side encoder's,
            (batch, length, side_width).
        """
        side, output = self.climb(args, kwargs)
        hidden = output.last_hidden_state
        setattr(hidden, _SIDE, self.dropout(self.final_norm(side)))
        return BaseModelOutput(last_hidden_state=hidden)


class T5DecoderLadder(_T5Ladder):
    """Takes the place of T5's decoder; what follows (the tied head and its scale, the classifier) stays.

    Args:
        backbone: the stack.
        layers_path: of its list of blocks.
        rungs: what stands beside it.
        final_norm: of the side width, after the last side block.
        dropout: rate after ``final_norm``.
    """

    def __init__(
        self, backbone: nn.Module, *, layers_path: str, rungs: Rungs, final_norm: nn.Module, dropout: float
    ) -> None:
        super().__init__(
            backbone, layers_path=layers_path, rungs=rungs, final_norm=final_norm, dropout=dropout
        )
        self.up = nn.Linear(rungs.side_width, rungs.width)

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Run backbone and ladder.

        Args:
            args: as the backbone takes them.
            kwargs: as the backbone takes them.

        Returns:
            ``last_hidden_state``: (batch, length, width).

        Raises:
            ValueError: if there is a cache, or the side encoder's output got lost.
        """
        side, _ = self.climb(args, without_cache(kwargs))
        hidden = self.up(self.dropout(self.final_norm(side)))
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)
