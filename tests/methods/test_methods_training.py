"""What holds for every method on every architecture: who gets a gradient, that it learns, padding, bf16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peprof_methods.bitfit import BitFit
from peprof_methods.full import Full
from peprof_methods.head import Head
from peprof_methods.ia3 import IA3
from peprof_methods.last_layers import LastLayers
from peprof_methods.lora import LoRA
from peprof_methods.lst import LadderSideTuning
from peprof_methods.roles import head_parameters

from tests.methods.method_geometries import ARCHITECTURES, SIX_LINEARS, batch, scatter, tiny

METHODS = {
    "full": Full(),
    "head": Head(),
    "last_layers": LastLayers(),
    "bitfit": BitFit(),
    "lora": LoRA(),
    "lora-all": LoRA(targets=SIX_LINEARS),
    "ia3": IA3(),
    "lst": LadderSideTuning(),
    "lst-1-head": LadderSideTuning(reduction=4, side_heads=1),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@every_method
@every_architecture
def test_gradients_reach_exactly_the_trainable_ones_and_it_learns(architecture: str, method: Any) -> None:
    plain, inputs = tiny(architecture, seed=30), batch(architecture)
    head = head_parameters(plain)
    model = method.apply(plain)
    assert model.training
    assert all(p.requires_grad for p in head)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert {id(p) for p in head} <= {id(p) for p in trainable.values()}
    before = {name: p.detach().clone() for name, p in trainable.items()}

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        loss = model(**inputs).loss
        loss.backward()
        if step == 0:
            for name, parameter in model.named_parameters():
                assert (parameter.grad is not None) == parameter.requires_grad, name
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())
    assert all(not torch.equal(now[name], value) for name, value in before.items())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_method
@every_architecture
def test_padding_changes_nothing(architecture: str, method: Any, attention: str) -> None:
    model = scatter(method.apply(tiny(architecture, seed=31, attention=attention))).eval()
    inputs = batch(architecture, lengths=(9, 4, 6))
    with torch.no_grad():
        together = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for row, length in enumerate((9, 4, 6)):
            ids = inputs["input_ids"][row : row + 1, :length]
            mask = torch.ones_like(ids)
            alone = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # the input does matter


@every_method
@every_architecture
def test_bfloat16_runs(architecture: str, method: Any) -> None:
    model = method.apply(tiny(architecture).to(torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    loss = model(**batch(architecture)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_method
def test_autocast_stays_close_to_float32(method: Any, attention: str) -> None:
    model = scatter(method.apply(tiny("roberta", attention=attention)))
    inputs = batch("roberta")
    expected = model(**inputs).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()
    torch.testing.assert_close(output.logits.float(), expected, atol=0.1, rtol=0.05)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@every_architecture
def test_head_and_last_layers_save_nothing_of_what_is_frozen(architecture: str) -> None:
    """Largest allowed: head only keeps less than one hidden state; the last layer less than all layers."""

    def saved_bytes(method: Any) -> int:
        model, seen = method.apply(tiny(architecture)), {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(**batch(architecture, lengths=(20,) * 16))
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(t.untyped_storage().nbytes() for pointer, t in seen.items() if pointer not in own)

    hidden_state = 16 * 20 * 32 * 4
    head, last, full = saved_bytes(Head()), saved_bytes(LastLayers()), saved_bytes(Full())
    # One hidden state: the head reads a slice of the last one, which keeps the whole of it.
    assert hidden_state <= head < 1.2 * hidden_state
    assert head < last < 0.6 * full


def test_side_and_adapter_modules_follow_evaluation_mode() -> None:
    for method in METHODS.values():
        model = method.apply(tiny("bert").eval())
        assert not any(module.training for module in model.modules())
