"""LoRA and (IA)3 by themselves: start, merge, dropout, autocast, and what they hold in memory."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peprof_methods.ia3 import IA3
from peprof_methods.lora import LoRA, LoRALinear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.method_geometries import ARCHITECTURES, SIX_LINEARS, batch, gradients, scatter, tiny

METHODS = [LoRA(rank=3, targets=SIX_LINEARS), IA3()]


@pytest.mark.parametrize("method", METHODS, ids=["lora", "ia3"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_starts_as_the_backbone(architecture: str, method: Any) -> None:
    plain, inputs = tiny(architecture), batch(architecture)
    expected = plain(**inputs).logits
    adapted = method.apply(plain)(**inputs).logits
    torch.testing.assert_close(adapted, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=["lora", "ia3"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_is_plain_and_gives_the_same_logits(architecture: str, method: Any) -> None:
    plain, inputs = tiny(architecture), batch(architecture)
    original = copy.deepcopy(plain)
    adapted = scatter(method.apply(plain), scale=0.3).eval()
    expected = adapted(**inputs).logits.detach()
    assert (expected - original.eval()(**inputs).logits).abs().max() > 1e-2  # the adapter does something

    merged = method.merge(adapted)
    assert merged.state_dict().keys() == original.state_dict().keys()
    assert {type(m) for m in merged.modules()} == {type(m) for m in original.modules()}
    assert not merged.training
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_merging_leaves_the_frozen_weight_alone() -> None:
    plain = tiny("bert")
    weight = plain.bert.encoder.layer[0].attention.self.query.weight
    before = weight.detach().clone()
    LoRA().merge(scatter(LoRA().apply(plain)))
    assert torch.equal(weight, before)


def test_lora_start_is_kaiming_uniform_and_zero() -> None:
    linear = nn.Linear(400, 30)
    torch.manual_seed(0)
    adapted = LoRALinear(linear, rank=50, scale=1.0, dropout=0.0)
    bound = 1 / math.sqrt(400)  # sqrt(6 / ((1 + 5) * fan_in))
    assert bound * 0.99 < adapted.lora_A.abs().max() <= bound
    assert adapted.lora_A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not adapted.lora_B.any()
    assert adapted.weight is linear.weight


def test_lora_dropout_is_on_the_input_of_the_update_only() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 5), torch.randn(2, 3, 6)
    adapted = LoRALinear(linear, rank=2, scale=0.5, dropout=0.4)
    nn.init.normal_(adapted.lora_B)
    torch.manual_seed(7)
    found = adapted(x)
    torch.manual_seed(7)
    dropped = F.dropout(x.reshape(-1, 6), 0.4).reshape(x.shape)
    expected = linear(x) + 0.5 * dropped @ adapted.lora_A.T @ adapted.lora_B.T
    torch.testing.assert_close(found, expected)
    expected = linear(x) + 0.5 * x @ adapted.lora_A.T @ adapted.lora_B.T
    torch.testing.assert_close(adapted.eval()(x), expected)


def test_lora_gradients_by_finite_differences() -> None:
    torch.manual_seed(0)
    adapted = LoRALinear(nn.Linear(4, 3).double().requires_grad_(False), rank=2, scale=1.7, dropout=0.0)
    nn.init.normal_(adapted.lora_B)
    x = torch.randn(2, 2, 4, dtype=torch.double, requires_grad=True)

    def run(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.func.functional_call(adapted, {"lora_A": a, "lora_B": b}, (x,))

    a, b = (p.detach().clone().requires_grad_(True) for p in (adapted.lora_A, adapted.lora_B))
    assert torch.autograd.gradcheck(run, (x, a, b))


class Births(TorchDispatchMode):
    """Bytes of each new storage; they are kept alive, so that none is mistaken for another."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in old:
                self.alive[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage()
        return result


def test_lora_makes_one_activation_and_saves_its_input_and_a_narrow_tensor() -> None:
    rows, width, rank, size = 2 * 5, 16, 3, 4
    linear = nn.Linear(width, width).requires_grad_(False)
    adapted = LoRALinear(linear, rank=rank, scale=2.0, dropout=0.0)
    x = torch.randn(2, 5, width, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), Births() as births:
        adapted(x)
    born = sorted(storage.nbytes() for storage in births.alive.values())
    assert born == [rows * rank * size, rows * width * size]  # A x, and the result

    parameters = {p.untyped_storage().data_ptr() for p in adapted.parameters()}
    activations = {pointer: n for pointer, n in saved.items() if pointer not in parameters}
    assert activations.pop(x.untyped_storage().data_ptr()) == rows * width * size
    assert list(activations.values()) == [rows * rank * size]


@pytest.mark.parametrize("method", METHODS, ids=["lora", "ia3"])
def test_autocast_matches_float32(method: Any) -> None:
    model, inputs = scatter(method.apply(tiny("bert"))), batch("bert")
    expected = model(**inputs)
    expected.loss.backward()
    wanted = gradients(model)
    wanted = {name: gradient.clone() for name, gradient in wanted.items()}
    model.zero_grad()
    seen: set[torch.dtype] = set()
    query = model.bert.encoder.layer[0].attention.self.value
    query.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**inputs)
    found.loss.backward()
    assert seen == {torch.bfloat16}  # neither adapter widens what autocast made narrow
    torch.testing.assert_close(found.logits.float(), expected.logits, atol=0.1, rtol=0.05)
    everything = torch.cat([g.flatten() for g in gradients(model).values()])
    reference = torch.cat([wanted[name].flatten() for name in gradients(model)])
    assert everything.dtype == torch.float32
    assert F.cosine_similarity(everything, reference, dim=0) > 0.99
