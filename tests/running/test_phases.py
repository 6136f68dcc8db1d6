"""The two phases of a run and the worker around them, in this process, on models that fit a page."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peprof_methods.errors import UnsupportedModelError
from peprof_methods.lora import LoRA
from safetensors.torch import save, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from peprof.breakdown.values import StepProfile
from peprof.devices import CpuDevice
from peprof.devices.cpu import AllocationEventMeter
from peprof.errors import Fault, SuiteError
from peprof.events import Progress
from peprof.profiler.profile import profile_step
from peprof.results.record import Failure, ShortResult
from peprof.running import worker
from peprof.running.methods import enable_checkpointing
from peprof.running.short_phase import run_short_phase
from peprof.suite.planning import RunSpec, plan
from peprof.suite.schema import Suite
from peprof.training.batches import Batch, EncodedSplit
from peprof.training.data import Split
from peprof.training.geometries import known_config
from peprof.training.made_tokenizer import make_tokenizer
from peprof.training.step import ClassifierStep
from peprof.training.trained_state import checkpoint_bytes, safetensors_bytes
from peprof.training.trainer import DivergedError


def written_bytes(tensors: dict[str, torch.Tensor], directory: Path) -> int:
    """What the format's own library makes of it."""
    path = directory / "written.safetensors"
    save_file(tensors, path)
    return path.stat().st_size


def tiny_bert(dtype: torch.dtype) -> nn.Module:
    config = BertConfig(
        vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=36,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_models_checkpoint_has_the_size_of_the_file_that_safetensors_writes(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_bert(dtype)
    everything = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert checkpoint_bytes(model, SimpleNamespace()) == written_bytes(everything, tmp_path)

    model = LoRA(rank=3).apply(model)
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(trained) < len(everything)
    assert checkpoint_bytes(model, SimpleNamespace()) == written_bytes(trained, tmp_path)


def test_what_a_method_says_that_it_saves_is_weighed() -> None:
    method = SimpleNamespace(adapter_state=lambda model: {"a": torch.zeros(3, dtype=torch.uint8)})
    # {"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}} is 53 characters, filled up to 56.
    assert checkpoint_bytes(nn.Linear(2, 2), method) == 8 + 56 + 3


EVERY_DTYPE = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)


def test_the_order_of_dtypes_and_names_is_that_of_the_library() -> None:
    """An offset's digits depend on what lies before it: in each pair one tensor is wide, the other is not."""
    for wide in EVERY_DTYPE:
        for narrow in EVERY_DTYPE:
            tensors = {"b": torch.zeros(1000, dtype=wide), "a": torch.zeros(1, dtype=narrow)}
            for swapped in (tensors, {"a": tensors["b"], "b": tensors["a"]}):
                # The wrong order is 6 characters off, which padding to 8 may hide: but not twice.
                for names in ("ab", ("ax", "bx")):
                    named = dict(zip(names, (swapped["a"], swapped["b"]), strict=True))
                    assert safetensors_bytes(named) == len(save(named)), (wide, narrow)


NAMES = ('"', "\\", "\n\t\r\b\f", "\x01\x1f\x7f", "é", "重み", "😀", "a/b", "<&>", "")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_as_the_library_escapes_them(name: str, tmp_path: Path) -> None:
    for length in range(8):
        tensors = {name + "x" * length: torch.zeros(2, 0, 3), "z": torch.zeros(())}
        assert safetensors_bytes(tensors) == written_bytes(tensors, tmp_path)


def test_nothing_and_tensors_that_are_nowhere_can_be_weighed(tmp_path: Path) -> None:
    assert safetensors_bytes({}) == written_bytes({}, tmp_path)
    assert safetensors_bytes({"w": torch.empty(5, 7, device="meta")}) == written_bytes(
        {"w": torch.empty(5, 7)}, tmp_path
    )
    # Written from a view, the file holds what the view shows.
    view = torch.zeros(10, 10).t()[:3]
    assert safetensors_bytes({"w": view}) == written_bytes({"w": view.contiguous()}, tmp_path)


def test_a_dtype_that_the_format_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"'w' can't be saved as safetensors: there is no torch\.complex128"):
        safetensors_bytes({"w": torch.zeros(2, dtype=torch.complex128)})


WORDS = ("good", "bad", "fine", "dull", "nice", "poor")
LENGTH = 8


class Examples(EncodedSplit):
    """Remembers which of the batches that it made are still alive."""

    def __init__(self) -> None:
        texts = tuple((WORDS[row % 6] + " film" * (row % 3),) for row in range(24))
        tokenizer = make_tokenizer(
            (t for row in texts for t in row), known_config("bert-base", vocab_size=97)
        )
        split = Split(texts=texts, labels=tuple(row % 2 for row in range(24)))
        super().__init__(split, tokenizer, LENGTH)
        self.made: list[weakref.ref[torch.Tensor]] = []

    def fixed_shape(self, batch_size: int, count: int, *, seed: int) -> list[Batch]:
        batches = super().fixed_shape(batch_size, count, seed=seed)
        self.made = [weakref.ref(batch.inputs["input_ids"]) for batch in batches]
        return batches

    def alive(self) -> int:
        return sum(made() is not None for made in self.made)


def make_spec(*, steps: int = 4, max_grad_norm: float | None = 1.0) -> RunSpec:
    suite = Suite.model_validate(
        {
            "name": "t",
            "phases": ("short",),
            "model": {"name": "peprof/tiny", "weights": "random"},
            "data": {"name": "peprof/reviews", "max_length": LENGTH},
            "train": {"batch_size": 4, "max_grad_norm": max_grad_norm},
            "short": {
                "warmup_steps": 2,
                "extra_warmup_steps": 0,
                "steps": steps,
                "energy_seconds": None,  # see test_energy_pass
            },
            "methods": ({"name": "full", "label": "full"},),
        }
    )
    (spec,) = plan(suite, device="cpu")
    return spec


def make_step() -> ClassifierStep:
    torch.manual_seed(0)
    model = tiny_bert(torch.float32)
    return ClassifierStep(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


class PooledDevice(CpuDevice):
    """A CPU that says when its pool is released and when its meter is made."""

    def __init__(self, said: Callable[[str], None]) -> None:
        super().__init__()
        self._said = said

    def release_cached_memory(self) -> None:
        self._said("released")

    def memory_meter(self, resident: Iterable[torch.Tensor]) -> AllocationEventMeter:
        self._said("metered")
        return super().memory_meter(resident)


class Kept:
    """What the short phase has found, after each of its passes."""

    def __init__(self) -> None:
        self.results: list[ShortResult] = []
        self.memory: StepProfile | None = None
        self.warnings: list[str] = []

    def keep_short(self, result: ShortResult, memory: StepProfile | None) -> None:
        self.results.append(result)
        self.memory = memory

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)


def run_short(
    spec: RunSpec,
    step: ClassifierStep,
    train: EncodedSplit,
    device: CpuDevice,
    say: Callable[[Progress], None],
    kept: Kept | None = None,
) -> ShortResult:
    kept = kept or Kept()
    owners = {"": "backbone", "classifier": "head"}
    run_short_phase(spec, step, train, owners, device, say, kept)
    return kept.results[-1]


@pytest.mark.slow
def test_the_memory_pass_starts_from_one_batch_and_a_pool_that_one_step_has_filled() -> None:
    train, step = Examples(), make_step()
    log: list[tuple[str, int]] = []
    step.model.register_forward_pre_hook(lambda *_: log.append(("step", train.alive())))
    device = PooledDevice(lambda what: log.append((what, train.alive())))

    found = run_short(make_spec(), step, train, device, lambda event: None)

    # Then the ledger's step and the one whose operations are counted, which are nobody else's.
    passes = [("step", 6)] * 6 + [("released", 1), ("step", 1), ("metered", 1), ("step", 1)]
    assert log == [*passes, ("step", 1), ("step", 1)]
    assert found.memory is not None
    weights = 4 * sum(p.numel() for p in step.model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in step.model.buffers())
    # Adam's two moments and its count (one float32 for each tensor); 4 x 8 ids and mask, 4 labels.
    moments = 2 * weights + 4 * len(list(step.model.parameters()))
    assert found.memory.start_bytes == weights + moments + buffers + 8 * (2 * 4 * LENGTH + 4)
    assert len(found.real_tokens) == 4


@pytest.mark.slow
def test_the_real_tokens_are_those_of_the_measured_steps() -> None:
    train, spec = Examples(), make_spec(steps=20)
    found = run_short(spec, make_step(), train, CpuDevice(), lambda event: None)
    batches = train.fixed_shape(4, 16, seed=spec.seed)
    order = [(2 + measured) % 16 for measured in range(20)]  # two warm-up steps, 16 batches in turn
    assert found.real_tokens == tuple(int(batches[i].inputs["attention_mask"].sum()) for i in order)


@pytest.mark.parametrize(
    ("broken", "words", "steps_run", "phase"),
    [
        (1, r"became nan at step 1 of 2 \(short: warm-up\)", 2, "short: warm-up"),
        (2, r"became nan at step 2 of 2 \(short: warm-up\)", 2, "short: warm-up"),
        (4, r"became inf at step 2 of 4 \(short: timing\)", 6, "short: timing"),
        (6, r"became nan at step 4 of 4 \(short: timing\)", 6, "short: timing"),
    ],
)
def test_a_loss_that_is_not_a_number_ends_the_short_phase_when_its_part_is_over(
    broken: int, words: str, steps_run: int, phase: str
) -> None:
    step = make_step()
    heard: list[Progress] = []
    done = 0

    def spoil(module: nn.Module, arguments: object, output: Any) -> None:
        nonlocal done
        done += 1
        if done == broken:
            output.loss = output.loss * (math.inf if "inf" in words else math.nan)

    step.model.register_forward_hook(spoil)
    with pytest.raises(DivergedError, match=words):
        run_short(make_spec(max_grad_norm=None), step, Examples(), CpuDevice(), heard.append)
    assert done == steps_run, "steps aren't looked at one by one: that would wait for the device"
    assert heard[-1].phase == phase


@pytest.mark.slow
def test_each_pass_of_the_short_phase_is_named_before_its_first_step() -> None:
    step = make_step()
    heard: list[Progress] = []
    at_forward: list[str] = []
    step.model.register_forward_pre_hook(lambda *_: at_forward.append(heard[-1].phase))
    run_short(make_spec(), step, Examples(), CpuDevice(), heard.append)
    assert at_forward == ["short: warm-up"] * 2 + ["short: timing"] * 4 + ["short: memory"] * 2 + [
        "short: breakdown",
        "short: work",
    ]
    assert [e.step for e in heard if e.phase == "short: timing"] == [0, 1, 2, 3, 4]
    assert [e.seconds_left is None for e in heard if e.phase == "short: timing"] == [True] + [False] * 4


@pytest.mark.slow
def test_the_peaks_owners_and_categories_add_up_and_a_failing_pass_keeps_those_before_it() -> None:
    kept, step = Kept(), make_step()
    found = run_short(make_spec(), step, Examples(), CpuDevice(), lambda event: None, kept)
    assert [(r.memory is not None, r.breakdown is not None) for r in kept.results] == [
        (False, False),
        (True, False),
        (True, True),
        (True, True),
    ]
    assert [r.work is not None for r in kept.results] == [False, False, False, True]
    assert found.breakdown is not None and found.memory is not None and kept.memory is not None
    breakdown = found.breakdown
    assert sum(breakdown.categories.values()) == sum(breakdown.owners.values()) == breakdown.peak_bytes
    assert breakdown.peak_bytes + breakdown.uncounted_bytes == found.memory.peak_allocated_bytes
    weights = 4 * sum(p.numel() for p in step.model.parameters())
    assert breakdown.categories["parameters.trainable"] == weights
    classifier = 4 * (24 * 2 + 2)
    moments = 2 * classifier + 2 * 4
    assert breakdown.owners["head"] >= classifier + moments
    assert kept.memory.peak_bytes == breakdown.peak_bytes

    kept, step, calls = Kept(), make_step(), 0

    def fail_at_the_last(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise RuntimeError("gone")

    step.model.register_forward_pre_hook(fail_at_the_last)
    with pytest.raises(RuntimeError, match="gone"):
        run_short(make_spec(), step, Examples(), CpuDevice(), lambda event: None, kept)
    assert kept.results[-1].memory is not None and kept.results[-1].breakdown is None


def explained(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Failure:
    """What the record of a run says in which reading the data raises an error."""

    def load(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(worker, "load_data", load)
    record = worker.run(
        make_spec(), device_name="cpu", source="t.toml", attempt=1, say=lambda event: None
    ).record
    assert record.status == "failed" and record.failure is not None and record.failure.phase == "setup"
    return record.failure


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("shapes\n  are wrong:\n\n  [3] and [4]\n"), "shapes are wrong: [3] and [4]"),
        (RuntimeError("x" * 400 + "\n" + "y" * 400), "x" * 400 + " " + "y" * 99),
        (RuntimeError("\n"), "RuntimeError"),
        (KeyError(), "KeyError"),
        (
            SuiteError(
                "s.toml", [Fault(key="data.text", problem="gone"), Fault(key="data.label", problem="no")]
            ),
            "s.toml: data.text: gone; data.label: no",
        ),
        (
            SuiteError("s.toml", [Fault(key=f"k{i}", problem="p" * 300) for i in range(3)]),
            "s.toml: " + "; ".join(f"k{i}: " + "p" * 300 for i in range(3)),
        ),
    ],
)
def test_a_message_is_one_line_that_leaves_nothing_out(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explained(error, monkeypatch).message == message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pure_half_precision_is_warned_of(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise RuntimeError("far enough")

    monkeypatch.setattr(worker, "load_data", load)
    spec = make_spec()
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": dtype})})
    record = worker.run(spec, device_name="cpu", source="", attempt=1, say=lambda event: None).record
    if dtype == "float16":
        (warning,) = record.warnings
        assert warning.startswith("trained in pure float16 without loss scaling")
    else:
        assert record.warnings == ()


def test_checkpointing_keeps_layer_inputs_only_also_with_a_frozen_backbone() -> None:
    model = LoRA(rank=2).apply(tiny_bert(torch.float32)).train()
    inputs = {"input_ids": torch.randint(1, 97, (2, 8)), "labels": torch.tensor([0, 1])}
    model.config.hidden_dropout_prob = 0.0

    def gradients() -> tuple[dict[str, torch.Tensor], int]:
        model.zero_grad()
        torch.manual_seed(0)
        profile = profile_step(model, inputs, lambda batch: model(**batch).loss.backward(), warmup_steps=0)
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return found, profile.activations.total_bytes

    plain, kept = gradients()
    enable_checkpointing(model)
    again, kept_less = gradients()
    assert plain.keys() == again.keys() and kept_less < kept / 2
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def test_a_model_without_layers_to_checkpoint_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear has no layers that can be checkpointed"):
        enable_checkpointing(nn.Linear(2, 2))


def test_a_method_gets_its_loss_term_its_word_after_each_step_and_as_many_examples_as_it_asks_for() -> None:
    model = nn.Linear(2, 2)

    class Output:
        def __init__(self, loss: torch.Tensor) -> None:
            self.loss = loss

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> Output:
            return Output(self.inner(x).sum())

    seen: list[tuple[int, bool]] = []
    wrapped = Wrapped()
    step = ClassifierStep(
        wrapped,
        torch.optim.SGD(wrapped.parameters(), lr=0.0),
        max_grad_norm=None,
        loss_term=lambda: model.weight.square().sum(),
        after_step=lambda number: seen.append((number, model.weight.grad is not None)),
    )
    x = torch.randn(3, 2)
    losses = [step(Batch(inputs={"x": x}, real_tokens=3)) for _ in range(2)]
    torch.testing.assert_close(losses[0], model(x).sum().detach() + model.weight.detach().square().sum())
    assert seen == [(0, True), (1, True)]
