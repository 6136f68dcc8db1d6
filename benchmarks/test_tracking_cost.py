"""What it costs to follow a training with TensorBoard: all of it lies between steps, none within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peprof.results.record import TrainingHistory
from peprof.tracking.following import Following
from tests.results.factory import make_spec
from tests.tracking.reading import curves

STEPS = 1000
AT_ONCE = 20
LIMIT_S = 1.0
"""Of 1,000 steps with all that is known of each; 0.1 s where nothing else runs."""

SERIES = (0.123,) * AT_ONCE
HISTORY = TrainingHistory(
    loss=SERIES, learning_rate=SERIES, step_time_s=SERIES, forward_s=SERIES, backward_s=SERIES, clip_s=SERIES,
    optimizer_s=SERIES, gradient_norm=SERIES, samples=(32,) * AT_ONCE, real_tokens=(500,) * AT_ONCE,
)  # fmt: skip


def test_a_thousand_steps(benchmark: Any, tmp_path: Path) -> None:
    def fresh() -> tuple[tuple[Following], dict[str, Any]]:
        warnings: list[str] = []
        following = Following(make_spec(), tmp_path, ["tensorboard"], warnings.append)
        following.open()
        assert not warnings
        return (following,), {}

    def follow(following: Following) -> None:
        for first in range(1, STEPS, AT_ONCE):
            following.steps(first, HISTORY)

    benchmark.pedantic(follow, setup=fresh, rounds=5, warmup_rounds=1)
    assert len(curves(tmp_path / "tensorboard")["train/loss"]) == STEPS
    assert benchmark.stats.stats.median < LIMIT_S
