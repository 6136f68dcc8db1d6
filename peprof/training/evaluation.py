"""One pass over the validation split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.metrics import accuracy_score
from torch import nn

from peprof.devices import Device
from peprof.training.batches import EncodedSplit


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation found; ``loss`` is the mean cross-entropy over examples, ``time_s`` wall seconds."""

    correct: int
    total: int
    loss: float
    time_s: float


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
    predicted: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    done = 0
    model.eval()
    with torch.inference_mode():
        for batch in split.in_order(batch_size):
            output = model(**batch.to(device.torch_device).inputs)
            predicted.append(output.logits.argmax(dim=-1))
            labels.append(batch.inputs["labels"])
            losses.append(output.loss.double() * len(batch.inputs["labels"]))
            done += len(batch.inputs["labels"])
            if on_batch is not None:
                on_batch(done, len(split))
    guesses = torch.cat(predicted).cpu().numpy()  # waits for the device, so the time below is whole
    loss = float(torch.stack(losses).sum()) / len(split)
    model.train()
    correct = int(accuracy_score(torch.cat(labels).numpy(), guesses, normalize=False))
    return Score(correct=correct, total=len(split), loss=loss, time_s=time.perf_counter() - begin)
