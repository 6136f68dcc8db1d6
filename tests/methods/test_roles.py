"""Roles on every architecture: each parameter plays exactly one, and each role is where it should be."""

from __future__ import annotations

import pytest
from peprof_methods.lora import LoRA
from peprof_methods.roles import LINEAR_ROLES, ROLES, layers, modules_by_role

from tests.methods.method_geometries import EVERY_ARCHITECTURE, LAYERS, batch, tiny


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_every_parameter_has_exactly_one_role(architecture: str) -> None:
    model = tiny(architecture)
    found: dict[int, list[str]] = {id(p): [] for p in model.parameters()}
    for role in ROLES:
        for parameter in {id(p): p for m in modules_by_role(model, [role]).values() for p in m.parameters()}:
            found[parameter].append(role)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[key]: roles for key, roles in found.items() if len(roles) != 1} == {}


@pytest.mark.parametrize(
    ("architecture", "count", "gates"),
    [
        # query, key, value, output: encoder 4, decoder 8 (its own and to the encoder); feed-forward 2 or 3.
        ("t5", LAYERS * (4 + 8 + 2 * 2), 0),
        ("t5-gated", LAYERS * (4 + 8 + 2 * 3), 2 * LAYERS),
        ("t5-classifier", LAYERS * (4 + 8 + 2 * 2), 0),
        ("llama", LAYERS * 7, LAYERS),
        ("llama-lm", LAYERS * 7, LAYERS),
        ("bert", LAYERS * 6, 0),
    ],
)
def test_how_many_linears_each_architecture_has(architecture: str, count: int, gates: int) -> None:
    model = tiny(architecture)
    assert len(modules_by_role(model, LINEAR_ROLES)) == count
    assert len(modules_by_role(model, ["feedforward.gate"])) == gates


def test_layers_go_from_input_to_output() -> None:
    model = tiny("t5")
    assert layers(model) == [*model.encoder.block, *model.decoder.block]
    assert layers(tiny("llama"))[0].self_attn.layer_idx == 0


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_lora_goes_everywhere(architecture: str) -> None:
    model = LoRA(rank=2).apply(tiny(architecture))
    model(**batch(architecture)).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
