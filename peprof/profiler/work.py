"""The work pass: floating-point operations and bytes of one training step, by phase, as they are executed.

Frozen weights need no gradient and checkpointed layers run twice: "backward is twice forward" is wrong for
every parameter-efficient method, so each operator that runs is counted in the phase in which it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from peprof.devices import Mark, no_mark
from peprof.profiler.phases import OUTSIDE_PHASE
from peprof.profiler.profile import Step, with_mark
from peprof.profiler.scalars import ScalarAnswers
from peprof.profiler.step import tensors_in
from peprof.profiler.work_formulas import bytes_accessed, flops_of, has_formula, may_be_work, name_of


@dataclass(frozen=True, kw_only=True)
class PhaseWork:
    """What one phase of a step has to do.

    Args:
        phase: its name.
        flops: floating-point operations of matrix products, convolutions and attention: a multiplication and
            an addition are two. What is done element by element isn't counted, as is the custom; of causal
            attention both halves are.
        bytes_accessed: that operators read and write, if each reads its inputs from memory once and writes
            its outputs there: what caches keep and kernels fuse makes it less.
        flops_by_operator: largest first.
    """

    phase: str
    flops: int
    bytes_accessed: int
    flops_by_operator: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one training step has to do.

    Args:
        phases: in the order in which they were first entered.
        uncounted: operators that ran, look as if they had work to count and have no formula, such as products
            in other number formats and kernels of other libraries: the sums are too small by theirs.
    """

    phases: tuple[PhaseWork, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Of all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def bytes_accessed(self) -> int:
        """Of all phases."""
        return sum(phase.bytes_accessed for phase in self.phases)

    def phase(self, name: str) -> PhaseWork | None:
        """A phase by name; ``None`` for one that the step doesn't have."""
        return next((phase for phase in self.phases if phase.phase == name), None)


def measure_work(step: Step, batches: Sequence[Any], *, warmup_steps: int = 1) -> StepWork:
    """Counts the work of one training step, on any device; on ``meta`` too: only shapes are looked at.

    Layers that are run again in backward (gradient checkpointing) count there once more, and a phase that is
    entered several times (gradient accumulation) is summed.

    Example::

        from peprof import measure_work

        model = nn.Linear(64, 256)

        def step(batch, mark):
            mark("forward")
            loss = model(batch).square().mean()
            mark("backward")
            loss.backward()
            mark(None)

        work = measure_work(step, [torch.randn(32, 64)])
        print(work.phase("forward").flops)  # 2 * 32 * 64 * 256

    Args:
        step: one training step, ``step(batch, mark)``, which calls ``mark("forward")``, ``mark("backward")``,
            ``mark("clip")``, ``mark("optimizer")`` where these begin and ``mark(None)`` at its end; of
            ``step(batch)`` all is counted as one phase, ``other``. It changes the model's weights as in
            training.
        batches: on the model's device; the last one is counted, the others warm up.
        warmup_steps: steps before, so that the optimizer has its state; 0 if steps were run already.

    Raises:
        ValueError: there is no batch, or ``warmup_steps`` is negative.
    """
    if not batches:
        raise ValueError("batches is empty; at least one batch is needed")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, not {warmup_steps}")
    run = with_mark(step)
    batch = batches[-1]
    on_meta = any(tensor.is_meta for tensor in tensors_in(batch))
    answers: AbstractContextManager[object] = ScalarAnswers() if on_meta else nullcontext()  # type: ignore[no-untyped-call]
    with answers:
        for index in range(warmup_steps):
            run(batches[index % len(batches)], no_mark)
        counter = WorkCounter()
        with counter:
            run(batch, counter.mark)
    return counter.result()


class WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the work of all operators that run in it, by the phases that it is told of."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase = OUTSIDE_PHASE
        self._flops: dict[str, dict[str, int]] = {}
        self._bytes: dict[str, int] = defaultdict(int)
        self._uncounted: dict[str, None] = {}
        self.mark: Mark = self._mark

    def _mark(self, phase: str | None) -> None:
        """``phase`` begins; ``None``: the step ends."""
        self._phase = phase or OUTSIDE_PHASE

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not has_formula(func) and isinstance(func, torch._ops.OpOverload):
            with self:  # in inference mode operators come that are made of others
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        out = func(*args, **kwargs)
        operators = self._flops.setdefault(self._phase, {})
        flops = flops_of(func, args, kwargs, out)
        if flops is not None:
            name = name_of(func)
            operators[name] = operators.get(name, 0) + flops
        elif may_be_work(func):
            self._uncounted[name_of(func)] = None
        self._bytes[self._phase] += bytes_accessed(func, args, kwargs, out)
        return out

    def result(self) -> StepWork:
        """What was counted until now."""
        return StepWork(
            phases=tuple(
                PhaseWork(
                    phase=phase,
                    flops=sum(operators.values()),
                    bytes_accessed=self._bytes[phase],
                    flops_by_operator=dict(sorted(operators.items(), key=lambda item: -item[1])),
                )
                for phase, operators in self._flops.items()
                if operators or self._bytes[phase]
            ),
            uncounted=tuple(self._uncounted),
        )
