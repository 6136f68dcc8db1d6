"""Trained prompts and prefixes in the ``peft`` library's names: see ``peft_forms``.

The library puts them before everything else, and each of its models in a way of its own. Written is what
gives the same logits there; the rest is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from peprof_methods.architectures import Architecture, architecture_of
from peprof_methods.roles import stack_layers
from torch import Tensor, nn

from peprof.errors import UsageError
from peprof.training.peft_forms import Saved, Trained

_NAME = "prompt_embeddings"


class PromptForm:
    """Prompt tuning of language models and of T5 that generates: ``prompt_embeddings`` (tokens, d_model).

    The library's logits of a language model have the prompt's positions too, before the others. It puts the
    prompt before padding on the left, where it stands next to the text here: the same only without such.
    """

    trains = frozenset({"prompt"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        _, prompt = _prompt(trained.model)
        architecture = architecture_of(trained.model)
        reasons = {
            "first": "the library puts a prompt before the position that the head reads, here it is behind",
            "last": "there, the head of a model with a prompt reads the last position, be it padding",
        }
        if architecture.head_reads in reasons:
            raise UsageError(
                f"prompt tuning of {type(trained.model).__name__} has no counterpart in the peft library: "
                f"{reasons[architecture.head_reads]}",
                hint="save_adapter keeps it in peprof's own format.",
            )
        config = {
            "peft_type": "PROMPT_TUNING",
            "num_virtual_tokens": len(prompt),
            "token_dim": prompt.shape[1],
            "num_transformer_submodules": 1,  # T5's decoder gets none
            "prompt_tuning_init": "RANDOM",
            **_shape(trained.model, architecture),
        }
        return config, {_NAME: prompt.detach()}

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        if architecture_of(saved.model).head_reads != "every":
            raise UsageError(
                f"{saved.origin}: prompt tuning of {type(saved.model).__name__} works differently in the "
                "peft library and here; that of language models and of T5 that generates is the same"
            )
        return "prompt_tuning", {"tokens": saved.option("num_virtual_tokens", 0)}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        name, prompt = _prompt(applied)
        # The library may keep as many for T5's decoder, which it doesn't use.
        return {name: _stored(saved)[: len(prompt)]}


class PrefixForm:
    """Prefix tuning and P-tuning v2: ``prompt_embeddings`` (tokens, layers * 2 * width), key beside value.

    What a network made while training is written as what it made, and comes back as P-tuning v2.
    """

    trains = frozenset({"prefix"})

    def write(self, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See ``Form``."""
        model = trained.model
        _check_family(model, "")
        with torch.no_grad():
            parts = [part for _, attention in _attentions(model) for part in attention.prefix()]
        tokens, width = parts[0].shape
        architecture = architecture_of(model)
        config = {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": tokens,
            "num_transformer_submodules": 1,
            "prefix_projection": False,
            **_shape(model, architecture),
            "token_dim": width,
            "num_attention_heads": width // _head_width(model),
        }
        return config, {_NAME: torch.cat(parts, dim=1)}

    def method(self, saved: Saved) -> tuple[str, dict[str, Any]]:
        """See ``Form``."""
        _check_family(saved.model, f"{saved.origin}: ")
        return "p_tuning_v2", {"tokens": len(_stored(saved))}

    def values(self, saved: Saved, applied: nn.Module) -> dict[str, Tensor]:
        """See ``Form``."""
        attentions = list(_attentions(applied))
        stored = _stored(saved)
        if stored.shape[1] % (2 * len(attentions)):
            raise UsageError(
                f"{saved.origin}: {_NAME} has {stored.shape[1]} columns; expected a key and a value for each "
                f"of {len(attentions)} layers"
            )
        values: dict[str, Tensor] = {}
        parts = stored.chunk(2 * len(attentions), dim=1)
        for (name, _), key, value in zip(attentions, parts[::2], parts[1::2], strict=True):
            values |= {f"{name}.prefix.key": key, f"{name}.prefix.value": value}
        return values


def _prompt(model: nn.Module) -> tuple[str, Tensor]:
    found = [(name, p) for name, p in model.named_parameters() if f".{name}".endswith(".prompt.embedding")]
    return found[0]


def _stored(saved: Saved) -> Tensor:
    others = set(saved.tensors) - {_NAME}
    if _NAME not in saved.tensors or others or saved.tensors[_NAME].ndim != 2:
        found = ", ".join(sorted(saved.tensors)) or "nothing"
        raise UsageError(f"{saved.origin}: expected one tensor {_NAME} of two dimensions; found {found}")
    return saved.tensors[_NAME]


def _check_family(model: nn.Module, origin: str) -> None:
    if architecture_of(model).family != "llama":
        raise UsageError(
            f"{origin}prefixes of {type(model).__name__} have no counterpart in the peft library: it gives "
            "them to models that take past_key_values, and T5's encoder and cross-attention none",
            hint="save_adapter keeps them in peprof's own format.",
        )


def _attentions(model: nn.Module) -> list[tuple[str, Any]]:
    """Each attention with its name, from input to output."""
    (stack,) = architecture_of(model).stacks
    path = stack.in_layer["attention.key"][0].rpartition(".")[0]
    wanted = {layer.get_submodule(path): None for layer in stack_layers(model, stack)}
    return [(name, module) for name, module in model.named_modules() if module in wanted]


def _head_width(model: Any) -> int:
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _shape(model: Any, architecture: Architecture) -> dict[str, int]:
    return {
        "num_attention_heads": getattr(model.config, architecture.attention_heads),
        "num_layers": len(stack_layers(model, architecture.stacks[-1])),
    }
