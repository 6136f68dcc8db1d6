"""What is kept for backward, against formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from peprof.profiler.profile import profile_step
from tests.profiler.steps import MlpStep
from tests.profiler.transformer import SumStep, stack

F32 = 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("b", "length", "d", "h", "f", "n"), [(2, 5, 8, 2, 24, 1), (3, 7, 16, 4, 40, 3)])
def test_a_transformer_keeps_what_the_formula_says(
    b: int, length: int, d: int, h: int, f: int, n: int, device: str
) -> None:
    """n blocks of width d, h heads and feed-forward width f, on b rows of the given length, N = b * length.

    A block keeps: its input N d, for the first norm (the first block's is the batch, which is left out);
    of each norm the mean and the reciprocal deviation of each position, 4 N; what goes into query, key and
    value, N d in all; query, key and value split by heads, 3 N d; the attention map b h length^2, once for
    softmax and the product; what goes into the output projection, N d; the sum after attention N d; the
    second norm's output N d; what goes into GELU and what comes out, 2 N f.
    """
    model = stack(n, d, h, f).to(device)
    batch = torch.randn(b, length, d, device=device)
    step = SumStep(model, torch.optim.SGD(model.parameters(), foreach=True))
    found = profile_step(model, batch, step).activations

    rows, maps = b * length, b * h * length**2
    assert found.total_bytes == F32 * (
        n * (7 * rows * d + maps + 2 * rows * f + 4 * rows) + (n - 1) * rows * d
    )
    assert {item.dtype for item in found.saved} == {"float32"}
    for index in range(n):
        assert found.by_module()[f"{index}.attention.out"] == F32 * rows * d
        assert found.by_module()[f"{index}.attention"] == F32 * (3 * rows * d + maps)
        assert found.by_module()[f"{index}.attention.query"] == F32 * rows * d, "shared with key and value"
        assert f"{index}.attention.key" not in found.by_module()
        assert found.by_module()[f"{index}.norm2"] == F32 * (rows * d + 2 * rows)
        assert found.by_module()[f"{index}.down"] == F32 * rows * f
    operators = found.by_operator()
    assert operators["aten._softmax"] == F32 * n * maps
    assert operators["aten.gelu"] == F32 * n * rows * f, "its input; its output is the next layer's"
    assert operators["aten.native_layer_norm"] == F32 * ((2 * n - 1) * rows * d + 4 * n * rows)
    shapes = {item.shape for item in found.saved if item.operator == "aten._softmax"}
    assert shapes == {(b, h, length, length)}


def test_frozen_layers_that_lead_to_nothing_trained_keep_nothing() -> None:
    """A LayerNorm, GELU or softmax below the lowest trained layer needs no gradient at its input."""
    model = stack(2, 8, 2, 16)
    model[0].requires_grad_(False)
    step = SumStep(model, torch.optim.SGD(model.parameters()))
    found = profile_step(model, torch.randn(2, 3, 8), step)
    assert not [module for module in found.activations.by_module() if module.startswith("0")]
    frozen = sum(p.numel() for p in model[0].parameters())
    assert found.peak.categories["parameters.frozen"] == F32 * frozen


def test_each_storage_counts_once_however_often_and_in_whichever_view_it_is_saved() -> None:
    """square saves x; the transposed view and the slice are the same storage."""

    class Reuse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.scale
            return y.square().sum() + (y.t() @ y).sum() + y[:2].square().sum() + y.view(-1).square().sum()

    model = Reuse()
    found = profile_step(model, torch.randn(6, 4), optimizers=torch.optim.SGD(model.parameters())).activations
    assert [(item.nbytes, item.shape) for item in found.saved] == [(F32 * 24, (6, 4))]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_keeps_inputs_and_recomputes_the_rest(use_reentrant: bool, device: str) -> None:
    """Each of n blocks keeps its input, N d; the first one's is the batch. Each recomputes all the rest."""
    n, b, length, d, h, f = 3, 2, 5, 8, 2, 24

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = stack(n, d, h, f)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=use_reentrant)
            return x

    model = Checkpointed().to(device)
    batch = torch.randn(
        b, length, d, device=device, requires_grad=True
    )  # without it, reentrant has no gradient
    step = SumStep(model, torch.optim.SGD(model.parameters(), foreach=True))
    profile = profile_step(model, batch, step)
    found = profile.activations

    rows = b * length
    per_block = 7 * rows * d + b * h * length**2 + 2 * rows * f + 4 * rows
    assert found.total_bytes == F32 * (n - 1) * rows * d
    assert {item.operator for item in found.saved} == {"checkpoint"}
    assert found.recomputed_bytes == F32 * n * per_block
    assert [region.module for region in found.regions] == ["blocks.2", "blocks.1", "blocks.0"], (
        "backward's order"
    )
    assert {region.recomputed_bytes for region in found.regions} == {F32 * per_block}
    assert [region.saved_bytes for region in found.regions] == [F32 * rows * d, F32 * rows * d, 0]
    at_peak = profile.phase("backward").peak.categories
    assert 0 < at_peak["activations.recomputed"] <= F32 * per_block, "one block at a time"
    assert "unattributed" not in profile.peak.categories


def test_gradient_accumulation_keeps_one_forward_at_a_time() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters())

    def step(batch: torch.Tensor) -> None:
        for part in batch.chunk(2):
            model(part).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    found = profile_step(model, torch.randn(6, 8), step)
    assert found.activations.total_bytes == F32 * 3 * 16, "ReLU's output of three rows"
    assert [phase.phase for phase in found.phases] == ["forward", "backward", "optimizer", "other"]
    parameters = 8 * 16 + 16 + 16 * 4 + 4
    assert found.phase("optimizer").peak.categories["gradients"] == F32 * parameters


def test_weights_cast_by_autocast_are_a_copy_of_parameters_and_no_activation() -> None:
    """Autocast casts a weight once and keeps it; saved for backward, but a parameter all the same."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters())

    def step(batch: torch.Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch).float().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found = profile_step(model, torch.randn(5, 8), step)
    bf16 = 2
    # The second layer's input is ReLU's output; the first one's, a copy of the batch, belongs to the inputs.
    assert found.activations.total_bytes == bf16 * 5 * 16
    at_peak = found.phase("forward").peak
    assert at_peak.categories["parameters.cast"] == bf16 * (8 * 16 + 16 + 16 * 4 + 4)
    assert at_peak.categories["inputs"] == F32 * 5 * 8 + bf16 * 5 * 8


def test_an_activation_belongs_to_the_module_that_saves_it_and_says_who_made_it() -> None:
    step = MlpStep(4, 8, 2, adam=False)
    (relu, out) = profile_step(step.model, torch.randn(3, 4), step).activations.saved
    assert (relu.module, relu.operator, relu.made_in, relu.made_by) == ("1", "aten.relu", "1", "aten.relu")
    # MlpStep squares the output, outside of the model.
    assert (out.module, out.operator, out.made_in, out.made_by) == (
        None,
        "aten.pow.Tensor_Scalar",
        "2",
        "aten.addmm",
    )
    assert (out.shape, out.dtype, out.nbytes) == ((3, 2), "float32", F32 * 6)
