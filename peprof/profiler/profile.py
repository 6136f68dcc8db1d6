"""The memory of one training step of any model: whose each byte of the peak is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from peprof.breakdown.values import StepProfile
from peprof.devices import Mark, no_mark
from peprof.devices.cuda_history import MemoryHistory
from peprof.profiler.attribution import Attribution, Owner
from peprof.profiler.belongings import device_of
from peprof.profiler.errors import ProfileError, StepOutOfMemoryError
from peprof.profiler.history import Claim, join
from peprof.profiler.latency import garbage_collection_off
from peprof.profiler.ledger import Ledger
from peprof.profiler.scalars import ScalarAnswers
from peprof.profiler.traced import TracedLedger

Step = Callable[[Any], object] | Callable[[Any, Mark], object]


def profile_step(
    model: nn.Module,
    batch: Any,
    step: Step | None = None,
    *,
    optimizers: Optimizer | Iterable[Optimizer] | None = None,
    owner: Owner | None = None,
    warmup_steps: int = 1,
    snapshot_file: Path | None = None,
) -> StepProfile:
    """Runs training steps on ``batch`` and says whose the memory of the last one was.

    Works with tensors on ``cpu``, ``cuda`` and ``meta``. Phases are those that the step marks, or else found:
    forward until autograd runs, backward while it runs, then clipping, and the optimizers' own steps. The
    steps change the weights as in training; otherwise the model is left as it was, also if a step raises.

    On CUDA the allocator's memory history is joined to what is found (``StepProfile.pool``); a history that
    somebody else records (``torch.cuda.memory._record_memory_history``) ends with it.

    Example::

        from peprof import profile_step

        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2))
        optimizer = torch.optim.AdamW(model.parameters())

        def step(batch):
            loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        batch = {"x": torch.randn(32, 64), "y": torch.randint(2, (32,))}
        print(profile_step(model, batch, step))

    Args:
        model: what is trained.
        batch: given to the step; the tensors in it are the step's inputs.
        step: one training step, ``step(batch)`` or ``step(batch, mark)``, which calls ``mark("forward")``,
            ``mark("backward")``, ``mark("clip")``, ``mark("optimizer")`` where these begin, and at its end
            ``mark(None)``. ``None``, with ``optimizers``: a plain step, whose loss is the output's ``loss``,
            or else the mean of the first tensor of the output.
        optimizers: those whose state should be known from the beginning; others are found when they step.
        owner: who owns which part (backbone, adapter, head), as a function of the qualified name of a
            module or parameter, or as a mapping of names and beginnings of names.
        warmup_steps: steps before the one that is looked at, so that optimizer state exists.
        snapshot_file: on CUDA, where to save the allocator's snapshot with its history of the step, also if
            that runs out of memory; PyTorch's viewer at pytorch.org/memory_viz opens it.

    Raises:
        ProfileError: (a ``ValueError``) the model lies on several devices, a tensor's bytes can't be found,
            there is no snapshot to save or it can't be saved, or neither ``step`` nor ``optimizers`` is
            given.
        StepOutOfMemoryError: (a ``torch.OutOfMemoryError``) the step that is looked at ran out of memory; its
            ``profile.ran_out`` says in which phase, module and operator, and whose the memory was then. Other
            errors of a step, and those of the steps before, come as they are.
    """
    known = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers or ())
    if warmup_steps < 0:
        raise ProfileError(f"warmup_steps is {warmup_steps}", hint="Give 0 or more.")
    if step is None:
        if not known:
            raise ProfileError(
                "neither a step nor an optimizer is given",
                hint="Give step=..., or optimizers=... for a plain step.",
            )
        run = plain_step(model, known)
    else:
        run = with_mark(step)
    watch = _watch(model, known, batch, stacks=snapshot_file is not None)
    if snapshot_file is not None:
        _check_snapshot_file(snapshot_file, watch)
    answers: AbstractContextManager[object] = (
        ScalarAnswers() if watch.ledger.device.type == "meta" else nullcontext()  # type: ignore[no-untyped-call]
    )
    with answers:
        for _ in range(warmup_steps):
            run(batch, no_mark)
    return watch.profile(run, batch, owner, snapshot_file=snapshot_file)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What looks at a step.

    Args:
        ledger: always.
        history: the allocator's own, where it keeps one; the ledger is then a ``TracedLedger``.
    """

    ledger: Ledger
    history: MemoryHistory | None = None

    def profile(
        self,
        run: Callable[[Any, Mark], object],
        batch: Any,
        owner: Owner | None = None,
        *,
        snapshot_file: Path | None = None,
    ) -> StepProfile:
        """Runs a step and says whose its memory was; see ``profile_step``."""
        ledger = self.ledger
        try:
            with garbage_collection_off(), self.history or nullcontext(), ledger:
                run(batch, ledger.mark)
        except (RuntimeError, MemoryError) as error:
            self._save(snapshot_file, failed=True)
            if ledger.ran_out is None:
                raise
            found = self._read(owner)
            raise StepOutOfMemoryError(f"{found.ran_out}: {error}", profile=found) from error
        self._save(snapshot_file)
        return self._read(owner)

    def _save(self, snapshot_file: Path | None, *, failed: bool = False) -> None:
        if snapshot_file is None or self.history is None:
            return
        try:
            self.history.save(snapshot_file)
        except OSError as error:
            if not failed:  # else the step's own error counts more
                raise ProfileError(
                    f"the snapshot can't be written to {snapshot_file}: {error.strerror}",
                    hint="Choose another snapshot_file.",
                ) from error

    def _read(self, owner: Owner | None) -> StepProfile:
        attribution = Attribution(self.ledger, owner=owner)
        found = attribution.profile()
        if self.history is None:
            return found
        assert isinstance(self.ledger, TracedLedger)
        claims = [
            Claim(address, allocations, category)
            for (address, allocations), category in zip(
                self.ledger.seen, attribution.categories(), strict=True
            )
        ]
        return replace(found, pool=join(self.history.recording(), claims, self.ledger.calls))


def _watch(model: nn.Module, optimizers: tuple[Optimizer, ...], batch: Any, *, stacks: bool) -> Watch:
    device = device_of(model)
    if device.type != "cuda" or not MemoryHistory.is_kept(torch.cuda):
        return Watch(ledger=Ledger(model, optimizers=optimizers, inputs=batch))
    history = MemoryHistory(torch.cuda, device, stacks=stacks)
    ledger = TracedLedger(model, optimizers=optimizers, inputs=batch, allocations=history.allocations)
    return Watch(ledger=ledger, history=history)


def _check_snapshot_file(path: Path, watch: Watch) -> None:
    if watch.history is None:
        raise ProfileError(
            f"there is no snapshot on {watch.ledger.device}: only CUDA's own caching allocator makes one",
            hint="Leave snapshot_file out, or move the model and the batch to a CUDA device.",
        )
    if not path.parent.is_dir():
        raise ProfileError(
            f"the snapshot can't be written to {path}: there is no directory {path.parent}",
            hint="Make the directory first.",
        )


def with_mark(step: Step) -> Callable[[Any, Mark], object]:
    """A step that takes a mark, from one that may not."""
    parameters = list(inspect.signature(step).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    takes_mark = len(required) >= 2 or (len(positional) >= 2 and positional[1].name == "mark")
    call: Any = step
    if takes_mark:
        return lambda batch, mark: call(batch, mark)
    return lambda batch, mark: call(batch)


def plain_step(model: nn.Module, optimizers: tuple[Optimizer, ...]) -> Callable[[Any, Mark], object]:
    """Forward, backward, the optimizers' steps; gradients are dropped at the end."""

    def run(batch: Any, mark: Mark) -> None:
        mark("forward")
        loss = loss_of(model(**batch) if isinstance(batch, Mapping) else model(batch))
        mark("backward")
        loss.backward()  # type: ignore[no-untyped-call]
        mark("optimizer")
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        mark(None)

    return run


def loss_of(output: Any) -> torch.Tensor:
    """The loss of a model's output: its ``loss``, or else the mean of its first tensor.

    Raises:
        ProfileError: there is neither.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, torch.Tensor):
        return loss
    first = output[0] if isinstance(output, list | tuple) and output else output
    if isinstance(first, torch.Tensor):
        return first if first.dim() == 0 else first.float().mean()
    raise ProfileError(
        f"the model's output, a {type(output).__name__}, has neither a loss nor a first tensor",
        hint="Give step=..., a function of the batch that runs one training step.",
    )
