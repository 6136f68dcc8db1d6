"""Small random models of five architectures, made ready for training by a method, with a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from tests.methods.method_geometries import LAYERS, PREFIX, VOCABULARY, tiny

BATCH, LENGTH, WIDTH = 4, 9, 32
CLASSIFIERS = ("distilbert", "bert", "roberta")
METHODS = ("full", "frozen", "lora", "lst")


def t5(dropout: float) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dropout_rate=dropout,
            decoder_start_token_id=0,
            attn_implementation="eager",
        )
    )


def llama(dropout: float) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_dropout=dropout,
            use_cache=False,
            attn_implementation="eager",
        )
    )


def freeze_all_but_the_last(model: nn.Module) -> nn.Module:
    """Only the head, or what comes last, is trained."""
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    for parameter in parameters[-2:]:
        parameter.requires_grad_(True)
    return model


APPLY: dict[str, Callable[[Any], nn.Module]] = {
    "full": lambda model: model,
    "frozen": freeze_all_but_the_last,
    "lora": LoRA(rank=2).apply,
    "lst": LadderSideTuning(reduction=4, side_heads=2).apply,
}


def build(
    architecture: str,
    method: str,
    *,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool | None = None,
    dropout: float = 0.0,
    attention: str = "eager",
) -> nn.Module:
    """A model in training mode, on the CPU.

    Args:
        checkpointing: ``None`` for none, else whether it is to be reentrant.
    """
    torch.manual_seed(0)
    model: PreTrainedModel
    if architecture in CLASSIFIERS:
        model = tiny(architecture, dropout=dropout, attention=attention)
    else:
        model = {"t5": t5, "llama": llama}[architecture](dropout)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    return APPLY[method](model.to(dtype)).train()


def batch_of(architecture: str) -> dict[str, torch.Tensor]:
    """Rows without padding: without data, a model can't see that there is some."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (BATCH, LENGTH), generator=generator)
    labels = torch.arange(BATCH) % 2 if architecture in CLASSIFIERS else ids.clone()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def layers_prefixes(architecture: str) -> tuple[str, ...]:
    """Names of the backbone's layers below a ladder."""
    root, _, rest = PREFIX[architecture].partition(".")
    return tuple(f"{root}.backbone.{rest}.{index}" for index in range(LAYERS))
