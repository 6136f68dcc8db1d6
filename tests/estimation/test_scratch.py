"""What attention's backward has of its own in a simulated pool, against its blocks worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig

from peprof.estimation import tracing
from peprof.estimation.allocator_simulation import AllocationEvent, simulate
from peprof.estimation.attention_kernels import Kernel
from peprof.estimation.building import known_data
from peprof.estimation.estimating import estimate_run, reserved_bytes
from peprof.estimation.gpu_memory import memory_of
from peprof.estimation.own_run import _recorded
from peprof.estimation.pool_here import PoolHere
from peprof.estimation.scratch import UNTOLD, Scratch, with_scratch
from peprof.profiler.ledger import Ledger
from peprof.results.estimates import Estimate
from peprof.running.estimate_pass import OwnRun
from tests.estimation.small_models import spec_of

MIB = 2**20
HEADS, LENGTH, BATCH = 64, 512, 32
Estimated = Callable[..., Estimate]


@pytest.fixture
def estimated(tmp_path: Path) -> Estimated:
    """A step of a Llama of one layer with heads of 8, which flash rounds up to 32 in its backward."""

    def estimate(
        *, key_heads: int = HEADS, gpu: str = "A100 80GB", dtype: str = "bfloat16", padded: bool = False
    ) -> Estimate:
        LlamaConfig(
            vocab_size=100, hidden_size=64, head_dim=8, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=HEADS, num_key_value_heads=key_heads, max_position_embeddings=LENGTH,
            pad_token_id=0,
        ).save_pretrained(tmp_path / "llama-lm")  # fmt: skip
        spec = spec_of(
            tmp_path, "llama-lm", "full",
            model__dtype=dtype, data__max_length=LENGTH, train__batch_size=BATCH,
        )  # fmt: skip
        known, memory = known_data(spec.data, source="a suite"), memory_of(gpu)
        found = estimate_run(spec, known, "cuda", source="a suite", events=True, padded=padded, gpu=memory)
        assert found.problem is None
        return found

    return estimate


@pytest.mark.parametrize(("key_heads", "more"), [(HEADS, 128 * MIB), (HEADS // 4, (128 + 16 + 16) * MIB)])
def test_where_the_scratch_is_the_peak_a_pool_grows_by_it(
    estimated: Estimated, key_heads: int, more: int
) -> None:
    """``mha_bwd`` of flash_api.cpp: ``dq_accum`` has 32 x 512 x 64 x 32 numbers of 4 bytes, 128 MiB; where
    four heads share keys, ``dk_expanded`` and ``dv_expanded`` have 32 x 512 x 64 x 8 of 2 bytes, 16 MiB each.
    They get segments of their own, as nothing that large is free; a sum a row, 4 MiB, finds room.
    """
    found = estimated(key_heads=key_heads)
    assert found.events is not None and found.reserved_bytes is not None
    assert found.reserved_bytes - reserved_bytes(found.events, memory_of("A100 80GB")) == more
    assert not found.assumptions


def test_the_ledgers_tensors_stay_what_they_are(
    estimated: Estimated, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(Ledger):
        scratch: tuple[Scratch, ...] = ()
        untold: frozenset[Kernel] = frozenset()

    found = estimated()
    monkeypatch.setattr(tracing, "ScratchLedger", Plain)
    plain = estimated()
    assert (found.profile, found.events) == (plain.profile, plain.events)
    assert found.peak_bytes == plain.peak_bytes is not None
    assert found.reserved_bytes != plain.reserved_bytes


def test_its_blocks_are_born_after_the_operators_results_and_die_in_its_phase() -> None:
    def event(number: int, nbytes: int, phase: str) -> AllocationEvent:
        return AllocationEvent(number, nbytes * MIB, phase)

    step = [event(1, 10, "forward"), event(2, 12, "backward"), event(1, -10, "backward"),
            event(2, -12, "optimizer")]  # fmt: skip
    found = with_scratch(step, [Scratch(place=2, blocks=(14 * MIB, 16 * MIB))], first=-3)
    assert found == [
        *step[:2],
        event(-3, 14, "backward"), event(-4, 16, "backward"),
        event(-4, -16, "backward"), event(-3, -14, "backward"),
        *step[2:],
    ]  # fmt: skip
    assert simulate(step).peak.reserved_bytes == 22 * MIB
    peak = simulate(found).peak
    assert (peak.requested_bytes, peak.reserved_bytes) == (52 * MIB, 52 * MIB)
    assert simulate(found).phases["optimizer"].allocated_bytes == 12 * MIB
    at_the_end = with_scratch(step[:2], [Scratch(place=2, blocks=(MIB,))] * 2, first=-1)
    assert [item.allocation for item in at_the_end] == [1, 2, -1, -1, -2, -2]
    assert with_scratch(step, [], first=-3) == step


@pytest.mark.parametrize(
    ("gpu", "dtype", "padded", "untold"),
    [
        ("A100 80GB", "bfloat16", False, None),
        ("A100 80GB", "bfloat16", True, "efficient"),
        ("A100 80GB", "float32", False, "efficient"),
        ("H100", "bfloat16", False, "cudnn"),
        ("T4", "bfloat16", False, None),  # math, whose operators are all seen
    ],
)
def test_what_is_not_counted_is_said_and_its_pool_is_not_called_simulated(
    estimated: Estimated, gpu: str, dtype: str, padded: bool, untold: Kernel | None
) -> None:
    found = estimated(gpu=gpu, dtype=dtype, padded=padded)
    assert found.assumptions == ((UNTOLD[untold],) if untold is not None else ())
    pool = PoolHere(gpu=memory_of(gpu))
    recorded = _recorded(
        OwnRun(spec=found.spec, source="a suite", kind="cuda"), found, pool, found.assumptions
    )
    assert recorded.standing["tensors"] == "exact"
    assert recorded.standing["reserved_bytes"] == ("simulated" if untold is None else "assumed")
