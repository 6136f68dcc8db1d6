"""Bytes by formula, against published bits per weight, torch's optimizers, and torch's autocast."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from peprof.estimation.quantised import (
    STATE_TABLES_BYTES,
    adam_scratch_bytes,
    autocast_weight_bytes,
    int8_bytes,
    nf4_bytes,
    state_bytes,
)

MANY = 2**30


def bits(nbytes: int, elements: int = MANY) -> float:
    return 8 * nbytes / elements


def test_nf4_has_the_bits_a_weight_of_the_qlora_paper() -> None:
    """Section 3: 32 / 64 = 0.5 bits for the maxima, or 8 / 64 + 32 / (64 x 256) = 0.127 of them doubly."""
    assert bits(nf4_bytes(MANY, double=False)) == pytest.approx(4 + 32 / 64, abs=1e-5)
    assert bits(nf4_bytes(MANY)) == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-4)
    # Double quantisation saves 0.373 bits a weight: about 3 GB of a model of 65 billion, as the paper says.
    saved = nf4_bytes(65 * 10**9, double=False) - nf4_bytes(65 * 10**9)
    assert 8 * saved / (65 * 10**9) == pytest.approx(0.373, abs=1e-3)
    assert saved == pytest.approx(3.03e9, rel=0.01)


def test_blocks_that_are_not_full_count_whole() -> None:
    assert nf4_bytes(65, double=False) == 33 + 64 + 2 * 4
    assert nf4_bytes(65) == 33 + 64 + 2 + 4 + 4 + 1024
    assert nf4_bytes(64 * 257) == 32 * 257 + 64 + 257 + 2 * 4 + 4 + 1024


def test_int8_has_a_maximum_for_each_row() -> None:
    assert int8_bytes(3, 5) == 15 + 12


def test_adams_states_in_8_bits_are_a_quarter_and_one_64th() -> None:
    """The paper's 8-bit Adam saves 6 of Adam's 8 bytes a parameter, less the maxima."""
    assert state_bytes(2**20) == 8 * 2**20
    assert state_bytes(2**20, bits=8, block=2048) == 2 * 2**20 + 2 * 4 * 512
    assert state_bytes(2**20, bits=8) == 2 * 2**20 + 2 * 4 * 4096
    assert state_bytes(4096, bits=8) == 2 * (4096 + 16 * 4)
    assert state_bytes(4095, bits=8) == state_bytes(4095) == 8 * 4095
    assert state_bytes(5000, bits=8, states=1) == 5000 + 20 * 4
    assert STATE_TABLES_BYTES == 2048


class Peak(TorchDispatchMode):
    """The most bytes of new storages at one time."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def _gone(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        for item in tree_iter(done):
            if isinstance(item, torch.Tensor) and item.untyped_storage()._cdata not in self._known:
                storage = item.untyped_storage()
                self._known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
                self.peak = max(self.peak, self.live)
        return done


@pytest.mark.parametrize(
    ("device", "implementation"),  # torch has no fused optimizers on meta
    [
        ("cpu", "foreach"),
        ("cpu", "for-loop"),
        ("cpu", "fused"),
        ("meta", "foreach"),
        ("meta", "for-loop"),
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("lengths", [(1000, 3000, 2000), (5000, 10), (7,), (100, 900, 900)])
def test_an_optimizers_step_needs_what_the_formula_says(
    device: str, kind: Any, decay: float, implementation: Any, lengths: tuple[int, ...]
) -> None:
    parameters = [nn.Parameter(torch.zeros(length, device=device)) for length in lengths]
    optimizer = kind(
        parameters, weight_decay=decay, foreach=implementation == "foreach", fused=implementation == "fused"
    )
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        states = [
            v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)
        ]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        with Peak([*parameters, *gradients, *states]) as found:
            optimizer.step()
    expected = adam_scratch_bytes(
        [4 * length for length in lengths],
        implementation,
        decays_gradient=decay > 0 and kind is torch.optim.Adam,
    )
    assert found.peak == expected


class Casts(TorchDispatchMode):
    """The storages of other types that operators make of weights, and those alive at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.casts: list[weakref.ref[torch.UntypedStorage]] = []
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype != done.dtype:
            self.bytes.append(done.untyped_storage().nbytes())
            self.casts.append(weakref.ref(done.untyped_storage()))
        return done

    def alive(self) -> int:
        return sum(storage.nbytes() for ref in self.casts if (storage := ref()) is not None)


def test_autocast_keeps_copies_of_trained_weights_until_it_ends() -> None:
    layer = nn.Linear(8, 4)
    given = torch.ones(2, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with Casts() as casts:
            for _ in range(3):
                layer(given)
        assert sorted(casts.bytes) == [2 * 4, 2 * 32]  # once, not three times
        assert casts.alive() == autocast_weight_bytes([32, 4])
    assert casts.alive() == 0


def test_autocast_makes_copies_of_frozen_weights_anew() -> None:
    layer = nn.Linear(8, 4).requires_grad_(False)
    given = torch.ones(2, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), Casts() as casts:
        for _ in range(3):
            layer(given)
        assert sorted(casts.bytes) == [8] * 3 + [64] * 3
        assert casts.alive() == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_on_meta_autocast_casts_nothing(device: str) -> None:
    """So a step on ``meta`` under torch's own autocast has the bytes of one without.

    For ``cuda`` it switches itself off where there is no GPU, with a warning; for ``cpu`` it is on, but looks
    at tensors of its own device only.
    """
    layer = nn.Linear(8, 4, device="meta")
    with torch.autocast(device, dtype=torch.bfloat16), Casts() as casts:
        done = layer(torch.empty(2, 8, device="meta"))
    assert done.dtype == torch.float32
    assert casts.bytes == []
