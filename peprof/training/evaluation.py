"""One pass over the validation split: classes by a head, or by what an encoder-decoder writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score
from torch import nn

from peprof.devices import Device
from peprof.training.batches import EncodedSplit
from peprof.training.text_to_text import IGNORED, Targets, TextToTextSplit, answer


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation found.

    Args:
        correct: examples classified rightly.
        total: examples.
        loss: mean cross-entropy over examples, for text-to-text over the tokens to be written.
        time_s: wall seconds.
        exact_matches: (text-to-text) answers that, written greedily, are the class's word and nothing else.
        invalid: (text-to-text) answers that are no class's word.
    """

    correct: int
    total: int
    loss: float
    time_s: float
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
    """Classifies each example once, without gradient and without dropout; leaves the model in training mode.

    Args:
        model: takes a batch's inputs as keywords.
        split: the examples.
        device: where the model is.
        batch_size: examples a forward pass.
        on_batch: called with the examples done and their number.
    """
    begin = time.perf_counter()
    targets = split.targets if isinstance(split, TextToTextSplit) else None
    judged: list[_Judged] = []
    done = 0
    model.eval()
    with torch.inference_mode():
        for _, batch in split.by_length(batch_size):
            inputs = batch.to(device.torch_device).inputs
            judged.append(_judge(model, inputs, targets))
            done += len(batch.inputs["labels"])
            if on_batch is not None:
                on_batch(done, len(split))
    guesses = _numbers([one.guesses for one in judged])  # waits for the device, so the time below is whole
    truth = _numbers([one.truth for one in judged])
    loss = float(torch.stack([one.loss for one in judged]).sum()) / float(
        torch.stack([one.weight for one in judged]).sum()
    )
    written = _numbers([one.written for one in judged if one.written is not None]) if targets else None
    model.train()
    return Score(
        correct=_agreeing(truth, guesses),
        total=len(split),
        loss=loss,
        time_s=time.perf_counter() - begin,
        exact_matches=_agreeing(truth, written) if written is not None else None,
        invalid=int((written < 0).sum()) if written is not None else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A batch's outcome, on the device: classes (batch,), and the summed loss with what it is summed over."""

    guesses: torch.Tensor
    truth: torch.Tensor
    loss: torch.Tensor
    weight: torch.Tensor
    written: torch.Tensor | None = None


def _judge(model: nn.Module, inputs: Mapping[str, torch.Tensor], targets: Targets | None) -> _Judged:
    output = model(**inputs)
    labels = inputs["labels"]
    if targets is None:
        weight = torch.tensor(float(len(labels)), dtype=torch.float64)
        return _Judged(
            guesses=output.logits.argmax(dim=-1),
            truth=labels,
            loss=output.loss.double() * len(labels),
            weight=weight,
        )
    answers = answer(model, inputs, output.logits, targets)
    weight = (labels != IGNORED).sum().double()
    return _Judged(
        guesses=answers.guesses,
        truth=targets.classes(labels),
        loss=output.loss.double() * weight,
        weight=weight,
        written=answers.written,
    )


def _numbers(parts: Sequence[torch.Tensor]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = torch.cat(list(parts)).cpu().numpy()
    return found


def _agreeing(truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> int:
    return int(accuracy_score(truth, found, normalize=False))
