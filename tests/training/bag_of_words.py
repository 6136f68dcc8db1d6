"""A model that is small enough to follow by hand, and examples for it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from peprof.suite.schema import TrainConfig
from peprof.training.batches import EncodedSplit
from peprof.training.data import Split
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.optimizers import default_groups, make_optimizer
from peprof.training.schedules import make_schedule
from peprof.training.step import ClassifierStep
from peprof.training.trainer import planned_steps

WORDS = ("good", "bad", "fine", "dull", "nice", "poor")


class BagOfWords(nn.Module):
    """Mean of embeddings, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)
        self.classifier = nn.Linear(8, 2)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> SimpleNamespace:
        mask = attention_mask[..., None].to(self.embedding.weight.dtype)
        logits = self.classifier((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        return SimpleNamespace(logits=logits, loss=nn.functional.cross_entropy(logits, labels))


def encoded(rows: int) -> EncodedSplit:
    texts = tuple((WORDS[row % 6] + " film" * (row % 3),) for row in range(rows))
    split = Split(texts=texts, labels=tuple(row % 2 for row in range(rows)))
    tokenizer = make_tokenizer((t for row in texts for t in row), known_config("bert-base", vocab_size=64))
    return EncodedSplit(split, tokenizer, max_length=8)


def make_step(config: TrainConfig, rows: int, model: nn.Module | None = None) -> ClassifierStep:
    if model is None:
        torch.manual_seed(0)
        model = BagOfWords()
    optimizer = make_optimizer(config, default_groups(model, config.weight_decay))
    return ClassifierStep(
        model,
        optimizer,
        schedule=make_schedule(config, optimizer, planned_steps(config, rows)),
        max_grad_norm=config.max_grad_norm,
        parts=config.gradient_accumulation_steps,
        autocast=config.autocast,
    )


CONFIG = TrainConfig(batch_size=4, epochs=3, learning_rate=0.05, evaluation_batch_size=5)
