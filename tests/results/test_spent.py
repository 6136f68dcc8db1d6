"""What a full phase's seconds were spent on, added up by hand."""

from __future__ import annotations

from typing import Any

import pytest

from peprof.results.record import RunRecord
from peprof.results.spent import time_spent
from tests.results.factory import make_full, make_record


def record(**full: Any) -> RunRecord:
    return make_record("lora", full=make_full(train_time_s=90.0).model_copy(update=full))


def test_the_parts_add_up_to_the_wall_time() -> None:
    # 90 s of steps and 4 s of evaluations, as the factory has them
    spent = time_spent(record(wall_time_s=100.0, waiting_time_s=0.5, checkpoint_time_s=2.0))
    assert spent is not None
    assert (spent.steps_s, spent.evaluation_s, spent.checkpoint_s) == (90.0, 4.0, 2.0)
    assert (spent.waiting_s, spent.other_s, spent.setup_s) == (0.5, 3.5, 1.5)
    assert spent.steps_share == 0.9
    assert spent.steps_share_of_training == pytest.approx(90 / 96)


def test_what_a_device_did_while_the_host_waited_is_counted_once() -> None:
    spent = time_spent(record(wall_time_s=97.0, waiting_time_s=30.0, checkpoint_time_s=None))
    assert spent is not None
    assert (spent.waiting_s, spent.other_s, spent.checkpoint_s) == (3.0, 0.0, 0.0)


def test_clocks_that_differ_a_little_give_no_negative_rest() -> None:
    spent = time_spent(record(wall_time_s=93.9, waiting_time_s=0.1))
    assert spent is not None
    assert (spent.waiting_s, spent.other_s) == (0.0, 0.0)


def test_without_a_full_phase_or_from_before_it_was_kept_nothing_is_said() -> None:
    assert time_spent(make_record("lora")) is None
    assert time_spent(record()) is None
