"""The allocator's history joined to the ledger, on hand-written histories and on a GPU that isn't there."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peprof import profile_step
from peprof.breakdown.values import PoolMoment, StepProfile
from peprof.devices.cuda_history import MemoryHistory, Recording
from peprof.profiler.errors import ProfileError, StepOutOfMemoryError
from peprof.profiler.history import Call, Claim, join
from peprof.profiler.profile import plain_step
from tests.devices.fake_allocator import MIB, FakeAllocator
from tests.devices.fake_cuda import FakeCuda
from tests.profiler.fake_device import FakeGpu, run_on_fake_gpu
from tests.profiler.models import batch_of, build
from tests.profiler.steps import MlpStep

F32 = 4


def alloc(address: int, size: int) -> dict[str, Any]:
    return {"action": "alloc", "addr": address, "size": size}


def freed(address: int, size: int) -> list[dict[str, Any]]:
    return [{"action": f"free_{what}", "addr": address, "size": size} for what in ("requested", "completed")]


def test_blocks_go_to_storages_by_address_and_time_and_the_rest_to_operators() -> None:
    """The same address three times: scratch of the first operator, its output, then another's scratch."""
    blocks = [
        {"address": 8192, "size": 1024, "requested_size": 1000, "state": "active_allocated"},
        {"address": 9216, "size": 512, "requested_size": 400, "state": "active_allocated"},
        {"address": 9728, "size": 2 * MIB - 1536, "requested_size": 0, "state": "inactive"},
    ]
    segment = {"address": 8192, "total_size": 2 * MIB, "segment_type": "small", "blocks": blocks}
    entries = [
        {"action": "snapshot", "addr": 0, "size": 0},
        alloc(9728, 700),  # 0: scratch of mm
        *freed(9728, 700),
        alloc(9728, 700),  # 1: the output of mm
        alloc(10752, 100),  # 2: scratch of softmax
        alloc(11264, 600),  # 3: the output of softmax; here is the peak
        *freed(10752, 100),
        *freed(9728, 700),
        alloc(9728, 650),  # 4: between operators
    ]
    recording = Recording(
        segments=[segment], entries=entries, peak_requested_bytes=2800, peak_allocated_bytes=4096
    )
    claims = [
        Claim(8192, 0, "parameters.frozen"),
        Claim(9728, 2, "activations"),
        Claim(11264, 4, "temporaries.forward"),
        Claim(8192, 4, "too late"),  # the first word counts
        Claim(0, 4, "of no bytes"),
        Claim(99, 4, "on another device"),
        Claim(9728, 0, "not there then"),
    ]
    calls = [Call(0, 2, "aten.mm", "forward"), Call(2, 4, "aten.softmax", "backward")]
    found = join(recording, claims, calls)
    expected = {
        "parameters.frozen": 1000,
        "activations": 700,
        "temporaries.forward": 600,
        "held_before": 400,
        "workspace:aten.softmax": 100,
    }
    where: dict[str, Any] = {"phase": "backward", "operator": "aten.softmax", "residual_bytes": 0}
    assert found.requested == PoolMoment(total_bytes=2800, categories=expected, **where)
    # 24 + 324 + 424 + 112 + 412
    assert found.allocated == PoolMoment(total_bytes=4096, categories=expected | {"rounding": 1296}, **where)
    assert found.unmatched_storages == 2


def test_what_is_asked_for_between_operators_is_nobodys_and_what_is_free_is_no_storages() -> None:
    entries = [
        alloc(512, 100),  # 0: scratch of relu
        *freed(512, 100),
        alloc(1024, 300),  # 1: between operators
        alloc(2048, 200),  # 2: the output of mm
    ]
    recording = Recording(segments=[], entries=entries, peak_requested_bytes=500, peak_allocated_bytes=1024)
    calls = [Call(0, 1, "aten.relu", "forward"), Call(2, 3, "aten.mm", "forward")]
    claims = [Claim(2048, 3, "activations"), Claim(512, 2, "free by then")]
    found = join(recording, claims, calls)
    assert found.requested.categories == {"workspace:(between operators)": 300, "activations": 200}
    assert found.unmatched_storages == 1


def run_mlp(cuda: FakeCuda, **options: Any) -> StepProfile:
    step = MlpStep(64, 256, 2, adam=True)
    found: StepProfile = run_on_fake_gpu(
        cuda, step.model, step.optimizer, torch.randn(32, 64), step, **options
    )
    return found


@pytest.mark.slow
def test_without_workspaces_the_requested_peak_is_the_ledgers() -> None:
    found = run_mlp(cuda := FakeCuda())
    assert found.pool is not None
    assert found.pool.requested.categories == found.peak.categories
    assert found.pool.requested.total_bytes == found.peak_bytes
    assert found.pool.requested.operator == found.peak.operator
    assert found.pool.unmatched_storages == 0
    assert not cuda.allocator.recording and not cuda.allocator.trace


def test_workspaces_have_their_operators_name_and_older_ones_are_held_before() -> None:
    """A workspace of 8 MiB in a product of matrices, freed at its end, and one of 1 MiB from long before."""
    cuda = FakeCuda()
    cuda.allocator.malloc(MIB)

    def workspace(func: Any) -> int:
        return 8 * MIB if func is torch.ops.aten.mm.default else 0

    found = run_mlp(cuda, workspace=workspace)
    assert found.pool is not None
    peak = found.pool.requested
    assert (peak.phase, peak.operator) == ("backward", "aten.mm")
    assert peak.categories["workspace:aten.mm"] == 8 * MIB
    assert peak.categories["held_before"] == MIB
    assert sum(peak.categories.values()) == peak.total_bytes == cuda.allocator.peak["requested_bytes"]
    assert found.pool.allocated.total_bytes == cuda.allocator.peak["allocated_bytes"]
    assert found.pool.allocated.categories["rounding"] > 0
    assert found.pool.requested.residual_bytes == found.pool.allocated.residual_bytes == 0


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "lst"])
@pytest.mark.parametrize("checkpointing", [None, False])
def test_a_transformers_peaks_are_the_allocators_own(method: str, checkpointing: bool | None) -> None:
    """Scratch in softmax, norms and products; the counters are the stand-in's own."""
    model = build("distilbert", method, dropout=0.1, checkpointing=checkpointing)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)
    sizes = {"softmax": 3000, "norm": 700, "mm": 40_000}

    def workspace(func: Any) -> int:
        return next((size for word, size in sizes.items() if word in str(func)), 0)

    cuda = FakeCuda()
    batch = batch_of("distilbert")
    found = run_on_fake_gpu(
        cuda, model, optimizer, batch, plain_step(model, (optimizer,)), workspace=workspace
    )
    for moment, counter in (
        (found.pool.requested, "requested_bytes"),
        (found.pool.allocated, "allocated_bytes"),
    ):
        assert moment.residual_bytes == 0
        assert moment.total_bytes == cuda.allocator.peak[counter] == sum(moment.categories.values())
        assert not [name for name in moment.categories if name in ("held_before", "unattributed")]
        assert moment.categories["parameters.trainable"] == F32 * sum(p.numel() for p in trained)
    assert found.pool.unmatched_storages == 0


def test_a_snapshot_is_what_pytorchs_viewer_reads(tmp_path: Path) -> None:
    """PyTorch's own reader of snapshots makes a listing of it."""
    from torch.cuda import _memory_viz

    path = tmp_path / "snapshot.pickle"
    cuda = FakeCuda()
    run_mlp(cuda, snapshot_file=path)
    with path.open("rb") as file:
        snapshot = pickle.load(file)
    assert {"segments", "device_traces"} <= set(snapshot)
    (trace,) = snapshot["device_traces"]
    assert {"alloc", "free_requested", "free_completed"} <= {entry["action"] for entry in trace}
    listing = _memory_viz.trace(snapshot)
    assert listing.startswith("Device 0 -") and f"{len(trace)} entries" in listing
    assert io.StringIO(_memory_viz.segsum(snapshot)).readline().strip() != ""
    assert "MemoryViz.js" in _memory_viz.trace_plot(snapshot)


def test_a_step_that_runs_out_leaves_a_snapshot_and_its_pool(tmp_path: Path) -> None:
    step = MlpStep(64, 256, 2, adam=True)
    cuda = FakeCuda(allocator=FakeAllocator(capacity=8 * MIB))
    runs = 0

    def workspace(func: Any) -> int:
        nonlocal runs
        runs += func is torch.ops.aten.relu.default
        return 9 * MIB if func is torch.ops.aten.relu.default and runs == 2 else 0

    path = tmp_path / "snapshot.pickle"
    with pytest.raises(
        StepOutOfMemoryError, match=r"in aten.relu of 1, asking for 9,437,184 bytes"
    ) as raised:
        run_on_fake_gpu(
            cuda, step.model, step.optimizer, torch.randn(32, 64), step,
            workspace=workspace, snapshot_file=path,
        )  # fmt: skip
    found = raised.value.profile
    assert found.pool is not None and found.pool.requested.residual_bytes == 0
    assert found.ran_out is not None and found.ran_out.live.total_bytes == found.pool.requested.total_bytes
    trace = pickle.loads(path.read_bytes())["device_traces"][0]
    assert [entry["size"] for entry in trace if entry["action"] == "oom"] == [9 * MIB]
    assert not cuda.allocator.recording


def test_a_history_that_others_had_begun_is_left_out() -> None:
    cuda = FakeCuda()
    cuda.allocator.recording = True
    cuda.allocator.free(cuda.allocator.malloc(64 * MIB))
    found = run_mlp(cuda)
    assert found.pool is not None and found.pool.requested.total_bytes == found.peak_bytes


def test_what_a_history_that_is_switched_off_in_the_step_misses_is_a_residual() -> None:
    step = MlpStep(64, 256, 2, adam=True)
    cuda = FakeCuda()

    def run(batch: Any, mark: Any) -> None:
        mark("forward")
        loss = step.model(batch).square().mean()
        cuda.memory._record_memory_history(enabled=None, stacks="python")
        mark("backward")
        loss.backward()
        mark(None)

    found = run_on_fake_gpu(cuda, step.model, step.optimizer, torch.randn(32, 64), run)
    for moment in (found.pool.requested, found.pool.allocated):
        assert moment.residual_bytes == moment.categories["unattributed"] > 0
        assert sum(moment.categories.values()) == moment.total_bytes
    assert found.pool.unmatched_storages > 0
    assert sum(found.peak.categories.values()) == found.peak_bytes


def test_there_is_no_snapshot_elsewhere(tmp_path: Path) -> None:
    step = MlpStep(4, 8, 2, adam=False)
    for device in ("cpu", "meta"):
        with pytest.raises(ProfileError, match=f"no snapshot on {device}") as error:
            profile_step(step.model.to(device), torch.randn(3, 4), step, snapshot_file=tmp_path / "s.pickle")
        assert "CUDA" in (error.value.hint or "")
    assert step.calls == 0
    assert profile_step(nn.Linear(2, 2), torch.randn(1, 2), lambda batch: None).pool is None


def test_a_snapshot_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"can't be written to .*: Is a directory"):
        run_mlp(FakeCuda(), snapshot_file=tmp_path)


def test_a_counter_counts_from_the_beginning() -> None:
    cuda = FakeCuda()
    cuda.allocator.malloc(1)
    with MemoryHistory(cuda, torch.device("cuda", 0), stacks=True) as history:
        assert history.allocations() == 0
        FakeGpu(cuda).adopt([torch.ones(3), torch.ones(5)])
        assert history.allocations() == 2
    assert [e["size"] for e in history.recording().entries if e["action"] == "alloc"] == [12, 20]
