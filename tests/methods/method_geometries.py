"""Tiny random models of the three architectures, and what a test needs around them.

Nothing here is taken from the package under test: module names are written out again, as a second opinion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

ARCHITECTURES = ("distilbert", "bert", "roberta")
WIDTH, FEEDFORWARD_WIDTH, HEADS, LAYERS, VOCABULARY, POSITIONS = 32, 64, 4, 2, 61, 24
PAD = {"distilbert": 0, "bert": 0, "roberta": 1}

PREFIX = {
    "distilbert": "distilbert.transformer.layer",
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
}
_BERT_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward.norm": "output.LayerNorm",
}
NAMES = {
    "distilbert": {
        "attention.query": "attention.q_lin",
        "attention.key": "attention.k_lin",
        "attention.value": "attention.v_lin",
        "attention.output": "attention.out_lin",
        "attention.norm": "sa_layer_norm",
        "feedforward.up": "ffn.lin1",
        "feedforward.down": "ffn.lin2",
        "feedforward.norm": "output_layer_norm",
    },
    "bert": _BERT_NAMES,
    "roberta": _BERT_NAMES,
}
SIX_LINEARS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "feedforward.up",
    "feedforward.down",
)


def names_of(architecture: str, *roles: str) -> list[str]:
    """Qualified names of the modules that play the roles, in every layer."""
    return [
        f"{PREFIX[architecture]}.{index}.{NAMES[architecture][role]}"
        for index in range(LAYERS)
        for role in roles
    ]


def tiny(
    architecture: str, *, seed: int = 0, dropout: float = 0.0, attention: str = "sdpa", labels: int = 2
) -> PreTrainedModel:
    """A model whose every parameter matters: large random weights, biases and norms that aren't 0 and 1."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": PAD[architecture],
        "initializer_range": 0.2,
        "num_labels": labels,
        "attn_implementation": attention,
    }
    model: PreTrainedModel
    if architecture == "distilbert":
        config = DistilBertConfig(
            dim=WIDTH,
            hidden_dim=FEEDFORWARD_WIDTH,
            n_heads=HEADS,
            n_layers=LAYERS,
            dropout=dropout,
            attention_dropout=dropout,
            seq_classif_dropout=0.0,
            **common,
        )
        model = DistilBertForSequenceClassification(config)
    else:
        common |= {
            "hidden_size": WIDTH,
            "intermediate_size": FEEDFORWARD_WIDTH,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "classifier_dropout": 0.0,
        }
        if architecture == "bert":
            model = BertForSequenceClassification(BertConfig(**common))
        else:
            model = RobertaForSequenceClassification(RobertaConfig(layer_norm_eps=1e-12, **common))
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def batch(architecture: str, *, seed: int = 1, lengths: tuple[int, ...] = (9, 5, 7, 3)) -> dict[str, Tensor]:
    """Random token ids, each row padded to the longest, with labels 0 and 1 in turn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, VOCABULARY, shape, generator=generator)
    mask = (torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    return {
        "input_ids": ids.where(mask.bool(), PAD[architecture]),
        "attention_mask": mask,
        "labels": torch.arange(len(lengths)) % 2,
    }


def scatter(model: nn.Module, *, seed: int = 2, scale: float = 0.1) -> nn.Module:
    """Move every trainable parameter away from its special first value (B = 0, scales of 1, gates of 0)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise.to(parameter.dtype))
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradient of every parameter that has one, by name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
