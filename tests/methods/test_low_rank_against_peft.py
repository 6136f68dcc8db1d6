"""DoRA, PiSSA, VeRA, AdaLoRA and LoRA's options against the peft library, on the same values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peprof_methods.adalora import AdaLoRA
from peprof_methods.dora import DoRA
from peprof_methods.lora import LoRA
from peprof_methods.pissa import PiSSA
from peprof_methods.vera import VeRA
from torch import Tensor, nn

from tests.methods.method_geometries import EVERY_ARCHITECTURE, FAMILY, batch, scatter, tiny

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")

HEADS = ("classifier", "pooler", "classification_head", "score")
TARGETS = ("attention.key", "feedforward.up", "feedforward.down")
# Ends of names; T5 v1.1 has wi_1 for wi.
PEFT_TARGETS = {
    "distilbert": ["k_lin", "lin1", "lin2"],
    "bert": ["key", "intermediate.dense", "output.dense"],
    "roberta": ["key", "intermediate.dense", "output.dense"],
    "t5": ["k", "wi", "wi_1", "wo"],
    "llama": ["k_proj", "up_proj", "down_proj"],
}
NEW = {  # ours -> theirs, behind the layer's name
    "lora_A": "lora_A.default.weight",
    "lora_B": "lora_B.default.weight",
    "magnitude": "lora_magnitude_vector.default.weight",
    "vera_d": "vera_lambda_d.default",
    "vera_b": "vera_lambda_b.default",
}
IN_ADALORA = {f"lora_{letter}": f"lora_{letter}.default" for letter in "AEB"}


def targets_of(architecture: str) -> Any:
    found = PEFT_TARGETS[FAMILY[architecture]]
    if FAMILY[architecture] in ("bert", "roberta"):
        # attention.output.dense ends so, too
        return r".*(attention\.self\.key|intermediate\.dense|layer\.\d+\.output\.dense)"
    return found


def with_peft(model: nn.Module, config: Any) -> nn.Module:
    wrapped: nn.Module = peft.get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if any(part in name for part in HEADS):
            parameter.requires_grad_(True)
    return wrapped


def their_name(name: str, new: dict[str, str]) -> str:
    layer, _, last = name.rpartition(".")
    return f"base_model.model.{layer}.{new.get(last, last)}"


def assert_same_behaviour(
    ours: nn.Module, theirs: nn.Module, inputs: dict[str, Tensor], new: dict[str, str] = NEW
) -> None:
    """Copy our trainable values into theirs, then compare logits and every gradient."""
    mine = {their_name(n, new): p for n, p in ours.named_parameters() if p.requires_grad}
    yours = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    assert mine.keys() == yours.keys()
    with torch.no_grad():
        for name, parameter in yours.items():
            parameter.copy_(mine[name].reshape(parameter.shape))
    found = []
    for model in (ours, theirs):
        torch.manual_seed(9)  # dropout draws the same
        output = model(**inputs)
        output.loss.backward()
        found.append(output.logits.detach())
    scale = max(1.0, float(found[1].abs().max()))
    torch.testing.assert_close(found[0] / scale, found[1] / scale, atol=1e-5, rtol=1e-5)
    for name, parameter in yours.items():
        assert parameter.grad is not None and mine[name].grad is not None
        scale = max(1.0, float(parameter.grad.abs().max()))
        gradient = mine[name].grad.reshape(parameter.shape)
        torch.testing.assert_close(gradient / scale, parameter.grad / scale, atol=1e-5, rtol=1e-5)
    inside = [p for n, p in mine.items() if not any(part in n for part in HEADS)]
    assert min(float(p.grad.abs().max()) for p in inside if p.grad is not None) > 1e-7


every_architecture = pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (LoRA, {"dropout": 0.3}),
        (LoRA, {"scaling": "rank_stabilized"}),
        (DoRA, {}),
        (DoRA, {"dropout": 0.3, "scaling": "rank_stabilized"}),
    ],
    ids=["lora-dropout", "rslora", "dora", "dora-dropout"],
)
@every_architecture
def test_lora_and_dora(architecture: str, method: Any, options: dict[str, Any]) -> None:
    plain = tiny(architecture, seed=10)
    config = peft.LoraConfig(
        r=3,
        lora_alpha=12.0,
        target_modules=targets_of(architecture),
        use_dora=method is DoRA,
        use_rslora="scaling" in options,
        lora_dropout=options.get("dropout", 0.0),
    )
    theirs = with_peft(copy.deepcopy(plain), config).train()
    ours = scatter(method(rank=3, alpha=12.0, targets=TARGETS, **options).apply(plain))
    assert_same_behaviour(ours, theirs, batch(architecture))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@every_architecture
def test_vera(architecture: str, dropout: float) -> None:
    """A and B aren't copied: both draw the same from one seed."""
    plain = tiny(architecture, seed=11)
    config = peft.VeraConfig(
        r=6, target_modules=targets_of(architecture), projection_prng_key=3, vera_dropout=dropout
    )
    theirs = with_peft(copy.deepcopy(plain), config).train()
    ours = VeRA(rank=6, targets=TARGETS, projection_seed=3, dropout=dropout).apply(plain)
    at_start = {n: p.detach().clone() for n, p in ours.named_parameters() if "vera_" in n}
    reference = dict(theirs.named_parameters())
    assert all(torch.equal(p, reference[their_name(n, NEW)]) for n, p in at_start.items())
    assert_same_behaviour(scatter(ours), theirs, batch(architecture))


@pytest.mark.parametrize("alpha", [12.0, 3.0])
def test_pissa(alpha: float) -> None:
    """What A, B and the rest are at the start; signs of singular vectors are free, B A isn't."""
    plain = tiny("distilbert", seed=12)
    config = peft.LoraConfig(r=3, lora_alpha=alpha, target_modules=["k_lin"], init_lora_weights="pissa")
    theirs = dict(with_peft(copy.deepcopy(plain), config).named_parameters())
    ours = dict(PiSSA(rank=3, alpha=alpha, targets=("attention.key",)).apply(plain).named_parameters())
    for index in range(2):
        layer = f"distilbert.transformer.layer.{index}.attention.k_lin"
        there = f"base_model.model.{layer}"
        a, b, rest = (ours[f"{layer}.{name}"] for name in ("lora_A", "lora_B", "weight"))
        their_a, their_b = (theirs[f"{there}.lora_{letter}.default.weight"] for letter in "AB")
        torch.testing.assert_close(b @ a, their_b @ their_a, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rest, theirs[f"{there}.base_layer.weight"], atol=1e-5, rtol=1e-5)
        # Both have the root of the singular values, so their rows and columns are as long.
        torch.testing.assert_close(a.norm(dim=1), their_a.norm(dim=1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(b.norm(dim=0), their_b.norm(dim=0), atol=1e-5, rtol=1e-5)


def adalora_pair(architecture: str, **schedule: int) -> tuple[AdaLoRA, nn.Module, Any]:
    plain = tiny(architecture, seed=13)
    steps = {"tinit": "initial_steps", "tfinal": "final_steps", "deltaT": "interval_steps"}
    config = peft.AdaLoraConfig(
        init_r=5,
        target_r=2,
        lora_alpha=12,
        orth_reg_weight=0.3,
        beta1=0.7,
        beta2=0.8,
        total_step=30,
        target_modules=targets_of(architecture),
        **schedule,
    )
    theirs = with_peft(copy.deepcopy(plain), config)
    method = AdaLoRA(
        initial_rank=5,
        target_rank=2,
        alpha=12.0,
        orthogonality_weight=0.3,
        beta1=0.7,
        beta2=0.8,
        targets=TARGETS,
        **{steps[name]: value for name, value in schedule.items()},  # type: ignore[arg-type]
    )
    return method, method.apply(plain), theirs


@every_architecture
def test_adalora_forward_and_backward(architecture: str) -> None:
    method, ours, theirs = adalora_pair(architecture)
    assert_same_behaviour(scatter(ours), theirs, batch(architecture), NEW | IN_ADALORA)
    plain = ours(**batch(architecture)).loss
    with_term = theirs.base_model(**batch(architecture)).loss  # without a task type the outer one has no term
    torch.testing.assert_close(plain + method.loss_term(ours), with_term, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [{}, {"tinit": 4, "tfinal": 8, "deltaT": 1}, {"tinit": 2, "tfinal": 5, "deltaT": 4}],
    ids=["at once", "each step", "each fourth"],
)
def test_adalora_prunes_the_same_ranks_for_30_steps(schedule: dict[str, int]) -> None:
    method, ours, theirs = adalora_pair("bert", **schedule)
    mine = {their_name(n, NEW | IN_ADALORA): p for n, p in ours.named_parameters() if p.requires_grad}
    yours = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    assert mine.keys() == yours.keys()
    with torch.no_grad():
        for name, parameter in yours.items():
            mine[name].copy_(parameter.reshape(mine[name].shape))
    optimizers = [torch.optim.SGD(p.values(), lr=0.05) for p in (mine, yours)]
    counts = []
    for step in range(30):
        inputs = batch("bert", seed=step)
        (ours(**inputs).loss + method.loss_term(ours)).backward()
        theirs.base_model(**inputs).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        method.after_step(ours, step, 30)
        theirs.base_model.update_and_allocate(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        values = [name for name in mine if "lora_E" in name]
        for name in values:
            expected = yours[name].flatten()
            assert torch.equal(mine[name] == 0, expected == 0), (step, name)
            torch.testing.assert_close(mine[name], expected, atol=1e-5, rtol=1e-3)
        counts.append(sum(int(mine[name].count_nonzero()) for name in values))
    assert len(values) == 6  # of two layers
    assert counts[schedule.get("tinit", 0)] == 30
    assert counts[-1] == 12
