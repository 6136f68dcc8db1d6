"""Every built-in method: the divisions add up, no data is needed, and the allocator says the same.

Methods are those of the catalogue, so that a new one is taken in by being there. Full fine-tuning is looked
at in every setting; the others in a sample that has each pair of architecture, dtype, checkpointing and
dropout, unless ``PEPROF_EVERY_SETTING=1`` asks for all (some minutes).
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from peprof_methods.errors import UnsupportedModelError
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from peprof.breakdown.values import StepProfile
from peprof.devices import CpuDevice, Mark, no_mark
from peprof.profiler.memory import measure_memory
from peprof.profiler.profile import profile_step
from peprof.running.methods import apply_method
from peprof.suite.catalogue import known_methods
from tests.methods.method_geometries import tiny
from tests.profiler.allocations import Allocations, allocations
from tests.profiler.models import CLASSIFIERS, batch_of, freeze_all_but_the_last, llama, t5
from tests.profiler.test_ledger_without_data import check_same, check_same_but_for_norms, check_sums

RNG_STATE_BYTES, NUMBER_BYTES = 5056, 8

SMALL_OPTIONS: dict[str, dict[str, Any]] = {
    "lst": {"reduction": 4, "side_heads": 2},
    "lora": {"rank": 2},
    "prompt_tuning": {"tokens": 4},
}
"""Where the defaults are meant for larger models. What isn't here is made with its defaults."""

METHODS = [name for name, entry in known_methods().items() if entry.distribution == "peprof"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    bf16: bool = False
    checkpointing: bool = False
    dropout: bool = False

    def __str__(self) -> str:
        words = (("fp32", "bf16")[self.bf16], "checkpointed" * self.checkpointing, "dropout" * self.dropout)
        return "-".join(filter(None, words))


SETTINGS = [
    Setting(bf16=bf16, checkpointing=checkpointing, dropout=dropout)
    for bf16, checkpointing, dropout in product((False, True), repeat=3)
]
EVERY = list(product(CLASSIFIERS, SETTINGS))


def sampled(method: str) -> list[tuple[str, Setting]]:
    """Every pair of architecture, dtype, checkpointing and dropout; another sample for the next method."""
    turn = METHODS.index(method)
    a, b, c = (CLASSIFIERS[(turn + index) % 3] for index in range(3))
    flip = turn % 8
    rows = [(a, 0b000), (b, 0b011), (c, 0b101), (a, 0b111), (b, 0b100), (c, 0b010)]
    return [(architecture, SETTINGS[bits ^ flip]) for architecture, bits in rows]


def all_or_sampled(method: str) -> list[tuple[str, Setting]]:
    return EVERY if method == "full" or os.environ.get("PEPROF_EVERY_SETTING") else sampled(method)


@pytest.fixture(autouse=True)
def _collect_no_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass collects garbage first, which takes longer than the tiny step; it is off afterwards."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


class Step:
    """A training step that names the variants of operators whose defaults differ by device."""

    def __init__(self, model: nn.Module, owners: Any = None) -> None:
        self.model, self.owners = model, owners
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, foreach=True)

    def __call__(self, batch: Any, mark: Mark = no_mark) -> None:
        mark("forward")
        loss = self.model(**batch).loss
        mark("backward")
        loss.backward()
        mark("clip")
        nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=False)
        mark("optimizer")
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark(None)

    def resident_tensors(self) -> Iterator[torch.Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def build(architecture: str, setting: Setting, device: str) -> Any:
    """A small backbone, made on the device: without data from the beginning, as where none is at hand."""
    dropout = 0.1 if setting.dropout else 0.0
    with torch.device(device):
        if architecture in CLASSIFIERS:
            model = tiny(architecture, dropout=dropout, attention="eager")
        else:
            model = {"t5": t5, "llama": llama}[architecture](dropout)
    if setting.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(torch.bfloat16 if setting.bf16 else torch.float32).train()


def step_of(method: str, architecture: str, setting: Setting, device: str) -> Step:
    """A step of a method by its name; skips where the method says that it doesn't know the architecture."""
    model = build(architecture, setting, device)
    made = known_methods_once()[method].construct(SMALL_OPTIONS.get(method, {}))
    try:
        applied = apply_method(made, model)
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    return Step(applied.model, applied.owners)


@functools.cache
def known_methods_once() -> Any:
    return known_methods()


def profile(step: Step, architecture: str, device: str) -> StepProfile:
    batch = {name: tensor.to(device) for name, tensor in batch_of(architecture).items()}
    return profile_step(step.model, batch, step, optimizers=step.optimizer, owner=step.owners)


def check_with_and_without_data(
    make: Callable[[str], Step], architecture: str, setting: Setting, *, norms_differ: bool
) -> StepProfile:
    """The same to the byte, but for the statistics of LayerNorms in bf16, which a CPU keeps in bf16, too."""
    step = make("cpu")
    real, without_data = profile(step, architecture, "cpu"), profile(make("meta"), architecture, "meta")
    if norms_differ:
        norms = sum(isinstance(module, nn.LayerNorm) for module in step.model.modules())
        check_same_but_for_norms(real, without_data, norms)
    else:
        check_same(real, without_data)
    check_sums(without_data)
    assert "unattributed" not in real.peak.categories
    if step.owners is not None:
        for moment in (real.peak, without_data.peak):
            assert sum(moment.owners.values()) == moment.total_bytes
            assert {"backbone", "head"} <= set(moment.owners) or architecture not in CLASSIFIERS
    return real


@pytest.mark.parametrize(
    ("method", "architecture", "setting"),
    [(method, *case) for method in METHODS for case in all_or_sampled(method)],
    ids=str,
)
def test_divisions_add_up_and_meta_equals_cpu(method: str, architecture: str, setting: Setting) -> None:
    real = check_with_and_without_data(
        lambda device: step_of(method, architecture, setting, device),
        architecture,
        setting,
        norms_differ=setting.bf16,
    )
    if method == "full":
        assert bool(real.activations.regions) == setting.checkpointing


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
@pytest.mark.parametrize("frozen", [False, True], ids=["full", "frozen"])
def test_so_they_do_in_other_architectures(frozen: bool, architecture: str, setting: Setting) -> None:
    def make(device: str) -> Step:
        model = build(architecture, setting, device)
        return Step(freeze_all_but_the_last(model) if frozen else model)

    check_with_and_without_data(make, architecture, setting, norms_differ=False)


@pytest.mark.parametrize(
    ("method", "architecture"),
    [(method, ("t5", "llama")[index % 2]) for index, method in enumerate(METHODS) if method != "full"],
)
def test_methods_do_in_other_architectures_if_they_know_them(method: str, architecture: str) -> None:
    setting = Setting(bf16=True, checkpointing=True, dropout=True)
    check_with_and_without_data(
        lambda device: step_of(method, architecture, setting, device),
        architecture,
        setting,
        norms_differ=False,
    )


def norms_of_peft(model: Any) -> nn.Module:
    """Each LayerNorm is wrapped by a module that holds a trained copy of it."""
    peft = pytest.importorskip("peft")
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    config = peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=norms)
    wrapped: nn.Module = peft.get_peft_model(model, config)
    assert any("ln_tuning_layers" in name for name, _ in wrapped.named_modules())
    return wrapped


def norms_in_float32(model: Any) -> nn.Module:
    """As in half-precision models that peft prepares for training; what goes in is float32 then, too."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
            module.register_forward_pre_hook(lambda _, args: tuple(x.float() for x in args))
            module.register_forward_hook(lambda _, args, output: output.bfloat16())
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("setting", [SETTINGS[0b000], SETTINGS[0b111]], ids=str)
@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_norms_that_are_wrapped_are_norms(architecture: str, setting: Setting) -> None:
    check_with_and_without_data(
        lambda device: Step(norms_of_peft(build(architecture, setting, device))),
        architecture,
        setting,
        norms_differ=setting.bf16,
    )


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_norms_in_float32_are_the_same_without_data_in_bf16_models(architecture: str) -> None:
    setting = Setting(bf16=True, dropout=True)
    check_with_and_without_data(
        lambda device: Step(norms_in_float32(build(architecture, setting, device))),
        architecture,
        setting,
        norms_differ=False,
    )


@pytest.mark.parametrize("method", METHODS)
def test_no_method_is_left_out_because_it_refuses_all(method: str) -> None:
    for architecture in CLASSIFIERS:
        try:
            apply_method(
                known_methods_once()[method].construct(SMALL_OPTIONS.get(method, {})),
                build(architecture, Setting(), "meta"),
            )
        except UnsupportedModelError:
            continue
        return
    pytest.fail(f"{method} refuses {', '.join(CLASSIFIERS)}: nothing here looks at it")


def compare(step: Step, architecture: str) -> tuple[StepProfile, Allocations]:
    batch = batch_of(architecture)
    found = profile(step, architecture, "cpu")
    return found, allocations(lambda mark: step(batch, mark))


def surplus(found: StepProfile, seen: Allocations) -> dict[str, tuple[int, int]]:
    """What the ledger has beyond what operators returned: by phase, at the peak and at the end."""
    return {
        name: (
            found.phase(name).peak.total_bytes - found.start_bytes - phase.seen_peak_bytes,
            found.phase(name).end_bytes - found.start_bytes - phase.seen_end_bytes,
        )
        for name, phase in seen.phases.items()
    }


@pytest.mark.parametrize(
    ("method", "architecture", "setting"),
    [(method, *case) for method in METHODS for case in sampled(method)[: None if method == "full" else 3]],
    ids=str,
)
def test_the_ledger_is_what_operators_return_and_the_rest_has_a_name(
    method: str, architecture: str, setting: Setting
) -> None:
    """What the allocator gave inside operators and outside of them is told apart by its own events.

    What operators return is in the ledger, byte by byte, at each phase's peak and end. The rest is what an
    operator holds inside while it runs, and what autograd and checkpoints keep below PyTorch's dispatcher:
    numbers, 8 bytes each, and states of the random generator.
    """
    step = step_of(method, architecture, setting, "cpu")
    found, events = compare(step, architecture)
    differences = surplus(found, events)
    if setting.checkpointing:
        # A recomputation stops within the operator that saves the last tensor needed: what that operator
        # returns is dropped before it has returned, so that to the events it is held inside.
        early = events.scratch.get("aten::native_layer_norm", 0)
        at_peak, at_end = differences.pop("backward")
        assert 0 <= at_peak <= early and at_end == 0
    assert set(differences.values()) == {(0, 0)}

    assert set(events.phases) == {"forward", "backward", "clip", "optimizer"}
    scratch, unseen = max(events.scratch.values(), default=0), sum(events.unseen.values())
    for name, phase in events.phases.items():
        more = phase.peak_bytes + found.start_bytes - found.phase(name).peak.total_bytes
        assert 0 <= more <= scratch + unseen
    numbers = unseen % RNG_STATE_BYTES
    assert numbers <= NUMBER_BYTES * 64
    assert unseen < RNG_STATE_BYTES or setting.checkpointing

    whole = measure_memory(step, [batch_of(architecture)], CpuDevice(), warmup_steps=0)
    assert whole.start_bytes == found.start_bytes
    for expected in whole.phases:
        phase = events.phases[expected.phase]
        assert expected.peak_bytes == found.start_bytes + phase.peak_bytes
        assert expected.end_bytes == found.start_bytes + phase.end_bytes


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_recomputations_that_run_to_their_end_are_the_same_byte_by_byte(architecture: str) -> None:
    with set_checkpoint_early_stop(False):
        step = step_of("lora", architecture, Setting(checkpointing=True, dropout=True), "cpu")
        assert set(surplus(*compare(step, architecture)).values()) == {(0, 0)}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_few_operators_hold_anything_inside(architecture: str, bf16: bool) -> None:
    """In float32 the gradients of norms and what is done with indices; in bf16 products of matrices, too.

    All others hold a number or two. So in forward the allocator gave but a few bytes more.
    """
    step = step_of("full", architecture, Setting(bf16=bf16, dropout=True), "cpu")
    found, events = compare(step, architecture)
    holding = {name for name, size in events.scratch.items() if size > 2 * NUMBER_BYTES}
    gradients_and_indices = {
        "aten::native_layer_norm_backward",
        "aten::embedding",
        "aten::embedding_dense_backward",
        "aten::cumsum",  # RoBERTa counts its positions
    }
    products = {"aten::addmm", "aten::mm", "aten::bmm"}
    assert holding <= gradients_and_indices | (products if bf16 else set())
    if not bf16:
        more = events.phases["forward"].peak_bytes + found.start_bytes
        more -= found.phase("forward").peak.total_bytes
        assert 0 < more <= 4 * NUMBER_BYTES
