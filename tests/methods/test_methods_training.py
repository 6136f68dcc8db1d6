"""What the common test of all methods leaves out: eager attention, autocast's error, what is saved."""

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
def test_padding_changes_nothing_in_eager_attention(architecture: str, method: Any) -> None:
    model = scatter(method.apply(tiny(architecture, seed=31, attention="eager"))).eval()
    inputs = batch(architecture, lengths=(9, 4, 6))
    with torch.no_grad():
        together = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        for row, length in enumerate((9, 4, 6)):
            ids = inputs["input_ids"][row : row + 1, :length]
            mask = torch.ones_like(ids)
            alone = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # the input does matter


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
