"""The ledger against the allocator's own events, and what happens when it is used badly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from peprof.breakdown.values import StepProfile
from peprof.devices import CpuDevice, StepBytes
from peprof.profiler.attribution import Attribution
from peprof.profiler.errors import ProfileError
from peprof.profiler.ledger import Ledger
from peprof.profiler.profile import profile_step
from tests.profiler.steps import MlpStep
from tests.profiler.transformer import SumStep, stack

F32 = 4
RNG_STATE_BYTES = 5056
"""Of the CPU's generator; made below PyTorch's dispatcher, so that only the allocator sees it."""


def allocator(step: Any, batch: Tensor) -> StepBytes:
    """What the CPU's allocator did in one step. Warm up before."""
    with CpuDevice().memory_meter([*step.resident_tensors(), batch]) as meter:
        step(batch, meter.mark)
    return meter.result()


def differences(found: StepProfile, expected: StepBytes) -> dict[str, tuple[int, int]]:
    """Bytes that the allocator saw and the ledger didn't: by phase, at its peak and at its end."""
    assert found.start_bytes == expected.start_bytes
    return {
        phase.phase: (
            phase.peak_bytes - found.phase(phase.phase).peak.total_bytes,
            phase.end_bytes - found.phase(phase.phase).end_bytes,
        )
        for phase in expected.phases
    }


@pytest.mark.parametrize("adam", [False, True])
def test_an_mlp_is_the_same_as_in_the_allocator_byte_by_byte(adam: bool) -> None:
    step, batch = MlpStep(64, 256, 16, adam=adam), torch.randn(32, 64)
    if adam:
        step.optimizer = torch.optim.AdamW(step.model.parameters(), fused=True)
    found = profile_step(step.model, batch, step, optimizers=step.optimizer)
    expected = allocator(step, batch)
    scratch = 0
    if adam:  # its counts of steps are raised by an operator that wraps the number inside
        step.model(batch).mean().backward()
        scratch = scratch_of(step.optimizer.step, "aten::_foreach_add_")
        assert scratch < 16
    assert differences(found, expected) == {"forward": (0, 0), "backward": (0, 0), "optimizer": (scratch, 0)}
    assert found.peak_bytes == expected.peak_bytes
    assert found.phases_from == "marks"


def test_a_transformer_is_the_same_as_in_the_allocator_byte_by_byte() -> None:
    model, batch = stack(2, 32, 4, 64), torch.randn(4, 9, 32)
    step = SumStep(model, torch.optim.SGD(model.parameters()))
    found = profile_step(model, batch, step, optimizers=step.optimizer)
    assert set(differences(found, allocator(step, batch)).values()) == {(0, 0)}


class CheckpointedBlocks(nn.Module):
    def __init__(self, *, use_reentrant: bool, preserve_rng_state: bool) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(16, 16), stack(3, 16, 4, 32)
        self.options: dict[str, Any] = {
            "use_reentrant": use_reentrant,
            "preserve_rng_state": preserve_rng_state,
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, **self.options)
        return x


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_are_the_same_as_in_the_allocator_byte_by_byte(use_reentrant: bool) -> None:
    model = CheckpointedBlocks(use_reentrant=use_reentrant, preserve_rng_state=False)
    step, batch = SumStep(model, torch.optim.SGD(model.parameters())), torch.randn(4, 9, 16)
    found = profile_step(model, batch, step, optimizers=step.optimizer)
    assert set(differences(found, allocator(step, batch)).values()) == {(0, 0)}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_the_random_states_that_checkpoints_keep_are_the_difference(use_reentrant: bool) -> None:
    model = CheckpointedBlocks(use_reentrant=use_reentrant, preserve_rng_state=True)
    step, batch = SumStep(model, torch.optim.SGD(model.parameters())), torch.randn(4, 9, 16)
    found = profile_step(model, batch, step, optimizers=step.optimizer)
    assert differences(found, allocator(step, batch))["forward"] == (3 * RNG_STATE_BYTES, 3 * RNG_STATE_BYTES)


class FusedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 96)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, 4, 8)).transpose(1, 3).unbind(2)
        return nn.functional.scaled_dot_product_attention(query, key, value)


def scratch_of(run: Callable[[], object], operator: str) -> int:
    """Bytes that an operator holds inside at most, beyond what it returns, by the profiler's raw events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    events = watched.profiler.kineto_results.events()
    (call,) = [event for event in events if event.name() == operator]
    begin, end = call.start_ns(), call.start_ns() + call.duration_ns()
    level = top = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        if begin <= event.start_ns() <= end:
            level += event.nbytes()
            top = max(top, level)
    return top - level


def test_what_an_operator_holds_inside_is_the_difference_elsewhere() -> None:
    model, batch = FusedAttention(), torch.randn(2, 64, 32)
    step = SumStep(model, torch.optim.SGD(model.parameters()))
    found = profile_step(model, batch, step, optimizers=step.optimizer)
    operator = "aten::_scaled_dot_product_flash_attention_for_cpu"
    scratch = scratch_of(lambda: model(batch), operator)
    assert scratch > 0
    assert differences(found, allocator(step, batch))["forward"] == (scratch, 0)
    peak = found.phase("forward").peak
    assert f"aten::{(peak.operator or '').removeprefix('aten.')}" == operator


def test_a_number_that_autograd_keeps_is_the_difference() -> None:
    """A product's gradient needs the factor: a number is kept as a tensor of 8 bytes that nobody is shown.

    While the product is made, it is there in the product's dtype as well.
    """

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * 0.5 * 0.25

    model, batch = Scaled(), torch.randn(2, 8)
    step = SumStep(model, torch.optim.SGD(model.parameters()))
    found = profile_step(model, batch, step, optimizers=step.optimizer)
    assert differences(found, allocator(step, batch))["forward"] == (2 * 8 + F32, 2 * 8)


def test_owners() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    found = profile_step(model, torch.randn(3, 8), optimizers=optimizer, owner={"0": "backbone", "1": "head"})
    at_end = found.phase("backward").peak
    head = 8 * 2 + 2
    assert at_end.owners["backbone"] >= F32 * 3 * (8 * 8 + 8) - F32 * 8  # its bias has no gradient yet
    assert at_end.owners["head"] >= F32 * 3 * head
    assert sum(at_end.owners.values()) == at_end.total_bytes
    named = profile_step(model, torch.randn(3, 8), optimizers=optimizer, owner=lambda name: name[:1]).peak
    assert set(named.owners) <= {"0", "1", "(nobody)"}


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids))

    model = Tied()
    found = profile_step(model, torch.arange(6), optimizers=torch.optim.SGD(model.parameters()))
    for phase in found.phases:
        assert phase.peak.categories["parameters.trainable"] == F32 * 50 * 16
    assert found.phase("optimizer").peak.categories["gradients"] == F32 * 50 * 16


def test_gradients_and_a_loss_from_before_the_step() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters())
    held: dict[str, Tensor] = {}

    def step(batch: Tensor) -> None:
        optimizer.zero_grad()
        held["loss"] = model(batch).mean()  # the loss of the step before dies here
        held["loss"].backward()
        optimizer.step()

    found = profile_step(model, torch.randn(3, 8), step)
    parameters = 8 * 4 + 4
    assert found.start_bytes == F32 * (2 * parameters + 3 * 8)
    assert found.phases[0].peak.categories["gradients"] == F32 * parameters
    assert found.end_bytes == found.start_bytes + F32, "and of this step's loss nobody knew before"


def test_several_optimizers_and_one_that_nobody_announced() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    first = torch.optim.SGD(model[0].parameters(), momentum=0.9)
    second = torch.optim.AdamW(model[1].parameters())

    def step(batch: Tensor) -> None:
        model(batch).mean().backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()

    state = F32 * ((8 * 8 + 8) + 2 * (8 * 2 + 2) + 2)  # momentum; two moments and a count for each tensor
    for known in ([], [first], [first, second]):
        found = profile_step(model, torch.randn(3, 8), step, optimizers=known)
        assert found.phase("backward").peak.categories["optimizer_state"] == state
        assert "unattributed" not in found.peak.categories


def test_state_made_in_the_first_step_is_state_in_that_step() -> None:
    model = nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    found = profile_step(model, torch.randn(3, 8), optimizers=optimizer, warmup_steps=0)
    assert "optimizer_state" not in found.phase("backward").peak.categories
    assert found.phase("optimizer").peak.categories["optimizer_state"] == F32 * (2 * (8 * 4 + 4) + 2)


def test_a_gradient_used_up_within_backward_is_a_gradient() -> None:
    """As LOMO does: each parameter is updated as soon as its gradient is there, which is then dropped."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))

    def use_up(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=0.1)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(use_up)
    found = profile_step(model, torch.randn(2, 64), lambda batch: model(batch).mean().backward())
    assert 0 < found.phase("backward").peak.categories["gradients"] <= F32 * (64 * 64 + 64)
    assert found.end_bytes == found.start_bytes


def test_sparse_gradients() -> None:
    model = nn.Embedding(1000, 8, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = profile_step(model, torch.tensor([1, 5, 5]), optimizers=optimizer)
    gradients = found.phase("optimizer").peak.categories["gradients"]
    assert gradients == 3 * 8 + 3 * 8 * F32, "three indices and three rows"


def test_resized_storages_change_their_size() -> None:
    model = nn.Linear(4, 4)

    def step(batch: Tensor) -> None:
        buffer = torch.empty(0)
        torch.cat([batch.detach(), batch.detach()], out=buffer)
        buffer.resize_(100)
        model(batch).mean().backward()
        model.zero_grad()

    found = profile_step(model, torch.randn(3, 4), step)
    # The block of 100 floats is there before the one of 24 goes.
    assert found.phase("forward").peak.total_bytes == found.start_bytes + F32 * (24 + 100)


# -- used badly -----------------------------------------------------------------------------------


def traces(model: nn.Module) -> dict[str, object]:
    """All places in which something could have been left behind."""
    return {
        "global module hooks": (
            len(module_hooks._global_forward_hooks),
            len(module_hooks._global_forward_pre_hooks),
            len(module_hooks._global_forward_hooks_always_called),
        ),
        "global optimizer hooks": (
            len(optimizer_hooks._global_optimizer_pre_hooks),
            len(optimizer_hooks._global_optimizer_post_hooks),
        ),
        "hooks of modules": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "hooks of parameters": [
            (len(p._post_accumulate_grad_hooks or ()), len(p._backward_hooks or ()))
            for p in model.parameters()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "modes": torch._C._len_torch_dispatch_stack(),
        "saved-tensors hooks": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "patched": saved_tensors_hooks.__enter__,
    }


@pytest.fixture
def mlp() -> Iterator[MlpStep]:
    """A step, of whose model nothing must have changed but its weights."""
    step = MlpStep(4, 8, 2, adam=True)
    before = traces(step.model)
    yield step
    assert traces(step.model) == before


def test_nothing_is_left_behind(mlp: MlpStep) -> None:
    profile_step(mlp.model, torch.randn(3, 4), mlp)


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer"])
def test_a_step_that_raises_leaves_nothing_behind(mlp: MlpStep, where: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    def step(batch: Tensor) -> None:
        if where == "forward":
            handle = mlp.model[1].register_forward_hook(fail)
        loss = None
        try:
            loss = mlp.model(batch).mean()
        finally:
            if where == "forward":
                handle.remove()
        if where == "backward":
            loss.register_hook(fail)
        loss.backward()
        fail()

    with pytest.raises(RuntimeError, match="on purpose"):
        profile_step(mlp.model, torch.randn(3, 4), step, warmup_steps=0)


def test_a_ledger_can_be_read_after_the_step_raised(mlp: MlpStep) -> None:
    ledger = Ledger(mlp.model, inputs=None)
    with pytest.raises(RuntimeError, match="on purpose"), ledger:
        loss = mlp.model(torch.randn(3, 4)).mean()
        raise RuntimeError("on purpose")
    found = Attribution(ledger).profile()
    assert sum(found.peak.categories.values()) == found.peak_bytes > found.start_bytes
    del loss


def test_a_model_on_two_devices_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    before = traces(model)
    with pytest.raises(
        ProfileError, match=r"several devices: cpu \('0.weight'\), meta \('1.weight'\)"
    ) as error:
        profile_step(model, torch.randn(1, 2), lambda batch: None)
    assert isinstance(error.value, ValueError) and "one device" in (error.value.hint or "")
    assert traces(model) == before


class Opaque(Tensor):
    """A wrapper that doesn't say what it wraps."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Opaque:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Clear(Opaque):
    """A wrapper that does."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, context: Any, size: Any, stride: Any) -> Clear:
        return Clear(inner["inner"])


def test_a_tensor_that_hides_its_bytes_is_refused(mlp: MlpStep) -> None:
    mlp.model.register_buffer("hidden", Opaque(torch.randn(3)))
    with pytest.raises(ProfileError, match="Opaque has no storage of its own") as error:
        profile_step(mlp.model, torch.randn(3, 4), mlp)
    assert "__tensor_flatten__" in (error.value.hint or "")
    del mlp.model.hidden


def test_a_tensor_that_wraps_others_counts_as_these(mlp: MlpStep) -> None:
    mlp.model.register_buffer("wrapped", Clear(torch.randn(3)))
    assert profile_step(mlp.model, torch.randn(3, 4), mlp).peak.categories["buffers"] == F32 * 3
    del mlp.model.wrapped


class Box:
    """Keeps a tensor where nobody looks."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def pack_into_box(tensor: Tensor) -> Box:
    return Box(tensor.detach() * 1)


class Boxed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        with saved_tensors_hooks(pack_into_box, lambda box: box.tensor):
            return self.linear(x).tanh()


def test_what_hooks_inside_hide_is_unattributed_and_named() -> None:
    """The box holds a copy of tanh's output, and of the batch; the model works as without the ledger."""
    model = Boxed()
    batch = torch.randn(8, 64)
    expected = torch.autograd.grad(model(batch).mean(), model.linear.weight)[0]
    found = profile_step(model, batch, lambda batch: model(batch).mean().backward(), warmup_steps=0)
    torch.testing.assert_close(model.linear.weight.grad, expected)
    peak = found.phase("forward").peak
    assert peak.categories["unattributed"] == 2 * F32 * 8 * 64
    assert peak.operators["aten.mul.Tensor (kept by pack_into_box)"] == 2 * F32 * 8 * 64


def test_hooks_inside_that_show_what_they_keep_are_as_good_as_none() -> None:
    class Offloaded(Boxed):
        def forward(self, x: Tensor) -> Tensor:
            with save_on_cpu():
                return self.linear(x).tanh()

    model = Offloaded()
    found = profile_step(model, torch.randn(8, 64), lambda batch: model(batch).mean().backward())
    assert found.activations.total_bytes == F32 * 8 * 64
    assert "unattributed" not in found.peak.categories


def test_hooks_around_the_ledger_are_still_asked(mlp: MlpStep) -> None:
    asked: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        asked.append(tensor.shape)
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = profile_step(mlp.model, torch.randn(3, 4), mlp, warmup_steps=0)
    assert torch.Size((3, 8)) in asked
    assert found.activations.total_bytes == F32 * (3 * 8 + 3 * 2)


def test_where_hooks_are_disabled_the_ledger_says_so(mlp: MlpStep) -> None:
    with (
        torch.autograd.graph.disable_saved_tensors_hooks("not here"),
        pytest.raises(ProfileError, match="disabled: not here"),
    ):
        profile_step(mlp.model, torch.randn(3, 4), mlp)


class KeepsOnContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.exp()  # not by save_for_backward
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.kept


def test_what_a_function_keeps_on_its_context_is_unattributed_and_named() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return KeepsOnContext.apply(self.linear(x))

    model = Keeper()
    found = profile_step(model, torch.randn(8, 64), lambda batch: model(batch).mean().backward())
    peak = found.phase("forward").peak
    assert peak.categories["unattributed"] == F32 * 8 * 64
    assert peak.operators["aten.exp (kept by KeepsOnContextBackward's ctx)"] == F32 * 8 * 64
