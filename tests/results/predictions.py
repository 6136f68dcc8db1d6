"""Records with an estimate, with explicit values, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

from peprof.results.record import (
    EstimatedMemory,
    EstimatedPhase,
    Failure,
    MemoryResult,
    PeakBreakdown,
    PhaseMemory,
    RunRecord,
    ShortResult,
)
from tests.results.factory import ENVIRONMENT, MIB, make_record, make_short

GPU = ENVIRONMENT.model_copy(
    update={"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "driver": "570.1", "cuda": "13.0"}
)


def make_estimate(peak_mib: float | None = 100, **values: Any) -> EstimatedMemory:
    """Of a CPU, whose backward needs most and whose forward needs half of it, unless told otherwise."""
    tensors: dict[str, Any] = {}
    if peak_mib is not None:
        peak = int(peak_mib * MIB)
        tensors = {
            "peak_bytes": peak,
            "peak_phase": "backward",
            "phases": (
                EstimatedPhase(phase="forward", peak_bytes=peak // 2),
                EstimatedPhase(phase="backward", peak_bytes=peak),
            ),
            "categories": {"parameters": peak},
            "standing": {"tensors": "exact"},
        }
    return EstimatedMemory.model_validate({"kind": "cpu", **tensors, **values})


def on_a_gpu(peak_mib: float, reserved_mib: float, **values: Any) -> EstimatedMemory:
    """Of an H100, whose context is assumed to take 512 MiB."""
    standing = {"tensors": "exact", "reserved_bytes": "simulated", "device_bytes": "assumed"}
    reserved = int(reserved_mib * MIB)
    return make_estimate(
        peak_mib,
        **{
            "kind": "cuda", "gpu": "H100", "reserved_bytes": reserved, "standing": standing,
            "device_bytes": reserved + 512 * MIB, "there_bytes": 80 * 1024 * MIB, **values,
        },
    )  # fmt: skip


def counted_by_ledger(ledger_mib: float, *, counter_mib: float = 150) -> ShortResult:
    """A short phase on a CPU whose own counter saw more than the ledger."""
    ledger, counter = int(ledger_mib * MIB), int(counter_mib * MIB)
    breakdown = PeakBreakdown(
        peak_bytes=ledger,
        peak_phase="backward",
        categories={"activations": ledger},
        owners={"backbone": ledger},
        saved_bytes=ledger,
        uncounted_bytes=counter - ledger,
    )
    return make_short(peak_mib=counter_mib).model_copy(update={"breakdown": breakdown})


def counted_by_allocator(
    allocated_mib: float, reserved_mib: float, *, retries: int = 0, device_mib: float | None = None
) -> ShortResult:
    """A short phase on a GPU."""
    peak = int(allocated_mib * MIB)
    memory = MemoryResult(
        source="cuda_allocator",
        start_bytes=MIB,
        peak_allocated_bytes=peak,
        peak_reserved_bytes=int(reserved_mib * MIB),
        phases=(
            PhaseMemory(phase="forward", peak_bytes=peak // 2, end_bytes=peak // 2),
            PhaseMemory(phase="backward", peak_bytes=peak, end_bytes=MIB),
        ),
        alloc_retries=retries,
        device_bytes=int(device_mib * MIB) if device_mib is not None else None,
        device_bytes_of="process" if device_mib is not None else None,
    )
    return counted_by_ledger(allocated_mib).model_copy(update={"memory": memory})


def predicted(label: str, estimate: EstimatedMemory, short: ShortResult | None, **values: Any) -> RunRecord:
    """A finished run of which something was predicted."""
    return make_record(label, short=short, estimate=True, phases=("short",), **values).model_copy(
        update={"estimate": estimate}
    )


def ran_out(
    label: str, estimate: EstimatedMemory, *, phase: str = "short: warm-up", short: ShortResult | None = None,
    **values: Any,
) -> RunRecord:  # fmt: skip
    """A run whose memory didn't do."""
    failure = Failure(phase=phase, kind="OutOfMemoryError", message="out of memory")
    return predicted(label, estimate, short, status="oom", failure=failure, **values)
