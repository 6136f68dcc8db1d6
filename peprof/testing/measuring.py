"""What the fixture ``peprof`` offers: a step's memory and time, handed on to pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from torch import nn
from torch.optim import Optimizer

from peprof.breakdown.values import StepProfile
from peprof.devices import Mark, no_mark, open_device
from peprof.errors import UsageError
from peprof.profiler.attribution import Owner
from peprof.profiler.belongings import device_of
from peprof.profiler.errors import ProfileError
from peprof.profiler.latency import Latency, measure_latency
from peprof.profiler.profile import Step, plain_step, profile_step, with_mark


class StepMeasurements:
    """Measures steps of a test.

    Args:
        extra_info: where figures are noted as well, by name; ``None``: nowhere.
        watched: the test's memory is watched (``limit_peak_memory``), which takes time.
    """

    def __init__(self, extra_info: dict[str, Any] | None = None, *, watched: bool = False) -> None:
        self._extra_info = extra_info
        self._watched = watched

    def profile_step(
        self,
        model: nn.Module,
        batch: Any,
        step: Step | None = None,
        *,
        optimizers: Optimizer | Iterable[Optimizer] | None = None,
        owner: Owner | None = None,
        warmup_steps: int = 1,
        name: str = "",
    ) -> StepProfile:
        """Whose the memory of a training step is, see ``peprof.profile_step``.

        Notes ``peak_allocated_bytes``, ``peak_source`` (``cuda_allocator``, or ``ledger``: tensors alone) and
        ``peak_categories_bytes``, which add up to the peak.

        Args:
            model, batch, step, optimizers, owner, warmup_steps: as there.
            name: goes before what is noted, so that several steps of a test can be told apart.

        Raises:
            UsageError: a step without a name, or of this name, was noted before.
            ProfileError: as there.
        """
        found = profile_step(
            model, batch, step, optimizers=optimizers, owner=owner, warmup_steps=warmup_steps
        )
        counted = found.peak if found.pool is None else found.pool.allocated
        self._note(
            name,
            peak_allocated_bytes=counted.total_bytes,
            peak_source="ledger" if found.pool is None else "cuda_allocator",
            peak_categories_bytes=dict(counted.categories),
        )
        return found

    def time_step(
        self,
        model: nn.Module,
        batch: Any,
        step: Step | None = None,
        *,
        optimizers: Optimizer | Iterable[Optimizer] | None = None,
        warmup_steps: int = 5,
        steps: int = 30,
        max_seconds: float | None = 60.0,
        name: str = "",
    ) -> Latency:
        """Seconds of single training steps, see ``peprof.measure_latency``; the step clears its gradients.

        Notes medians: ``step_s``, those of the phases that the step marks (``forward_s``, ``backward_s``,
        ``clip_s``, ``optimizer_s``), and ``timed_steps``.

        Args:
            model: where it lies, the step is timed.
            batch: given to the step.
            step: ``step(batch)``, of which only the whole is timed, or ``step(batch, mark)``; ``None``, with
                ``optimizers``: a plain step, see ``peprof.profile_step``.
            optimizers: of a plain step.
            warmup_steps, steps, max_seconds: as there.
            name: goes before what is noted, so that several steps of a test can be told apart.

        Raises:
            UsageError: the test's memory is watched, or a step of this name was noted before.
            ProfileError: neither a step nor an optimizer is given, or the model lies on several devices.
            DeviceError: it lies where there is no time, as on ``meta``.
        """
        if self._watched:
            raise UsageError(
                "a step can't be timed in a test with limit_peak_memory: what watches the memory takes time",
                hint="Time it in a test of its own.",
            )
        known = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers or ())
        if step is None and not known:
            raise ProfileError(
                "neither a step nor an optimizer is given",
                hint="Give step=..., or optimizers=... for a plain step.",
            )
        timed = _Timed(plain_step(model, known) if step is None else with_mark(step))
        found = measure_latency(
            timed,
            [batch],
            open_device(str(device_of(model))),
            warmup_steps=warmup_steps,
            steps=steps,
            max_seconds=max_seconds,
        )
        phases = dict.fromkeys(phase for one in found.steps for phase in one.phases_s if phase != _WHOLE)
        medians = {
            f"{phase}_s": median(one.phases_s.get(phase, 0.0) for one in found.steps) for phase in phases
        }
        totals = [one.total_s for one in found.steps]
        self._note(name, step_s=median(totals), **medians, timed_steps=len(totals))
        return found

    def _note(self, name: str, **figures: Any) -> None:
        if self._extra_info is None:
            return
        named = {f"{name}.{figure}" if name else figure: value for figure, value in figures.items()}
        if known := sorted(named.keys() & self._extra_info.keys()):
            raise UsageError(
                f"extra_info has {', '.join(known)} already, of a step measured before in this test",
                hint='Tell them apart: peprof.profile_step(..., name="lora").',
            )
        self._extra_info |= named


_WHOLE = "step"


class _Timed:
    """A step whose edges are marked for it if it doesn't itself: found out in the warm-up."""

    def __init__(self, run: Callable[[Any, Mark], object]) -> None:
        self._run = run
        self._marks_itself: bool | None = None

    def __call__(self, batch: Any, mark: Mark) -> None:
        if self._marks_itself is None:
            self._find_out(batch)
        elif self._marks_itself:
            self._run(batch, mark)
        else:
            mark(_WHOLE)
            self._run(batch, no_mark)
            mark(None)

    def _find_out(self, batch: Any) -> None:
        marks: list[str | None] = []
        self._run(batch, marks.append)
        self._marks_itself = bool(marks)

    def resident_tensors(self) -> Iterable[Any]:
        """None: only time is measured."""
        return ()
