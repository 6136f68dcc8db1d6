"""After a short phase ran out of memory: its step once more under the ledger, to see whose the memory was."""

from __future__ import annotations

import gc
from collections.abc import Mapping

from peprof.breakdown.values import StepProfile
from peprof.devices import Device
from peprof.profiler.errors import StepOutOfMemoryError
from peprof.profiler.profile import profile_step
from peprof.results.record import OutOfMemory
from peprof.running.short_phase import fixed_batches
from peprof.suite.planning import RunSpec
from peprof.training.batches import EncodedSplit
from peprof.training.step import ClassifierStep

STEPS = 2
"""In the first one the optimizer may make its state only at the end, and so need more in the second."""


def run_out_again(
    spec: RunSpec,
    step: ClassifierStep,
    train: EncodedSplit,
    owners: Mapping[str, str],
    device: Device,
) -> StepProfile | None:
    """Runs up to ``STEPS`` steps under the ledger, on as many batches as the timing pass has.

    To be called when nothing holds the first error any more: its traceback holds all that the step worked on.

    Args:
        spec: the run.
        step: that ran out of memory; its gradients are dropped.
        train: the rows.
        owners: of the model's modules and parameters, by qualified name.
        device: where it runs.

    Returns:
        The profile of the step that ran out of memory; ``None`` if none did.
    """
    step.optimizer.zero_grad(set_to_none=True)
    step.model.zero_grad(set_to_none=True)
    gc.collect()
    device.release_cached_memory()
    batches = fixed_batches(spec, train, device)
    for number in range(STEPS):
        batch = batches[number % len(batches)]
        try:
            profile_step(step.model, batch, step, optimizers=step.optimizer, owner=owners, warmup_steps=0)
        except StepOutOfMemoryError as error:
            return error.profile
    return None


def out_of_memory(profile: StepProfile) -> OutOfMemory | None:
    """What a record says of it; ``None`` where the step didn't run out of memory."""
    ran_out = profile.ran_out
    if ran_out is None:
        return None
    return OutOfMemory(
        phase=ran_out.phase,
        operator=ran_out.operator,
        module=ran_out.module,
        live_bytes=ran_out.live.total_bytes,
        categories=dict(ran_out.live.categories),
    )
