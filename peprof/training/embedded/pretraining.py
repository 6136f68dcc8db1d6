"""Masked language modelling on the synthetic reviews: how ``peprof/tiny`` comes by its weights.

No label is seen: the backbone learns what words go together, and what a sentence says is left to fine-tuning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from peprof.events import Progress
from peprof.training.embedded.reviews import VOCABULARY, generate

PHASE: Final = "pre-training peprof/tiny"
SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PAD, _UNK, _CLS, _SEP, _MASK = range(len(SPECIAL_TOKENS))
_IGNORED: Final = -100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the weights of ``peprof/tiny``.

    Args:
        layers, width, heads, feedforward, max_positions: the geometry.
        initializer_range: standard deviation of new weights; BERT's 0.02 suits a width of 768, at a sixth of
            that width it keeps attention out of the residual stream for a thousand steps.
        dropout: in pre-training and, as the model's configuration keeps it, in fine-tuning.
        rows: sentences of the ``pretraining`` split.
        steps, batch_size: how long; sentences of like length share a batch.
        learning_rate: its peak; a linear rise over ``warmup_fraction`` of the steps, then a linear fall to 0.
        masked_share: of a rare word's occurrences that are to be guessed.
        rare_share: of all tokens; a word that is more frequent is masked less.
        seed: of the weights, the order, the masks and the dropout.
    """

    layers: int = 4
    width: int = 64
    heads: int = 4
    feedforward: int = 256
    max_positions: int = 128
    initializer_range: float = 0.1
    dropout: float = 0.0
    rows: int = 20_000
    steps: int = 3_000
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    masked_share: float = 0.4
    rare_share: float = 0.004
    seed: int = 0

    def digest(self) -> str:
        """Ten characters that change with the recipe or with the language that is learnt."""
        sample = [review.sentence for review in generate("pretraining", 256, self.seed)]
        text = json.dumps([asdict(self), VOCABULARY, sample])
        return sha256(text.encode()).hexdigest()[:10]


def make_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """One token a word of the synthetic reviews, in BERT's frame: ``[CLS] words [SEP]``; padding is 0."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *VOCABULARY))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _CLS), ("[SEP]", _SEP)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_positions,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def pretrain(recipe: Recipe, progress: Callable[[Progress], None] | None = None) -> BertForMaskedLM:
    """Train from nothing on the CPU; equal weights for equal recipe, machine and number of threads.

    Torch's global random state is used, and put back afterwards.

    Args:
        recipe: what to do.
        progress: hears of every twentieth step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return _pretrain(recipe, progress or (lambda _: None))


def _pretrain(recipe: Recipe, report: Callable[[Progress], None]) -> BertForMaskedLM:
    report(Progress(phase=PHASE, step=0, total=recipe.steps))
    tokenizer = make_tokenizer(recipe.max_positions)
    sentences = [review.sentence for review in generate("pretraining", recipe.rows, recipe.seed)]
    encoded = [torch.tensor(ids) for ids in tokenizer(sentences)["input_ids"]]
    model: BertForMaskedLM = BertForMaskedLM(model_config(recipe, vocab_size=len(tokenizer)))
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _triangle(recipe))
    chances = _chances(encoded, recipe, len(tokenizer))
    batches = _batches(encoded, recipe.batch_size)
    started = time.perf_counter()
    for step in range(1, recipe.steps + 1):
        input_ids = next(batches)
        masked, labels = _mask(input_ids, chances)
        loss = model(input_ids=masked, attention_mask=(input_ids != _PAD).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 20 == 0 or step == recipe.steps:
            left = (time.perf_counter() - started) / step * (recipe.steps - step)
            report(Progress(phase=PHASE, step=step, total=recipe.steps, loss=loss.item(), seconds_left=left))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def model_config(recipe: Recipe, vocab_size: int) -> BertConfig:
    """The geometry of a recipe."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.feedforward,
        max_position_embeddings=recipe.max_positions,
        hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=recipe.dropout,
        initializer_range=recipe.initializer_range,
        pad_token_id=_PAD,
    )


def _triangle(recipe: Recipe) -> Callable[[int], float]:
    rise = max(1, round(recipe.warmup_fraction * recipe.steps))
    return lambda done: min((done + 1) / rise, (recipe.steps - done) / max(1, recipe.steps - rise))


def _batches(encoded: list[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Endless batches, (batch, length) each and padded, of sentences of like length in shuffled order."""
    while True:
        order = torch.randperm(len(encoded)).tolist()
        order.sort(key=lambda i: len(encoded[i]))  # stable: equal lengths stay shuffled
        starts = torch.arange(0, len(order), batch_size)
        for start in starts[torch.randperm(len(starts))].tolist():
            chosen = [encoded[i] for i in order[start : start + batch_size]]
            yield torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=_PAD)


def _chances(encoded: list[Tensor], recipe: Recipe, vocab_size: int) -> Tensor:
    """How likely each word is masked: frequent ones less, as word2vec subsamples (arXiv:1310.4546).

    Returns:
        (vocabulary,), 0 for special tokens.
    """
    counts = torch.cat(encoded).bincount(minlength=vocab_size).float()
    counts[: len(SPECIAL_TOKENS)] = 0
    chances = recipe.masked_share * (recipe.rare_share * counts.sum() / counts).sqrt().clamp(max=1.0)
    chances[: len(SPECIAL_TOKENS)] = 0
    return chances


def _mask(input_ids: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """BERT's masking: of the chosen tokens 80 % become ``[MASK]``, 10 % another word, 10 % stay.

    ``[CLS]`` is to guess one of the chosen tokens of its text too. Masked language modelling alone never
    reads that position, and a frozen backbone would have nothing to say there (BERT has its next-sentence
    task for that).

    Args:
        input_ids: (batch, length).
        chances: (vocabulary,).

    Returns:
        What the model sees and what it is to guess (-100 where nothing is asked), both (batch, length).
    """
    order = torch.rand(input_ids.shape)
    chosen = order < chances[input_ids]
    fate = torch.rand(input_ids.shape)
    noise = torch.randint(len(SPECIAL_TOKENS), len(chances), input_ids.shape)
    masked = torch.where(chosen & (fate < 0.8), _MASK, input_ids)
    masked = torch.where(chosen & (fate >= 0.9), noise, masked)
    labels = torch.where(chosen, input_ids, _IGNORED)
    one = torch.where(chosen, torch.rand(input_ids.shape), 1.0).argmin(dim=1, keepdim=True)
    labels[:, :1] = labels.gather(1, one)
    return masked, labels
