"""The low-rank methods by themselves: gradients, memory, where they start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.adalora import AdaLoRA
from peprof_methods.dora import DoRALinear
from peprof_methods.low_rank_products import (
    dropped_rows,
    low_rank_linear,
    row_norms,
    scaled_low_rank_linear,
    vectors_low_rank_linear,
)
from peprof_methods.pissa import PiSSA, SiVA
from peprof_methods.vera import Projections, VeRA
from torch import Tensor, nn

from tests.methods.method_geometries import SIX_LINEARS, batch, scatter, tiny

ROWS, INPUTS, OUTPUTS, RANK = 7, 5, 4, 3


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_(True)


def arguments(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """rows, weight, bias, a, b"""
    torch.manual_seed(0)
    shapes = ((ROWS, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,), (RANK, INPUTS), (OUTPUTS, RANK))
    return tuple(random(*shape, dtype=dtype) for shape in shapes)


def plain(x: Tensor, w: Tensor, bias: Tensor, a: Tensor, b: Tensor, s: float = 1.7) -> Tensor:
    return x @ w.T + bias + s * x @ a.T @ b.T


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_low_rank_product_has_the_gradients_of_finite_differences(dropout: float) -> None:
    def run(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return low_rank_linear(*tensors, scale=1.7, dropout=dropout)

    assert torch.autograd.gradcheck(run, arguments())
    if not dropout:
        torch.testing.assert_close(run(*arguments()), plain(*arguments()))


def test_scaled_product_has_the_gradients_of_finite_differences() -> None:
    x, w, bias, a, b = arguments()
    factor = random(OUTPUTS)

    def run(*tensors: Tensor) -> Tensor:
        return scaled_low_rank_linear(*tensors, scale=1.7)

    assert torch.autograd.gradcheck(run, (x, w, bias, a, b, factor))
    assert torch.autograd.gradcheck(lambda *t: run(*t[:2], None, *t[2:]), (x, w, a, b, factor))
    zero = torch.zeros_like(bias)
    torch.testing.assert_close(run(x, w, bias, a, b, factor), factor * plain(x, w, zero, a, b) + bias)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_product_with_vectors_has_the_gradients_of_finite_differences(dropout: float) -> None:
    x, w, bias, a, b = arguments()
    inner, outer = random(RANK), random(OUTPUTS)

    def run(x: Tensor, w: Tensor, bias: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        torch.manual_seed(3)
        return vectors_low_rank_linear(x, w, bias, a.detach(), b.detach(), inner, outer, dropout=dropout)

    assert torch.autograd.gradcheck(run, (x, w, bias, inner, outer))
    if not dropout:
        expected = x @ w.T + bias + outer * ((inner * (x @ a.T)) @ b.T)
        torch.testing.assert_close(run(x, w, bias, inner, outer), expected)


@pytest.mark.parametrize("trained", range(5))
def test_a_gradient_of_one_alone_is_what_it_is_among_all(trained: int) -> None:
    """What is left out of what is kept for backward isn't needed."""
    output = low_rank_linear(*arguments(), scale=1.7)
    expected = torch.autograd.grad(output.square().sum(), arguments_of(output))[trained]
    alone = tuple(t.detach().requires_grad_(i == trained) for i, t in enumerate(arguments()))
    (found,) = torch.autograd.grad(low_rank_linear(*alone, scale=1.7).square().sum(), alone[trained])
    torch.testing.assert_close(found, expected)


def arguments_of(output: Tensor) -> list[Tensor]:
    assert output.grad_fn is not None
    return [function.variable for function, _ in output.grad_fn.next_functions if function is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_the_adapted_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, a, b = torch.randn(50, 40), torch.randn(4, 40), torch.randn(50, 4)
    expected = (weight + 0.3 * b @ a).norm(dim=1)
    found = row_norms(weight.to(dtype), a.to(dtype), b.to(dtype), scale=0.3)
    assert found.dtype == torch.float32
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_row_of_zeros_is_no_division_by_zero() -> None:
    linear = nn.Linear(INPUTS, OUTPUTS)
    with torch.no_grad():
        linear.weight[1] = 0.0
    adapted = DoRALinear(linear.requires_grad_(False), rank=2, scale=1.0, dropout=0.0)
    output = adapted(torch.randn(3, INPUTS))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in adapted.parameters() if p.grad is not None)


def kept_bytes(function: Callable[[], Any], known: list[Tensor]) -> list[int]:
    """Sizes of the storages kept for backward, but for those of ``known`` tensors."""
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    for tensor in known:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sorted(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_what_is_kept_for_backward() -> None:
    f32 = 4
    x, w, bias, a, b = (t.detach() for t in arguments(torch.float32))
    a_trained, b_trained = a.clone().requires_grad_(True), b.clone().requires_grad_(True)
    x.requires_grad_(True)
    low = f32 * ROWS * RANK
    weights = [w, bias, a, b, a_trained, b_trained]

    def lora(a: Tensor, dropout: float = 0.0) -> Callable[[], Tensor]:
        return lambda: low_rank_linear(x, w, bias, a, b_trained, scale=1.0, dropout=dropout)

    rows = f32 * ROWS * INPUTS
    assert kept_bytes(lora(a_trained), weights) == sorted([rows, low])
    assert kept_bytes(lora(a), weights) == [low]  # A frozen: not x
    mask = ROWS * INPUTS
    assert kept_bytes(lora(a_trained, 0.5), weights) == sorted([mask, rows, low])
    assert kept_bytes(lora(a, 0.5), weights) == sorted([mask, low])

    factor = torch.ones(OUTPUTS, requires_grad=True)
    result = f32 * ROWS * OUTPUTS
    found = kept_bytes(
        lambda: scaled_low_rank_linear(x, w, bias, a_trained, b_trained, factor, scale=1.0),
        [*weights, factor],
    )
    assert found == sorted([rows, low, result])
    inner = torch.ones(RANK, requires_grad=True)
    found = kept_bytes(
        lambda: vectors_low_rank_linear(x, w, bias, a, b, inner, factor), [*weights, inner, factor]
    )
    assert found == [low]


def test_dropout_by_itself_keeps_a_mask_of_one_byte_and_is_that_of_torch() -> None:
    x = random(ROWS, INPUTS, dtype=torch.float32)
    assert kept_bytes(lambda: dropped_rows(x, 0.4), [x]) == [ROWS * INPUTS]
    found = []
    for function in (dropped_rows, F.dropout):
        torch.manual_seed(5)
        result = function(x, 0.4)
        found.append((result, *torch.autograd.grad(result.square().sum(), x)))
    torch.testing.assert_close(*found)


def test_autocast_keeps_no_copy_of_a_weight() -> None:
    x, w, bias, a, b = arguments(torch.float32)
    w.requires_grad_(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kept_bytes(lambda: low_rank_linear(x, w, bias, a, b, scale=1.0), [w, bias, a, b])
    assert found == sorted([2 * ROWS * INPUTS, 2 * ROWS * RANK])


def test_backward_under_autocast_of_a_forward_without() -> None:
    tensors = arguments(torch.float32)
    expected = torch.autograd.grad(low_rank_linear(*tensors, scale=1.7).sum(), tensors)
    output = low_rank_linear(*tensors, scale=1.7).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(output, tensors)
    torch.testing.assert_close(found, expected)


def test_dropout_keeps_its_share_and_scales_it_up() -> None:
    torch.manual_seed(0)
    x, eye = torch.ones(400, 50), torch.eye(50)
    result = low_rank_linear(x, torch.zeros(50, 50), None, eye, eye, scale=1.0, dropout=0.2)
    assert set(result.unique().tolist()) == {0.0, 1.25}
    assert result.mean().item() == pytest.approx(1.0, abs=0.02)


# ---- PiSSA and SiVA


@pytest.mark.parametrize("iterations", [None, 4])
@pytest.mark.parametrize("kind", [PiSSA, SiVA])
def test_starts_as_the_backbone_with_its_best_part_trained(kind: Any, iterations: int | None) -> None:
    """By Eckart and Young what stays frozen has the norm of the singular values that are left."""
    model, inputs = tiny("t5"), batch("t5")
    before = model(**inputs).logits
    original = copy.deepcopy(model).encoder.block[0].layer[0].SelfAttention.q.weight
    state = torch.get_rng_state()
    adapted = kind(rank=4, svd_iterations=iterations).apply(model)
    layer = adapted.encoder.block[0].layer[0].SelfAttention.q
    if kind is SiVA:
        assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(adapted(**inputs).logits, before, atol=1e-4, rtol=1e-4)
    values = torch.linalg.svdvals(original)
    tolerance = 1e-4 if iterations is None else 1e-2
    assert layer.weight.norm().item() == pytest.approx(values[4:].norm().item(), rel=tolerance)
    torch.testing.assert_close(layer.merged().weight, original, atol=1e-5, rtol=1e-5)


def test_siva_trains_vectors_and_freezes_values() -> None:
    model = SiVA(rank=3, targets=("attention.key", "attention.value")).apply(tiny("bert"))
    layer = model.bert.encoder.layer[0].attention.self.key
    x = torch.randn(2, 5, 32)
    scatter(layer)
    u, s, v = layer.siva_U, layer.siva_S, layer.siva_V
    expected = F.linear(x, layer.weight, layer.bias) + x @ v.T @ torch.diag(s) @ u.T
    torch.testing.assert_close(layer(x), expected)
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"siva_U", "siva_V"}
    assert torch.equal(s, s.sort(descending=True).values) and s.min() > 0


@pytest.mark.parametrize("method", [PiSSA(rank=33), SiVA(rank=33)])
def test_more_triplets_than_a_target_has_are_refused(method: Any) -> None:
    model = tiny("bert")
    with pytest.raises(ValueError) as caught:
        method.apply(model)
    name = "bert.encoder.layer.0.attention.self.query"
    assert str(caught.value) == f"rank=33: expected at most 32, the smaller side of {name}"
    assert all(p.requires_grad for p in model.parameters())


# ---- VeRA


def test_vera_shares_one_pair_that_is_not_saved() -> None:
    model = VeRA(rank=6, targets=SIX_LINEARS).apply(tiny("bert")).to(torch.float64)
    pairs = {id(module): module for module in model.modules() if isinstance(module, Projections)}
    (pair,) = pairs.values()
    assert (pair.A.shape, pair.B.shape) == ((6, 64), (64, 6))  # as the widest of the targets
    assert pair.A.dtype == torch.float64  # moved with the model, and still one
    assert not any("projections" in name for name in model.state_dict())
    copied = copy.deepcopy(model)
    assert len({id(m) for m in copied.modules() if isinstance(m, Projections)}) == 1


# ---- AdaLoRA


@pytest.mark.parametrize(("final_steps", "interval_steps"), [(3, 2), (0, 1), (0, 50)])
def test_adalora_ends_with_the_ranks_that_it_was_asked_for(final_steps: int, interval_steps: int) -> None:
    method = AdaLoRA(initial_rank=5, target_rank=2, final_steps=final_steps, interval_steps=interval_steps)
    model, inputs = method.apply(tiny("distilbert")), batch("distilbert")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(12):
        (model(**inputs).loss + method.loss_term(model)).backward()
        optimizer.step()
        method.after_step(model, step, 12)
        optimizer.zero_grad()
    values = [p for name, p in model.named_parameters() if name.endswith("lora_E")]
    assert len(values) == 4
    assert sum(int(p.count_nonzero()) for p in values) == 4 * 2


def test_adalora_of_a_training_too_short_for_its_schedule_is_refused() -> None:
    """As the ``peft`` library does: it would stay LoRA of the initial rank under another name."""
    method = AdaLoRA(initial_rank=4, target_rank=1, initial_steps=2, final_steps=1)
    model = method.apply(tiny("bert"))
    model(**batch("bert")).loss.backward()
    with pytest.raises(ValueError) as caught:
        method.after_step(model, 0, 3)
    assert str(caught.value) == (
        "initial_steps + final_steps=3: expected together less than the 3 steps of the training"
    )
    method.after_step(model, 0, 4)
