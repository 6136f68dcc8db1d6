"""Prompt tuning (Lester et al. 2021, arXiv:2104.08691)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peprof_methods.architectures import architecture_of, has_module, join
from peprof_methods.errors import UnsupportedModelError, require
from peprof_methods.roles import freeze_backbone

Init = Literal["random", "vocabulary"]


class _Gap:
    """Where a prompt goes into each row of a batch.

    Args:
        start: its first place: (batch, 1).
        tokens: its length.
        length: of the rows without it.

    Attributes:
        places: of the prompt: (batch, tokens).
    """

    def __init__(self, start: Tensor, tokens: int, length: int) -> None:
        self.places = start + torch.arange(tokens, device=start.device)
        new = torch.arange(tokens + length, device=start.device)
        # For the prompt's own places any that exists will do.
        self._source = torch.where(new < start, new, new - tokens).clamp(0, length - 1)

    def put(self, rows: Tensor, value: Tensor | int) -> Tensor:
        """(batch, length) -> (batch, tokens + length), with a value, or one each (tokens,), in the gap."""
        wider = rows.gather(1, self._source)
        if isinstance(value, Tensor):
            return wider.scatter_(1, self.places, value.to(rows.dtype).expand_as(self.places))
        return wider.scatter_(1, self.places, value)


class Prompt(nn.Module):
    """Trained embeddings that are put among those of the input whenever the module that reads it is called.

    ``embedding: (tokens, d_model)``. Its methods are hooks of the module that embeds the input.

    Args:
        reader: that module.
        tokens: how many are put in.
        init: ``random`` or ``vocabulary``; see ``PromptTuning``.
        behind_first: put them behind the first token instead of before the first real one.
    """

    def __init__(self, reader: PreTrainedModel, *, tokens: int, init: Init, behind_first: bool) -> None:
        super().__init__()
        vocabulary = cast(nn.Embedding, reader.get_input_embeddings()).weight.detach()
        if init == "vocabulary":
            chosen = torch.randint(len(vocabulary), (tokens,), device=vocabulary.device)
            start = vocabulary[chosen]
        else:
            start = torch.randn_like(vocabulary[:1].expand(tokens, -1)) * vocabulary.std()
        self.embedding = nn.Parameter(start.to(vocabulary.dtype))
        self.behind_first = behind_first
        self.positions = _positions(reader)
        self.names = tuple(inspect.signature(type(reader).forward).parameters)[1:]

    def enter(
        self, reader: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the prompt into what the reader is given.

        A step of generation that goes on from a cache finds the prompt in it already.

        Args:
            reader: the module that embeds the input.
            args: as it is called, ids first.
            kwargs: as it is called.

        Returns:
            What it is to be called with: ``inputs_embeds`` (batch, tokens + length, d_model) instead of
            ``input_ids``, and mask, positions and token types of that length.

        Raises:
            ValueError: there are no ids, the mask isn't one of padding, or the positions don't suffice.
        """
        kwargs = dict(zip(self.names, args, strict=False)) | kwargs
        ids, mask = kwargs.pop("input_ids", None), kwargs.get("attention_mask")
        if ids is None:
            raise ValueError("a model with a trained prompt was called without input_ids; expected token ids")
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"attention_mask of {mask.dim()} dimensions; expected (batch, length)")
        count, (batch, length) = len(self.embedding), ids.shape
        if self.positions is not None and count + length > self.positions:
            raise ValueError(
                f"{length} tokens and a prompt of {count} need {count + length} positions; the model has "
                f"{self.positions}: lower max_length or the prompt's tokens"
            )
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            if mask is not None:
                kwargs["attention_mask"] = self._gap(mask, mask).put(mask, 1)
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = kwargs["position_ids"] + count
            return (), {**kwargs, "input_ids": ids}
        gap = self._gap(ids, mask)
        if mask is not None:
            kwargs["attention_mask"] = gap.put(mask, 1)
        if kwargs.get("position_ids") is not None:
            old = kwargs["position_ids"].expand(batch, -1)
            behind = torch.arange(length, device=ids.device) >= gap.places[:, :1]
            own = torch.arange(count, device=ids.device) + int(self.behind_first)
            kwargs["position_ids"] = gap.put(old + count * behind, own)
        if kwargs.get("token_type_ids") is not None:
            kwargs["token_type_ids"] = gap.put(kwargs["token_type_ids"], 0)

        # Embedded with any id in the prompt's places, which are then written over: so what goes in is made
        # once, where putting the parts together would make it twice.
        embedded = reader.get_input_embeddings()(gap.put(ids, 0))
        if embedded.requires_grad and embedded.is_leaf:  # some libraries ask for its gradient
            embedded = embedded.clone()
        rows = torch.arange(batch, device=ids.device)[:, None]
        prompt = self.embedding.to(embedded.dtype)
        kwargs["inputs_embeds"] = embedded.index_put_((rows, gap.places), prompt)
        return (), kwargs

    def enter_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let a decoder's attention see what an encoder made of the prompt; arguments as of ``enter``."""
        mask = kwargs.get("encoder_attention_mask")
        if mask is not None:
            kwargs = {**kwargs, "encoder_attention_mask": self._gap(mask, mask).put(mask, 1)}
        return args, kwargs

    def leave(self, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Take the prompt's positions out of the reader's result, so that head and labels fit as before.

        Args:
            reader: the module that embeds the input.
            args: none.
            kwargs: as ``enter`` gave them.
            output: its result, of tokens + length positions.

        Returns:
            The same, of length positions.
        """
        embedded, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if embedded is None:  # nothing was put in
            return output
        count = len(self.embedding)
        old = torch.arange(embedded.shape[1] - count, device=embedded.device)
        start = self._start(embedded[..., 0], mask)
        kept = old + count * (old >= start)
        rows = torch.arange(len(embedded), device=embedded.device)[:, None]
        if isinstance(output, tuple):
            return (output[0][rows, kept], *output[1:])
        output.last_hidden_state = output.last_hidden_state[rows, kept]
        return output

    def _start(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The prompt's first place in each row: (batch, 1)."""
        if self.behind_first:
            return torch.ones(len(ids), 1, dtype=torch.long, device=ids.device)
        if mask is None:
            return torch.zeros(len(ids), 1, dtype=torch.long, device=ids.device)
        return (mask.cumsum(1) == 0).sum(1, keepdim=True)

    def _gap(self, ids: Tensor, mask: Tensor | None) -> _Gap:
        return _Gap(self._start(ids, mask), len(self.embedding), ids.shape[1])

    def extra_repr(self) -> str:
        """The options, for ``print(model)``."""
        return f"tokens={len(self.embedding)}, behind_first={self.behind_first}"


def _positions(reader: nn.Module) -> int | None:
    """How many positions a module that embeds its input has; ``None`` where they are relative."""
    table = getattr(getattr(reader, "embeddings", None), "position_embeddings", None)
    if table is None:
        return None
    # RoBERTa counts from behind its padding index.
    return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))


@dataclass(frozen=True, kw_only=True)
class PromptTuning:
    """Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained embeddings among those of the input.

    In the paper, for T5, they stand before the encoder's input, and so they do here for T5 and for decoders,
    next to the first real token where padding is on the left. A decoder's result at their positions is left
    out again, so that labels and heads need not know of them, and the output layer isn't computed for them.
    An encoder's head reads the first position, which pre-training made for that: there they stand behind it
    ([CLS] prompt text). The ``peft`` library puts them before it, so that its head reads a prompt's position.

    Nor does a language model learn to predict the first token from the prompt, as with that library.

    A prompt lengthens every input: all layers compute and keep that much more. It wants a large learning rate
    (0.3 in the paper). The head is trained too.

    Args:
        tokens: how many; the paper's is 100. They count against the positions of encoders.
        init: ``vocabulary`` starts from the embeddings of tokens drawn from the whole vocabulary, ``random``
            from normal numbers that deviate as the embeddings do.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "Lester et al. 2021, arXiv:2104.08691"
    trains: ClassVar[str] = "embeddings put among those of the input"
    unsupported: ClassVar[Mapping[str, str]] = {}

    tokens: int = 20
    init: Init = "vocabulary"

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "tokens", self.tokens, "at least 1")
        require(self.init in ("random", "vocabulary"), "init", self.init, "random or vocabulary")

    def apply(self, model: PreTrainedModel) -> nn.Module:
        """Freeze the backbone and let its input be lengthened by a prompt.

        Args:
            model: changed in place: the module that embeds the input gets hooks and the prompt.

        Returns:
            The same model, called as before.

        Raises:
            ValueError: the prompt takes all positions that the model has.
            UnsupportedModelError: for an unknown architecture, or a model that has a prompt.
        """
        architecture = architecture_of(model)
        first, *others = architecture.stacks
        whole = model.get_submodule(architecture.backbone)
        runs = whole.get_submodule(first.path)
        reader = runs if isinstance(runs, PreTrainedModel) else whole
        assert isinstance(reader, PreTrainedModel), join(architecture.backbone, first.path)
        if has_module(reader, "prompt"):
            raise UnsupportedModelError(f"{type(model).__name__} has a prompt already: expected one without")
        positions = _positions(reader)
        if positions is not None:
            require(self.tokens < positions, "tokens", self.tokens, f"less than the {positions} positions")
        freeze_backbone(model)
        prompt = Prompt(
            reader, tokens=self.tokens, init=self.init, behind_first=architecture.head_reads == "first"
        )
        reader.add_module("prompt", prompt.train(model.training))
        reader.register_forward_pre_hook(prompt.enter, with_kwargs=True)
        for stack in others:
            decoder = whole.get_submodule(stack.path)
            decoder.register_forward_pre_hook(prompt.enter_decoder, with_kwargs=True)
        if not others and architecture.head_reads != "first":
            reader.register_forward_hook(prompt.leave, with_kwargs=True)
        return model
