"""What weights matter to a task: the diagonal of the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


def empirical_fisher(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Mapping[str, Tensor]], *, examples: int
) -> dict[str, Tensor]:
    """The sum over examples of each weight's squared gradient of that example's loss.

    Examples go through the model one by one, since a batch's gradient is a sum of which the parts can't be
    squared any more. The model is in evaluation mode meanwhile. One gradient lives at a time.

    Args:
        model: gives a loss; what of it needs a gradient is the same afterwards, as is its mode.
        weights: parameters of the model, by any name.
        batches: the model's arguments, labels included.
        examples: how many are used at most, the first ones.

    Returns:
        The sums in float32, by the weights' names.

    Raises:
        ValueError: if there is no example.
    """
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    mode = model.training
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    hooks = []
    for name, weight in weights.items():
        weight.requires_grad_(True)
        added = weight.register_post_accumulate_grad_hook(_adder(sums[name]))  # type: ignore[no-untyped-call]
        hooks.append(added)
    model.eval()
    seen = 0
    try:
        for example in _examples(batches, examples):
            with torch.enable_grad():
                model(**example).loss.backward()
            seen += 1
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        model.train(mode)
    if not seen:
        raise ValueError("no training example to look at: expected at least one")
    return sums


def _adder(total: Tensor) -> Callable[[Tensor], None]:
    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        gradient = weight.grad.to(total.dtype)
        total.addcmul_(gradient, gradient)
        weight.grad = None

    return add


def _examples(batches: Iterable[Mapping[str, Tensor]], most: int) -> Iterable[dict[str, Tensor]]:
    left = most
    for batch in batches:
        rows = min(left, len(next(iter(batch.values()))))
        for row in range(rows):
            yield {name: value[row : row + 1] for name, value in batch.items()}
        left -= rows
        if not left:
            return
