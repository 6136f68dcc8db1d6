"""The one thing the profiler asks of whoever is measured: a training step that marks its phases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_leaves

from peprof.devices import Mark


class TrainingStep(Protocol):
    """A training step that says where it is.

    Calling it runs one whole step on ``batch`` and calls ``mark("forward")``, ``mark("backward")``,
    ``mark("clip")`` and ``mark("optimizer")`` at the start of those phases that it has, then ``mark(None)``.
    It must not wait for the device. Gradients are cleared (set to ``None``) before it returns.
    """

    def __call__(self, batch: Any, mark: Mark) -> object:
        """Runs one step."""

    def resident_tensors(self) -> Iterable[torch.Tensor]:
        """All tensors that live from step to step: parameters, buffers, optimizer state."""


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in nested dicts, lists, tuples and the like."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
