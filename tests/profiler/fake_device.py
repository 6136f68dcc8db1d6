"""A GPU that isn't there: real steps on the CPU, whose storages get blocks of a stand-in's allocator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peprof.devices import Mark
from peprof.devices.cuda_history import MemoryHistory
from peprof.profiler.profile import Watch
from peprof.profiler.traced import TracedLedger
from tests.devices.fake_cuda import FakeCuda

Workspace = Callable[[Any], int]
"""Bytes that an operator asks for inside."""


class FakeGpu(TorchDispatchMode):
    """Below the ledger: hands out a block for each new storage, and one for an operator while it runs."""

    def __init__(self, cuda: FakeCuda, workspace: Workspace = lambda func: 0) -> None:
        super().__init__()
        self.allocator = cuda.allocator
        self.workspace = workspace
        self._blocks: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = self.workspace(func)
        scratch = self.allocator.malloc(size) if size else None
        out = func(*args, **(kwargs or {}))
        self.adopt(out if isinstance(out, list | tuple) else [out])
        if scratch is not None:
            self.allocator.free(scratch)
        return out

    def adopt(self, values: Iterable[Any]) -> None:
        """Gives a block to each tensor's storage that has none."""
        for value in values:
            if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes():
                storage = value.untyped_storage()
                key = storage._cdata
                if key not in self._blocks:
                    address = self.allocator.malloc(storage.nbytes())
                    self._blocks[key] = weakref.ref(storage, lambda _, key=key: self._died(key)), address

    def _died(self, key: int) -> None:
        _, address = self._blocks.pop(key)
        self.allocator.free(address)

    def address_of(self, storage: torch.UntypedStorage) -> int:
        found = self._blocks.get(storage._cdata)
        return found[1] if found is not None else 0

    def watch(self, cuda: FakeCuda, model: nn.Module, optimizers: Any, batch: Any) -> Watch:
        history = MemoryHistory(cuda, torch.device("cuda", 0), stacks=False)
        ledger = TracedLedger(
            model,
            optimizers=optimizers,
            inputs=batch,
            allocations=history.allocations,
            address_of=self.address_of,
        )
        return Watch(ledger=ledger, history=history)


def run_on_fake_gpu(
    cuda: FakeCuda,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    step: Callable[[Any, Mark], object],
    *,
    workspace: Workspace = lambda func: 0,
    **options: Any,
) -> Any:
    """A step after a warm one, as ``profile_step`` runs it."""
    gpu = FakeGpu(cuda, workspace)
    gpu.adopt([*model.parameters(), *model.buffers()])
    gpu.adopt(batch.values() if isinstance(batch, dict) else [batch])
    with gpu:
        step(batch, lambda phase: None)
        return gpu.watch(cuda, model, [optimizer], batch).profile(step, batch, **options)
