"""A run's own memory, computed in its own process: with the data, the device and the settings that it had."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from peprof.errors import SuiteError
from peprof.estimation.building import KnownData, known_data
from peprof.estimation.estimating import GUESSED, estimate_run
from peprof.estimation.pool_here import PoolHere, pool_here
from peprof.estimation.scratch import UNTOLD
from peprof.results.estimates import Estimate, grouped_bytes
from peprof.results.record import EstimatedMemory, EstimatedPhase, Standing
from peprof.running.estimate_pass import OwnRun
from peprof.training.batches import Batch
from peprof.training.step import cut

SUPPOSED_PADDING = "examples shorter than the longest length, as the run didn't get as far as its batches"
UNEVEN_PADDING = "padding in each part of the batch, though some have none"


@dataclass(frozen=True, kw_only=True)
class _FirstBatch:
    """What a step's memory depends on in the batch that the short phase measures it with.

    Args:
        on_meta: its tensors' shapes and types; ``None`` where there is no batch yet.
        padded: whether some example is shorter than the longest length.
        assumptions: in words.
    """

    on_meta: Batch | None
    padded: bool
    assumptions: tuple[str, ...] = ()


def estimate_own_run(run: OwnRun) -> EstimatedMemory:
    """The memory of the short phase's step of a run, for the device that it ran on.

    Args:
        run: as far as it got: what it didn't get to know is assumed, and said.
    """
    batch, pool = _first_batch(run), pool_here(run.kind, run.device_name)
    try:
        found = estimate_run(
            run.spec,
            _data(run),
            run.kind,
            source=run.source,
            padded=batch.padded,
            gpu=pool.gpu,
            kernels=pool.kernels,
            batch=batch.on_meta,
            settings=pool.settings,
        )
    except SuiteError as error:
        return run.without("; ".join(map(str, error.faults)))
    if found.profile is None:
        return run.without(found.problem or "no step could be run")
    return _recorded(run, found, pool, (*batch.assumptions, *pool.assumptions, *found.assumptions))


def _data(run: OwnRun) -> KnownData:
    if run.facts is None:
        return known_data(run.spec.data, source=run.source)
    return KnownData(num_labels=run.facts.num_labels, rows=run.facts.train_rows)


def _first_batch(run: OwnRun) -> _FirstBatch:
    """The first of the short phase's batches: the one that memory is measured with."""
    spec = run.spec
    if run.train is None:
        return _FirstBatch(on_meta=None, padded=True, assumptions=(SUPPOSED_PADDING,))
    batch = run.train.fixed_shape(spec.train.batch_size, 1, seed=spec.seed)[0]
    parts = {_is_padded(part) for part in cut(batch.inputs, spec.train.gradient_accumulation_steps)}
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in batch.inputs.items()}
    return _FirstBatch(
        on_meta=Batch(inputs=on_meta, real_tokens=batch.real_tokens),
        padded=True in parts,
        assumptions=(UNEVEN_PADDING,) if len(parts) > 1 else (),
    )


def _is_padded(inputs: dict[str, torch.Tensor]) -> bool:
    mask = inputs.get("attention_mask")
    return mask is not None and not bool(mask.all())


def _recorded(run: OwnRun, found: Estimate, pool: PoolHere, assumptions: tuple[str, ...]) -> EstimatedMemory:
    assert found.profile is not None  # as it has no problem
    peak = found.profile.peak
    supposed = {GUESSED, SUPPOSED_PADDING, UNEVEN_PADDING} & set(assumptions)
    doubtful = bool(supposed) or not pool.kernels_known
    counted: Standing = "exact" if found.exact else "by formula"
    standing: dict[str, Standing] = {"tensors": "assumed" if doubtful else counted}
    if found.reserved_bytes is not None:
        incomplete = doubtful or bool(set(UNTOLD.values()) & set(assumptions))
        standing |= {"reserved_bytes": "assumed" if incomplete else "simulated", "device_bytes": "assumed"}
    return EstimatedMemory(
        kind=run.kind,
        gpu=pool.gpu.gpu.name if pool.gpu is not None else None,
        peak_bytes=peak.total_bytes,
        peak_phase=peak.phase,
        phases=tuple(
            EstimatedPhase(phase=part.phase, peak_bytes=part.peak.total_bytes)
            for part in found.profile.phases
        ),
        categories=grouped_bytes(peak.categories),
        reserved_bytes=found.reserved_bytes,
        device_bytes=found.device_bytes,
        standing=standing,
        there_bytes=run.memory_bytes,
        assumptions=assumptions,
    )
