"""Many runs at once, and the log of births and deaths that an allocator is to be fed with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from peprof.errors import UsageError
from peprof.estimation import estimating
from peprof.estimation.building import known_data
from peprof.estimation.estimating import estimate_runs
from peprof.estimation.fitting import find_fit
from peprof.estimation.targets import find_target, memory_here, read_bytes
from peprof.events import Progress
from peprof.results.estimates import Estimate
from peprof.suite.schema import DataConfig
from tests.estimation.small_models import ARCHITECTURES, METHODS, spec_of, write_configs


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(tmp_path_factory.mktemp("models"))


def test_the_log_adds_up_to_the_peaks_of_all_phases(models: Path) -> None:
    spec = spec_of(models, "llama-lm", "lora", train__gradient_accumulation_steps=2)
    [found] = estimate_runs([spec], "cuda", source="a suite", events=True)
    assert found.events is not None and found.profile is not None
    level = sum(nbytes for _, nbytes in found.events.resident)
    assert level == found.profile.start_bytes
    highest: dict[str, int] = {}
    alive = {number for number, nbytes in found.events.resident if nbytes}
    for number, change, phase in found.events.in_phases():
        highest[phase] = max(highest.get(phase, level), level)
        (alive.add if change > 0 else alive.remove)(number)
        level += change
        highest[phase] = max(highest[phase], level)
    assert level == found.profile.end_bytes
    assert max(highest.values()) == found.profile.peak_bytes
    for phase in found.profile.phases:
        if phase.phase in highest:
            assert highest[phase.phase] == phase.peak.total_bytes
    assert {"forward", "backward", "clip", "optimizer"} <= set(highest)


def test_runs_that_need_the_same_are_computed_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = spec_of(models, "bert", "lora")
    others = [
        base.model_copy(update={"seed": 7}),
        base.model_copy(update={"train": base.train.model_copy(update={"learning_rate": 1e-2})}),
        base.model_copy(update={"train": base.train.model_copy(update={"batch_size": 9})}),
    ]
    computed: list[int] = []
    real = estimating.estimate_run

    def counted(spec, *arguments, **options):
        computed.append(spec.train.batch_size)
        return real(spec, *arguments, **options)

    monkeypatch.setattr(estimating, "estimate_run", counted)
    said: list[Progress] = []
    found = estimate_runs([base, *others], "cuda", source="a suite", say=said.append)
    assert computed == [4, 9]
    assert [item.spec for item in found] == [base, *others]
    assert replace(found[0], spec=others[0]) == found[1] and found[3].peak_bytes != found[0].peak_bytes
    assert [(event.step, event.total) for event in said] == [(0, 2), (1, 2)]
    assert said[0].seconds_left is None and said[1].seconds_left is not None


def test_amounts_and_devices() -> None:
    assert read_bytes("24GB") == 24_000_000_000 and read_bytes("1.5 GiB") == 1_610_612_736
    for wrong in ("", "GB", "0GB", "-1GB", "24XB", "24 G B"):
        with pytest.raises(UsageError):
            read_bytes(wrong)
    assert find_target("CUDA").kind == "cuda"
    with pytest.raises(UsageError):
        find_target("A9000")
    here = memory_here("cpu", "auto")
    assert here is not None and here > 2**28


def test_a_known_gpu_reserves_whole_segments_and_keeps_a_context(models: Path) -> None:
    spec = spec_of(models, "bert", "full")
    gpu = find_target("rtx4090").gpu
    assert gpu is not None
    [found] = estimate_runs([spec], "cuda", source="a suite", gpu=gpu)
    assert found.reserved_bytes is not None and found.peak_bytes is not None
    assert found.reserved_bytes % (2 * 2**20) == 0  # torch asks the device for nothing smaller
    assert found.reserved_bytes >= found.peak_bytes + sum(gpu.workspaces_bytes)
    assert found.device_bytes == found.reserved_bytes + gpu.context.nbytes


def test_what_fits_a_known_gpu_is_judged_by_its_pool(models: Path) -> None:
    spec = spec_of(models, "llama-lm", "lora", data__max_length=48)
    gpu = find_target("rtx4090").gpu
    known = known_data(spec.data, source="a suite")
    limit = 60 * 2**20
    fit = find_fit(spec, known, "cuda", "batch", limit, source="a suite", gpu=gpu)
    assert fit.largest is not None and fit.beyond is not None
    assert fit.need_bytes == fit.estimate.reserved_bytes
    assert (fit.need_bytes or 0) <= limit < (fit.beyond.reserved_bytes or 0)
    assert (fit.estimate.peak_bytes or 0) < (fit.need_bytes or 0)


def test_autocast_copies_weights_and_halves_what_layers_keep(models: Path) -> None:
    """As on a GPU; parameters and their states stay in float32."""
    options = {"data__max_length": 40, "train__batch_size": 16}
    plain, cast = (
        estimate_runs([spec_of(models, "llama-lm", "full", **options, **more)], "cuda", source="a suite")[0]
        for more in ({}, {"train__autocast": "bfloat16"})
    )
    assert plain.profile is not None and cast.profile is not None, cast.problem
    assert cast.profile.start_bytes == plain.profile.start_bytes
    widths = {
        item.dtype
        for item in cast.profile.activations.saved
        if item.module and "mlp.down_proj" in item.module
    }
    assert widths == {"bfloat16"}
    assert cast.profile.activations.total_bytes < plain.profile.activations.total_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        (method, architecture)
        for row, method in enumerate(METHODS)
        for column, architecture in enumerate(ARCHITECTURES)
        if os.environ.get("PEPROF_EVERY_SETTING") or (row + column) % 3 == 0
    ],
)
def test_autocast_and_checkpointing_give_a_number_on_a_gpus_operators(
    models: Path, method: str, architecture: str
) -> None:
    """Or the reason that there is without autocast."""
    options = {"method__gradient_checkpointing": True, "data__max_length": 16}

    def estimated(**more: str) -> Estimate:
        spec = spec_of(models, architecture, method, **options, **more)
        return estimate_runs([spec], "cuda", source="a suite")[0]

    cast = estimated(train__autocast="bfloat16")
    if cast.peak_bytes is None:
        assert cast.problem == estimated().problem


def test_reading_data_draws_no_bars(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\n" + "a good film,1\na bad one,0\n" * 8)
    known = known_data(DataConfig(path=str(tmp_path)), source="a suite")
    assert (known.num_labels, known.rows) == (2, 16)
    assert capfd.readouterr() == ("", "")
