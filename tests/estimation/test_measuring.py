"""Borders that are measured: in real processes against all sizes one by one, and the search's own cases."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peprof.devices import DeviceBytes
from peprof.devices.cpu import CpuDevice
from peprof.devices.cuda import AllocatorMeter, CudaDevice
from peprof.errors import Fault, SuiteError
from peprof.estimation import fitting, measuring
from peprof.estimation.fitting import Dimension, sized
from peprof.estimation.measuring import MeasuredFits, Place
from peprof.events import Progress
from peprof.results.estimates import Estimate
from peprof.results.measured_fits import MeasuredFit, Trial
from peprof.running import methods, subject, tries, trying, worker
from peprof.running.tasks import Slot, TryTask
from peprof.running.tries import Tries
from peprof.suite.planning import RunSpec
from tests.devices.fake_allocator import MIB, FakeAllocator
from tests.devices.fake_cuda import FakeCuda
from tests.estimation.small_models import known_once, spec_of, write_configs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _look_methods_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "known_methods", known_once)


def place(memory_bytes: int, device: str = "cpu", name: str = "a processor") -> Place:
    return Place(device=device, device_name=name, memory_bytes=memory_bytes)


def recorded_peaks(spec: RunSpec, dimension: Dimension, sizes: Iterable[int]) -> dict[int, int]:
    """What a whole run's memory pass records at each size."""
    peaks: dict[int, int] = {}
    for size in sizes:
        run = sized(spec, dimension, size)
        record = worker.run(run, device_name="cpu", source="", attempt=1, say=lambda event: None).record
        assert record.short is not None and record.short.memory is not None
        peaks[size] = record.short.memory.peak_allocated_bytes
    return peaks


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
@pytest.mark.parametrize(("architecture", "dimension"), [("bert", "batch"), ("llama-lm", "length")])
def test_it_agrees_with_all_sizes_one_by_one(
    models: Path, method: str, architecture: str, dimension: Dimension, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "collect", lambda: 0)
    spec = spec_of(models, architecture, method)
    first = 1 if dimension == "batch" else 4
    peaks = recorded_peaks(spec, dimension, range(first, first + 9))
    with Tries(Slot(device="cpu", lock="cpu"), source="", notice=lambda text: None) as tried:
        for border in (first, first + 6):
            memory = (peaks[border] + peaks[border + 1]) // 2
            expected = max((size for size, peak in peaks.items() if peak <= memory), default=None)
            [fit] = MeasuredFits([spec], place(memory), [dimension], source="", try_run=tried).run()
            assert fit.largest == expected == border and fit.verified and fit.unanswered is None
            assert fit.border is not None and fit.border.peak_bytes == peaks[border]
            assert fit.beyond is not None and fit.beyond.peak_bytes == peaks[border + 1]
            assert len(fit.trials) <= 6
            assert all(trial.peak_bytes == peaks[trial.size] for trial in fit.trials if trial.size in peaks)
            estimated = fit.estimated_bytes
            assert estimated is not None and fit.estimate_error is not None
            assert math.isclose(fit.estimate_error, (estimated - peaks[border]) / peaks[border])


@pytest.mark.slow
def test_nothing_fits_where_not_even_the_first_size_does(models: Path) -> None:
    spec = spec_of(models, "bert", "full", train__gradient_accumulation_steps=4)
    with Tries(Slot(device="cpu", lock="cpu"), source="", notice=lambda text: None) as tried:
        [fit] = MeasuredFits([spec], place(50_000), ["batch"], source="", try_run=tried).run()
    assert fit.largest is None and fit.verified and [trial.size for trial in fit.trials] == [4]
    assert fit.bound_by == "optimizer" and fit.estimate_error is None


def pretended(
    needs: Callable[[int], int], asked: list[int] | None = None
) -> Callable[[RunSpec, int, int, Callable[[Progress], None]], Trial]:
    """Tries whose need is known without trying."""

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        assert size in (spec.train.batch_size, spec.data.max_length)
        if asked is not None:
            asked.append(size)
        hear(Progress(phase="step 1 of 2"))
        fits = needs(size) <= memory
        return Trial(size=size, ended="fits" if fits else "over", seconds=2.0, peak_bytes=needs(size))

    return try_run


@pytest.mark.slow
def test_batches_are_of_whole_parts_and_lengths_end_with_the_positions(models: Path) -> None:
    spec = spec_of(models, "bert", "lora", train__gradient_accumulation_steps=4)
    batch, length = MeasuredFits(
        [spec], place(10**6), ["batch", "length"], source="", try_run=pretended(lambda size: 20_000 * size)
    ).run()
    assert (batch.largest, batch.unit, batch.at_cap) == (48, 4, False)
    assert (length.largest, length.cap, length.at_cap) == (40, 40, True)
    assert length.verified and length.beyond is None and length.bound_by is None


def test_where_nothing_can_be_estimated_it_begins_with_the_runs_own_size(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = partial(Estimate, kind="cpu", profile=None, problem="can't be told without data")
    monkeypatch.setattr(fitting, "estimate_run", lambda spec, *_, **__: untold(spec=spec))
    spec = spec_of(models, "bert", "full", train__batch_size=6)
    asked: list[int] = []
    try_run = pretended(lambda size: 1_000 * size, asked)
    [fit] = MeasuredFits([spec], place(17_500), ["batch"], source="", try_run=try_run).run()
    assert asked[0] == 6 and fit.largest == 17 and fit.verified
    assert fit.there is None and fit.estimate_error is None and fit.bound_by is None


def test_a_try_that_says_nothing_of_memory_ends_its_border_and_no_other(models: Path) -> None:
    specs = [spec_of(models, "bert", "full"), spec_of(models, "bert", "lora")]
    usual = pretended(lambda size: 50_000 * size)

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        if spec.method.name == "full":
            return Trial(size=size, ended="died", seconds=1.0, message="exit code 7")
        return usual(spec, size, memory, hear)

    full, lora = MeasuredFits(specs, place(10**6), ["batch"], source="", try_run=try_run).run()
    assert len(full.trials) == 1 and not full.verified and full.unanswered is full.trials[0]
    assert full.largest is None and full.beyond is None and full.there is None
    assert lora.largest == 20 and lora.verified


def test_what_was_found_stays_when_it_is_interrupted(models: Path) -> None:
    specs = [spec_of(models, "bert", "full"), spec_of(models, "bert", "lora")]
    usual = pretended(lambda size: 1_000 * size * size)
    asked: list[str] = []

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        asked.append(spec.method.name)
        if asked.count("lora") == 2:
            raise KeyboardInterrupt
        return usual(spec, size, memory, hear)

    borders = MeasuredFits(specs, place(10**6), ["batch"], source="", try_run=try_run)
    with pytest.raises(KeyboardInterrupt):
        borders.run()
    full, lora = borders.found
    assert full.largest == 31 and full.verified and full.there is not None
    assert len(lora.trials) == 1 and not lora.verified and lora.estimated is not None


def test_it_says_what_is_tried_and_how_long_it_will_take(models: Path) -> None:
    specs = [spec_of(models, "bert", "full"), spec_of(models, "bert", "lora")]
    said: list[Progress] = []
    told: list[tuple[MeasuredFit, Trial]] = []
    MeasuredFits(
        specs,
        place(10**6),
        ["batch"],
        source="",
        try_run=pretended(lambda size: 50_000 * size),
        say=said.append,
        tell=lambda fit, trial: told.append((fit, trial)),
    ).run()
    first = sum(fit.spec is specs[0] for fit, _ in told)
    assert [event.phase for event in said[:2]] == [
        "fitting full: estimating",
        f"fitting full: batch {told[0][1].size}",
    ]
    assert {event.total for event in said} == {2} and said[0].seconds_left is None
    # Tries take 2 s each: one more is to come here, and at the other border as many as at this one.
    begun = next(event for event in said if event.phase == "fitting lora: estimating")
    assert begun.seconds_left == pytest.approx(2.0 * first)
    assert [trial for fit, trial in told if fit.spec is specs[0]] == [
        fit.trials[-1] for fit, _ in told[:first]
    ]


class PoolDevice(CpuDevice):
    """A processor whose memory is counted and limited by a GPU's pool."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._gpu = CudaDevice(0, cuda=cuda)
        self._cuda = cuda

    def limit_memory(self, nbytes: int) -> None:
        self._gpu.limit_memory(nbytes)

    def memory_meter(self, resident: Iterable[torch.Tensor]) -> Any:
        used = DeviceBytes(
            used_bytes=self._cuda.allocator.current["reserved_bytes"] + 300 * MIB, of="process"
        )
        return AllocatorMeter(self._cuda, torch.device("cuda", 0), lambda reserved_bytes: used)


@pytest.mark.slow
def test_on_a_gpu_the_pool_itself_runs_out_at_the_memory_that_is_asked_for(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each forward pass takes 4 MiB an example in one piece, besides 30 MiB: so 25 fit into 130."""
    apply = subject.apply_method
    pools: list[FakeAllocator] = []

    def apply_method(*arguments: Any) -> Any:
        applied = apply(*arguments)
        pool = pools[-1]

        def take(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
            piece = pool.malloc(len(keywords["labels"]) * 4 * MIB)
            pool.free(piece)

        applied.model.register_forward_pre_hook(take, with_kwargs=True)
        return applied

    def open_device(name: str) -> PoolDevice:
        assert name == "cuda:0"
        pools.append(FakeAllocator(capacity=2**36))
        pools[-1].malloc(30 * MIB)
        return PoolDevice(FakeCuda(allocator=pools[-1]))

    monkeypatch.setattr(subject, "apply_method", apply_method)
    monkeypatch.setattr(trying, "open_device", open_device)
    heard: list[str] = []

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        task = TryTask(spec=spec, device="cuda:0", source="", memory_bytes=memory)
        tried = trying.try_size(task, lambda event: heard.append(event.phase))
        return tries.trial_of(tried, size, memory, 1.0)

    spec = spec_of(models, "bert", "lora")
    [fit] = MeasuredFits(
        [spec], place(130 * MIB, "cuda:0", "NVIDIA Fake 100"), ["batch"], source="", try_run=try_run
    ).run()
    assert fit.largest == 25 and fit.verified
    assert fit.border is not None and fit.border.peak_bytes == fit.border.reserved_bytes == 130 * MIB
    assert fit.border.unowned_bytes == 300 * MIB and fit.border.alloc_retries == 0
    assert fit.beyond is not None and (fit.beyond.size, fit.beyond.ended) == (26, "oom")
    assert fit.beyond.phase == "forward of step 1 of 2" and fit.beyond.peak_bytes is None
    assert fit.beyond.message is not None and "Tried to allocate 104.00 MiB" in fit.beyond.message
    assert fit.trials[0].size > 1_000, "the estimate knows nothing of what is taken besides"
    assert len(pools) == len(fit.trials) <= 16
    assert heard[:2] == ["setup", "step 1 of 2"] and "step 2 of 2" in heard


@pytest.mark.slow
def test_for_a_gpu_that_is_known_its_simulated_pool_is_what_is_estimated(models: Path) -> None:
    spec, memory = spec_of(models, "bert", "lora"), 40 * MIB

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        fits = size <= 70
        return Trial(
            size=size,
            ended="fits" if fits else "oom",
            seconds=1.0,
            peak_bytes=400_000 * size if fits else None,
            reserved_bytes=38 * MIB if fits else None,
        )

    here = place(memory, "cuda:0", "NVIDIA GeForce RTX 4090")
    [fit] = MeasuredFits([spec], here, ["batch"], source="", try_run=try_run).run()
    assert fit.largest == 70 and fit.there is not None and fit.estimated is not None
    found: Estimate = fit.there.estimate
    assert found.spec.train.batch_size == 70 and found.reserved_bytes == fit.estimated_bytes
    assert found.kind == "cuda" and found.reserved_bytes != found.peak_bytes
    assert fit.estimate_error == pytest.approx(found.reserved_bytes / (38 * MIB) - 1)  # type: ignore[operator]
    assert replace(fit, there=None).estimate_error is None


def fitting_up_to(largest: int) -> Callable[[RunSpec, int, int, Callable[[Progress], None]], Trial]:
    """Tries on a GPU whose pool holds 38 MiB whenever a size fits."""

    def try_run(spec: RunSpec, size: int, memory: int, hear: Callable[[Progress], None]) -> Trial:
        if size > largest:
            return Trial(size=size, ended="oom", seconds=1.0)
        peak_bytes = 400_000 * size
        return Trial(size=size, ended="fits", seconds=1.0, peak_bytes=peak_bytes, reserved_bytes=38 * MIB)

    return try_run


def test_the_pool_is_simulated_as_the_environment_sets_it_up(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children inherit it, so estimates heed it too; blocks of rounder sizes hold more."""
    spec, gpu = spec_of(models, "bert", "lora"), "NVIDIA GeForce RTX 4090"

    def reserved_bytes(value: str) -> tuple[int | None, tuple[str, ...]]:
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", value)
        here = place(1024 * MIB, "cuda:0", gpu)
        [fit] = MeasuredFits([spec], here, ["batch"], source="", try_run=fitting_up_to(2_000)).run()
        assert fit.there is not None and fit.there.estimate.spec.train.batch_size == 2_000
        return fit.there.estimate.reserved_bytes, fit.assumptions

    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    usual, rounded = reserved_bytes(""), reserved_bytes("roundup_power2_divisions:2")
    assert usual[0] is not None and rounded[0] is not None and usual[0] < rounded[0]
    assert usual[1] == rounded[1] == ()
    unknown, assumptions = reserved_bytes("backend:cudaMallocAsync")
    assert unknown is None and len(assumptions) == 1 and "isn't simulated" in assumptions[0]


def test_what_cant_be_estimated_at_all_is_tried_all_the_same(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise SuiteError("a suite", [Fault(key="model.name", problem="its shape isn't known here")])

    monkeypatch.setattr(measuring, "find_fit", refuse)
    spec = spec_of(models, "bert", "full", train__batch_size=8, train__gradient_accumulation_steps=4)
    asked: list[int] = []
    try_run = pretended(lambda size: 1_000 * size, asked)
    [fit] = MeasuredFits([spec], place(17_500), ["batch"], source="", try_run=try_run).run()
    assert asked[0] == 8 and (fit.largest, fit.unit, fit.verified) == (16, 4, True)
    assert fit.estimated is not None and fit.estimate_error is None
    assert fit.estimated.estimate.problem == "model.name: its shape isn't known here"
