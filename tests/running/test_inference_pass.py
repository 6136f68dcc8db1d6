"""Work and inference in a run's record, and that measuring them doesn't change what the run trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from peprof.devices import CpuDevice
from peprof.errors import UsageError
from peprof.results.record import RunRecord
from peprof.running import worker
from peprof.running.inference_pass import InUse, run_inference_pass
from peprof.suite.loading import load_suite
from peprof.suite.planning import RunSpec, plan
from peprof.training.batches import Batch
from tests.running.helpers import write_suite


def spec_of(directory: Path, *, inference: bool, phases: str = '"short", "full"') -> RunSpec:
    asked = f'energy_seconds = "none"\ninference = {str(inference).lower()}'
    path = write_suite(directory, 'name = "lora"\nrank = 2', phases=phases, rows=16, limits=asked)
    return plan(load_suite(path).suite, device="cpu")[0]


def run(spec: RunSpec) -> RunRecord:
    record = worker.run(spec, device_name="cpu", source="t.toml", attempt=1, say=lambda event: None).record
    assert record.status == "ok", record.failure
    return record


@pytest.mark.slow
def test_a_run_with_it_trains_the_same_as_one_without(tmp_path: Path) -> None:
    with_it, without = (run(spec_of(tmp_path, inference=inference)) for inference in (True, False))
    assert with_it.full is not None and without.full is not None
    assert with_it.full.final_loss == without.full.final_loss
    assert with_it.full.evaluations[-1].loss == without.full.evaluations[-1].loss
    assert with_it.run_id != without.run_id

    assert without.short is not None and without.short.inference is None
    assert with_it.short is not None
    used, work = with_it.short.inference, with_it.short.work
    assert work is not None and [one.phase for one in work.phases][:2] == ["forward", "backward"]
    assert work.peak_flops_per_s is None and "no datasheet's peak" in work.peak_words
    assert used is not None and used.merged is not None and used.adapted.plain is not None
    assert len(used.adapted.times.forward_s) == len(used.adapted.plain.forward_s) == 3
    assert used.merged.peak_bytes == used.plain_peak_bytes
    assert with_it.short.breakdown is not None


def test_where_memory_does_not_suffice_for_both_the_run_goes_on(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, inference=True, phases='"short"')
    batch = Batch(inputs={"input_ids": torch.zeros(1, 1), "labels": torch.zeros(1)}, real_tokens=1)
    warnings: list[str] = []

    def pass_with(error: Exception) -> object:
        def make_plain() -> nn.Module:
            raise error

        in_use = InUse(method=object(), make_plain=make_plain)
        return run_inference_pass(
            spec, nn.Linear(1, 1), in_use, batch, CpuDevice(), lambda event: None, warnings.append
        )

    assert pass_with(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")) is None
    assert len(warnings) == 1 and "no memory left for the plain backbone" in warnings[0]
    with pytest.raises(RuntimeError, match="something else"):
        pass_with(RuntimeError("something else"))
    with pytest.raises(UsageError, match="not a memory error"):
        pass_with(UsageError("not a memory error"))
