"""One pass over the validation split: what a model answers to each example, and how good that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from peprof.devices import Device
from peprof.results.record import Predictions
from peprof.suite.metrics import Task
from peprof.training.batches import EncodedSplit
from peprof.training.language_modelling import LanguageModellingSplit, token_losses
from peprof.training.metrics import judge
from peprof.training.text_to_text import IGNORED, Targets, TextToTextSplit, answer


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation found.

    Args:
        correct: examples classified rightly; ``None`` where there are no classes.
        total: examples.
        loss: mean over the examples (cross-entropy, squared error), for text-to-text and language modelling
            over the tokens to be written.
        time_s: wall seconds.
        metrics: those that the split is judged by, in that order.
        predictions: the answers one by one, in the split's order.
        exact_matches: (text-to-text) answers that, written greedily, are the class's word and nothing else.
        invalid: (text-to-text) answers that are no class's word.
    """

    correct: int | None
    total: int
    loss: float
    time_s: float
    metrics: Mapping[str, float]
    predictions: Predictions
    exact_matches: int | None = None
    invalid: int | None = None


def evaluate(
    model: nn.Module,
    split: EncodedSplit,
    device: Device,
    *,
    batch_size: int,
    on_batch: Callable[[int, int], None] | None = None,
) -> Score:
    """Answers each example once, without gradient and without dropout; leaves the model in training mode.

    Args:
        model: takes a batch's inputs as keywords.
        split: the examples; knows its task and what answers are judged by.
        device: where the model is.
        batch_size: examples a forward pass.
        on_batch: called with the examples done and their number.
    """
    begin = time.perf_counter()
    order: list[int] = []
    judged: list[_Judged] = []
    model.eval()
    with torch.inference_mode():
        for rows, batch in split.by_length(batch_size):
            judged.append(_judge(model, batch.to(device.torch_device).inputs, split))
            order += rows
            if on_batch is not None:
                on_batch(len(order), len(split))
    # Reading the numbers waits for the device, so the time below is whole.
    loss = float(torch.stack([one.loss for one in judged]).sum())
    weight = float(torch.stack([one.weight for one in judged]).sum())
    answers = Predictions(
        labels=() if split.task == "language-modelling" else tuple(split.labels),
        predictions=_in_split_order(order, [one.answers for one in judged]),
        tokens=_in_split_order(order, [one.tokens for one in judged if one.tokens is not None]),
        written=_in_split_order(order, [one.written for one in judged if one.written is not None]),
    )
    model.train()
    return _score(answers, split, loss=loss / weight, time_s=time.perf_counter() - begin)


def _score(answers: Predictions, split: EncodedSplit, *, loss: float, time_s: float) -> Score:
    writes = split.task == "text-to-text"
    return Score(
        correct=_agreeing(answers.labels, answers.predictions) if has_classes(split.task) else None,
        total=len(split),
        loss=loss,
        time_s=time_s,
        metrics=judge(answers, split.judged_by),
        predictions=answers,
        exact_matches=_agreeing(answers.labels, answers.written) if writes else None,
        invalid=sum(written < 0 for written in answers.written) if writes else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A batch's outcome, on the device; one answer an example, (batch,).

    Args:
        answers: classes, numbers, or summed negative log-likelihoods.
        loss: summed.
        weight: what it is summed over.
        tokens: (language modelling) predicted ones.
        written: (text-to-text) classes, -1 for what is none's word.
    """

    answers: torch.Tensor
    loss: torch.Tensor
    weight: torch.Tensor
    tokens: torch.Tensor | None = None
    written: torch.Tensor | None = None


def _judge(model: nn.Module, inputs: Mapping[str, torch.Tensor], split: EncodedSplit) -> _Judged:
    labels = inputs["labels"]
    if isinstance(split, LanguageModellingSplit):
        # The model's own loss would hold logits of the whole batch in float32 a second time.
        given = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        losses, tokens = token_losses(model(**given).logits, labels)
        return _Judged(answers=losses, loss=losses.sum(), weight=tokens.sum().double(), tokens=tokens)
    output = model(**inputs)
    if isinstance(split, TextToTextSplit):
        return _judge_written(model, inputs, output, split.targets)
    weight = torch.tensor(float(len(labels)), dtype=torch.float64)
    found = output.logits.reshape(-1) if split.task == "regression" else output.logits.argmax(dim=-1)
    return _Judged(answers=found, loss=output.loss.double() * len(labels), weight=weight)


def _judge_written(
    model: nn.Module, inputs: Mapping[str, torch.Tensor], output: Any, targets: Targets
) -> _Judged:
    answers = answer(model, inputs, output.logits, targets)
    weight = (inputs["labels"] != IGNORED).sum().double()
    return _Judged(
        answers=answers.guesses,
        loss=output.loss.double() * weight,
        weight=weight,
        written=answers.written,
    )


def has_classes(task: Task) -> bool:
    """Whether an answer is right or wrong."""
    return task in ("classification", "text-to-text")


def _in_split_order(order: Sequence[int], parts: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Batches of answers -> one a row of the split; none for no batches.

    Args:
        order: the row of each answer.
        parts: one tensor a batch.
    """
    if not parts:
        return ()
    found = torch.cat(list(parts))
    # NumPy has no bfloat16.
    numbers = (found.double() if found.is_floating_point() else found).cpu().numpy()
    placed = np.empty_like(numbers)
    placed[list(order)] = numbers
    return tuple(placed.tolist())


def _agreeing(truth: Sequence[float], found: Sequence[float]) -> int:
    return sum(label == guess for label, guess in zip(truth, found, strict=True))
