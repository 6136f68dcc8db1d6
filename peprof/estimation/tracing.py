"""A training step without data through the same ledger as a real one."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from peprof.breakdown.values import StepProfile
from peprof.estimation.attention_kernels import AMPERES, GpuKernels
from peprof.estimation.kernels import Kind, kernels_of
from peprof.estimation.scratch import UNTOLD, Scratch, ScratchLedger
from peprof.profiler.attribution import Attribution
from peprof.profiler.phases import OUTSIDE_PHASE
from peprof.profiler.scalars import ANSWERS, Answers, ScalarAnswers
from peprof.results.estimates import StepEvents
from peprof.training.batches import Batch
from peprof.training.step import ClassifierStep


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing dies by the garbage collector's whim; what lay about before isn't counted, so it may stay."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A step that went through the ledger, not yet read.

    Args:
        ledger: after the step.
        guessed: whether a whole number was asked for, on which sizes may depend.
    """

    ledger: ScratchLedger
    guessed: bool

    @property
    def scratch(self) -> tuple[Scratch, ...]:
        """What operators had meanwhile beside the ledger's tensors, as far as it is known."""
        return tuple(self.ledger.scratch)

    @property
    def untold(self) -> tuple[str, ...]:
        """What of it isn't known, in words."""
        return tuple(words for kernel, words in UNTOLD.items() if kernel in self.ledger.untold)

    @property
    def peak_bytes(self) -> int:
        """Live bytes at the highest moment; much quicker than all of ``profile``."""
        return max(self.ledger.book.log.levels())

    def profile(self, owners: Mapping[str, str] | None = None) -> StepProfile:
        """Whose each byte was."""
        return Attribution(self.ledger, owner=owners).profile()

    def events(self) -> StepEvents:
        """What an allocator would have been asked."""
        log = self.ledger.book.log
        return StepEvents(
            resident=tuple((number, log.sizes[number]) for number in log.resident),
            changes=tuple(log.changes()),
            phases=((0, OUTSIDE_PHASE), *self.ledger.phases.marked_edges),  # parts are cut before the first
        )


def trace(
    step: ClassifierStep,
    batch: Batch,
    kind: Kind,
    *,
    padded: bool = True,
    warm_up: bool = True,
    kernels: GpuKernels = AMPERES,
) -> Trace:
    """Runs two steps on ``meta``: one in which optimizer states come to be, and one that is looked at.

    Args:
        step: over a model on ``meta``.
        batch: on ``meta``.
        kind: of the device that ``meta`` stands for.
        padded: whether some example is shorter than the others, so that attention needs a mask.
        warm_up: whether there is a first step; not for a model that has done one before.
        kernels: what decides on those of attention of the GPU that it stands for.

    Raises:
        NotImplementedError, RuntimeError: an operator can't be run without data.
    """
    answers = Answers(truth=not padded, number=0.0)
    token = ANSWERS.set(answers)
    try:
        with _uncollected(), kernels_of(kind, kernels):
            if warm_up:
                with ScalarAnswers():  # type: ignore[no-untyped-call]
                    step(batch)
            ledger = ScratchLedger(
                step.model, optimizers=[step.optimizer], inputs=batch, gpu_only=kind == "cuda"
            )
            with ledger:
                step(batch, ledger.mark)
    finally:
        ANSWERS.reset(token)
    return Trace(ledger=ledger, guessed=bool(answers.guessed))
