"""Tiny random models of each architecture, and what a test needs around them.

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
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
)

ARCHITECTURES = ("distilbert", "bert", "roberta")
EVERY_ARCHITECTURE = (*ARCHITECTURES, "t5", "t5-gated", "t5-classifier", "llama", "llama-lm")
"""Encoders; T5 v1.0 and v1.1 that generate, v1.0 that classifies; Llama as classifier and language model."""
FAMILY = {
    **{name: name for name in ARCHITECTURES},
    **dict.fromkeys(("t5", "t5-gated", "t5-classifier"), "t5"),
    **dict.fromkeys(("llama", "llama-lm"), "llama"),
}
WIDTH, FEEDFORWARD_WIDTH, HEADS, LAYERS, VOCABULARY, POSITIONS = 32, 64, 4, 2, 61, 24
PAD = {"distilbert": 0, "bert": 0, "roberta": 1, **dict.fromkeys(EVERY_ARCHITECTURE[3:], 0)}
EOS = 1  # of T5

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
    if architecture not in ARCHITECTURES:
        return _moved(_with_decoder(architecture, dropout=dropout, attention=attention, labels=labels))
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
    return _moved(model)


def _with_decoder(architecture: str, *, dropout: float, attention: str, labels: int) -> PreTrainedModel:
    if architecture.startswith("llama"):
        llama = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=FEEDFORWARD_WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2,
            max_position_embeddings=POSITIONS,
            attention_dropout=dropout,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
            initializer_range=0.2,
            num_labels=labels,
            attn_implementation=attention,
        )
        kind = LlamaForCausalLM if architecture == "llama-lm" else LlamaForSequenceClassification
        return kind(llama)
    gated = architecture == "t5-gated"
    t5 = T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=FEEDFORWARD_WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=dropout,
        classifier_dropout=0.0,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not gated,
        pad_token_id=0,
        eos_token_id=EOS,
        decoder_start_token_id=0,
        num_labels=labels,
        attn_implementation=attention,
    )
    kind = T5ForSequenceClassification if architecture == "t5-classifier" else T5ForConditionalGeneration
    return kind(t5)


def _moved(model: PreTrainedModel) -> PreTrainedModel:
    """Every vector moved away from 0 and 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def batch(architecture: str, *, seed: int = 1, lengths: tuple[int, ...] = (9, 5, 7, 3)) -> dict[str, Tensor]:
    """Random token ids, each row padded to the longest, with labels 0 and 1 in turn.

    A T5 that generates has three target tokens a row, of which the last may be padding (-100). A language
    model's labels are its inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, VOCABULARY, shape, generator=generator)
    mask = (torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    labels = torch.arange(len(lengths)) % 2
    if FAMILY[architecture] == "t5":
        ids[torch.arange(len(lengths)), mask.sum(1) - 1] = EOS
    if architecture in ("t5", "t5-gated"):
        targets = torch.randint(3, VOCABULARY, (len(lengths), 3), generator=generator)
        targets[::2, 2] = -100
        labels = targets
    elif architecture == "llama-lm":
        labels = ids.where(mask.bool(), -100)
    return {"input_ids": ids.where(mask.bool(), PAD[architecture]), "attention_mask": mask, "labels": labels}


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
