"""Leaderboards for the tests of what shows them."""

from __future__ import annotations

from peprof.results.comparison import Leaderboard, leaderboards
from tests.results.factory import DATA_FACTS, make_dead_record, make_full, make_record, make_short

ROWS = [
    # label, trainable, peak MiB, step ms, correct of 872 by seed, train seconds
    ("full", (66_362_880, 592_130), 1024, 210, (790, 795, 788), 2520),
    ("lora", (147_456, 592_130), 700, 170, (789, 780, 785), 2040),
    ("ia3", (27_648, 592_130), 930, 165, (786, 780, 770), 2000),
    ("lst", (1_800_000, 592_130), 380, 120, (740, 745, 738), 1500),
    ("head", (0, 592_130), 210, 60, (700, 702, 698), 800),
]


def whole() -> list[Leaderboard]:
    """A table after three seeds, in which one method ran out of memory."""
    records = [
        make_record(
            label,
            seed=seed,
            trainable=trainable,
            short=make_short(peak_mib=peak, step_ms=(ms,) * 5),
            full=make_full(correct=correct, train_time_s=seconds),
        )
        for label, trainable, peak, ms, corrects, seconds in ROWS
        for seed, correct in enumerate(corrects)
    ]
    hint = "Take a smaller batch: --set train.batch_size=8"
    return leaderboards([*records, *(make_dead_record("bitfit", seed=seed, hint=hint) for seed in (0, 1))])


def offline() -> list[Leaderboard]:
    """Two tables of short phases that were run offline and cut short."""
    return leaderboards(
        make_record(
            label,
            batch_size=size,
            phases=("short",),
            weights="random",
            data=DATA_FACTS.model_copy(update={"synthetic": True}),
            offline_reason="huggingface.co can't be reached",
            steps=30,
            short=make_short(
                peak_mib=peak * size / 16, step_ms=(ms,) * steps, batch_size=size, stopped_by=stopped_by
            ),
        )
        for size in (16, 32)
        for label, peak, ms, steps, stopped_by in [
            ("full", 900, 1200, 7, "max_seconds"),
            ("lora", 600, 950, 9, "max_seconds"),
            ("head", 150, 350, 30, "steps"),
        ]
    )
