"""What counts against a limit: bytes by formulas, whatever made them, and none of what was let go of."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from peprof.devices.cpu import AllocationEventMeter
from peprof.running.methods import enable_checkpointing
from peprof.testing.limiting import AllocatorPeaks, PeakLimit
from peprof.testing.live_tensors import LiveTensors

CPU, META = torch.device("cpu"), torch.device("meta")
B, D, F = 6, 20, 30
LAYER = 4 * (D * F + F)


def peaks_of(code: Callable[[], object]) -> dict[torch.device, int]:
    with LiveTensors() as seen:
        code()
    return seen.peaks()


def one_after_the_other() -> None:
    for _ in range(3):
        made = torch.zeros(100)
        del made


def one_beside_the_other() -> list[torch.Tensor]:
    return [torch.zeros(100), torch.tensor([1.0] * 50), torch.ones(25, dtype=torch.float64)]


def models_one_after_the_other() -> None:
    for _ in range(3):
        model = nn.Linear(D, F)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False, fused=False)
        model(torch.zeros(0, D)).sum().backward()
        optimizer.step()
        del model, optimizer


@pytest.mark.parametrize(
    ("code", "peak_bytes"),
    [
        (one_after_the_other, 400),
        (one_beside_the_other, 400 + 200 + 200),
        (lambda: torch.zeros(100).view(10, 10)[2:], 400),
        (lambda: torch.zeros(10).resize_(100), 400 + 40),  # the old block goes when the new one is there
    ],
)
def test_peaks_are_those_of_what_is_alive_at_once(code: Callable[[], object], peak_bytes: int) -> None:
    assert peaks_of(code) == {CPU: peak_bytes}


def test_no_model_is_kept_alive() -> None:
    # Weights, their gradients, and the two losses' scalars: of one model, however many there were.
    assert peaks_of(models_one_after_the_other)[CPU] == 2 * LAYER + 2 * 4


def test_a_step_of_a_layer() -> None:
    def step() -> None:
        model = nn.Linear(D, F)
        x = torch.zeros(B, D)
        y = model(x)
        loss = y.sum()
        loss.backward()
        del x, y, loss

    # Weights, x, y, the loss, its gradient (1), and the weights' gradients.
    expected = LAYER + 4 * B * D + 4 * B * F + 4 + 4 + LAYER
    assert peaks_of(step) == {CPU: expected}


def test_what_was_there_before_does_not_count() -> None:
    model, x = nn.Linear(D, F), torch.zeros(B, D)
    before = [torch.zeros(1000)]

    def use() -> torch.Tensor:
        before.clear()  # what is let go of makes no room either
        with torch.no_grad():
            return model(x.view(B, D))  # type: ignore[no-any-return]

    assert peaks_of(use) == {CPU: 4 * B * F}


def test_what_is_read_from_a_file_or_copied_counts() -> None:
    model = nn.Linear(D, F)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert peaks_of(lambda: torch.load(file)) == {CPU: LAYER}
    assert peaks_of(lambda: copy.deepcopy(model)) == {CPU: LAYER}


def test_each_device_by_itself() -> None:
    def both() -> object:
        return torch.zeros(10), torch.zeros(100, device="meta")

    with LiveTensors() as seen:
        kept = both()
    assert kept
    assert seen.peaks() == {CPU: 40, META: 400}
    for device, peak_bytes in ((META, 400), (CPU, 40)):
        found = seen.profile(device)
        assert (found.device, found.peak_bytes) == (str(device), peak_bytes)
        assert dict(found.peak.operators) == {"aten.zeros": peak_bytes}


def test_whose_it_was() -> None:
    with LiveTensors() as seen:
        model = nn.Sequential(nn.Linear(D, F), nn.BatchNorm1d(F))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
        model(torch.zeros(B, D)).sum().backward()
        optimizer.step()
        extra = torch.zeros(10_000)
    peak = seen.profile(CPU).peak
    weights = LAYER + 4 * 2 * F
    assert dict(peak.categories) == {
        "temporaries.other": extra.nbytes,
        "parameters.trainable": weights,
        "gradients": weights,
        "optimizer_state": weights,
        "buffers": 4 * 2 * F + 8,  # running mean and variance; the count of batches
    }
    named = {module.name: module.total_bytes for module in peak.modules.walk()}
    assert named["Sequential.0"] == 3 * LAYER
    assert named["Sequential.1"] == 3 * 4 * 2 * F + 4 * 2 * F + 8
    assert named["(outside the model)"] == extra.nbytes


def test_it_leaves_nothing_behind() -> None:
    model = nn.Linear(D, F)
    with LiveTensors():
        model(torch.zeros(B, D)).sum().backward()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert not model._forward_hooks
    with LiveTensors() as again:
        pass
    assert again.peaks() == {}


class PlayedCuda:
    """Two devices of an allocator that counts."""

    def __init__(self, *, used: bool) -> None:
        self.used = used
        self.now = [1000, 0]
        self.most = [5000, 0]

    def is_initialized(self) -> bool:
        return self.used

    def device_count(self) -> int:
        return 2

    def reset_peak_memory_stats(self, index: int) -> None:
        assert self.used
        self.most[index] = self.now[index]

    def memory_allocated(self, index: int) -> int:
        return self.now[index]

    def max_memory_allocated(self, index: int) -> int:
        return self.most[index]

    def take(self, index: int, count: int) -> None:
        self.used = True
        self.now[index] += count
        self.most[index] = max(self.most[index], self.now[index])


def on(index: int) -> torch.device:
    return torch.device("cuda", index)


def test_the_allocators_peak_is_of_what_came_since() -> None:
    cuda = PlayedCuda(used=True)
    peaks = AllocatorPeaks(cuda)
    peaks.begin()
    cuda.take(0, 512)
    cuda.take(0, -512)
    cuda.take(1, 2048)
    assert peaks.peaks() == {on(0): 512, on(1): 2048}


def test_cuda_is_not_begun_to_be_used() -> None:
    cuda = PlayedCuda(used=False)
    cuda.now, cuda.most = [0, 0], [0, 0]
    peaks = AllocatorPeaks(cuda)
    peaks.begin()
    assert peaks.peaks() == {}
    cuda.take(1, 2048)
    assert peaks.peaks() == {on(0): 0, on(1): 2048}


def test_on_cuda_the_allocators_count_is_held_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = PlayedCuda(used=True)
    with PeakLimit(1000, cuda=cuda) as limit:
        kept = torch.zeros(100, device="meta")
        cuda.take(1, 1536)
    assert kept.nbytes == 400
    assert limit.peaks() == {META: 400, on(0): 0, on(1): 1536}
    monkeypatch.setattr(limit._tensors._storages, "devices", [on(1)])  # as if it had been made there
    excess = limit.excess()
    assert str(excess).splitlines()[:4] == [
        "more memory on cuda:1 than limit_peak_memory allows",
        "  limit  1000 B (1,000 B)",
        "  peak   1.50 KiB (1,536 B), in aten.zeros",
        "  of it  400 B (400 B) are tensors; the rest is the allocator's rounding and what libraries use",
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_transformer_made_and_trained_is_counted_as_the_allocator_counts(checkpointing: bool) -> None:
    """The torch profiler's events say the same, but for scalars that operators make tensors of within."""
    config = DistilBertConfig(
        vocab_size=100, dim=32, hidden_dim=64, n_heads=2, n_layers=2, attn_implementation="eager"
    )
    ids = torch.randint(5, 100, (4, 16))

    def train() -> None:
        model = DistilBertForSequenceClassification(config)
        if checkpointing:
            enable_checkpointing(model)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        for _ in range(2):
            model(input_ids=ids, labels=torch.zeros(4, dtype=torch.long)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train()  # what is made once and kept
    with AllocationEventMeter([]) as meter:
        meter.mark("all")
        train()
    scalars_bytes = meter.result().peak_bytes - peaks_of(train)[CPU]
    assert 0 <= scalars_bytes <= 64
    assert meter.result().peak_bytes > 700_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_limits_are_held_by_the_allocators_count() -> None:
    gc.collect()
    torch.cuda.empty_cache()  # a cached block that is a little larger would be taken, and counted whole
    kept = torch.empty(16 * 2**20, dtype=torch.uint8, device="cuda")
    with PeakLimit(8 * 2**20 - 1) as limit:
        for _ in range(2):
            block = torch.empty(8 * 2**20, dtype=torch.uint8, device="cuda")
            del block
    assert limit.peaks()[kept.device] == 8 * 2**20
    excess = limit.excess()
    assert excess is not None and excess.counted_by_allocator
    assert dict(excess.profile.peak.operators) == {"aten.empty.memory_format": 8 * 2**20}
